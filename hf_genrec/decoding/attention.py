"""What the layers of several models are made of: attention whose keys and values can be kept, and a feed-forward part.

Residuals, norms and dropout of what is added are the models' own: some stand before, some behind.
"""

import torch
from torch import nn

from ..catalogue.transformers_bridge import ACT2FN


def require_layer_settings(hidden_size: int, num_heads: int, hidden_act: str) -> None:
    """
    Raises:
        ValueError: for an activation that transformers does not have, or a width that the heads do not divide.
    """
    if hidden_act not in ACT2FN:
        raise ValueError(f"hidden_act={hidden_act!r}: name an activation of transformers, such as gelu.")
    if hidden_size % num_heads:
        raise ValueError(f"hidden_size={hidden_size} does not divide into {num_heads} heads: change one.")


class MultiHeadAttention(nn.Module):
    """Multi-head attention; its keys and values are made apart, so that they can be kept."""

    def __init__(self, hidden_size: int, num_heads: int, dropout: float, projection_bias: bool = True):
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout  # of the attention weights
        self.query = nn.Linear(hidden_size, hidden_size, bias=projection_bias)
        self.key = nn.Linear(hidden_size, hidden_size, bias=projection_bias)
        self.value = nn.Linear(hidden_size, hidden_size, bias=projection_bias)
        self.output = nn.Linear(hidden_size, hidden_size)

    def heads(self, states: torch.Tensor) -> torch.Tensor:
        """(B, n, d) -> (B, heads, n, D)"""
        return states.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def keys_values(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of states (B, n, d), each (B, heads, n, D)."""
        return self.heads(self.key(states)), self.heads(self.value(states))

    def forward(
        self, states: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, allowed: torch.Tensor | None
    ) -> torch.Tensor:
        """
        Args:
            states: (R, S, d), as many rows as `keys` or a multiple: row r reads the keys of r // (R / B).
            keys, values: (B, heads, T, D).
            allowed: boolean, broadcastable to (B, heads, S, T), True = attended; `None` for all.

        Returns:
            (R, S, d)
        """
        query = self.heads(self.query(states.reshape(keys.shape[0], -1, states.shape[-1])))
        read = nn.functional.scaled_dot_product_attention(
            query, keys, values, attn_mask=allowed, dropout_p=self.dropout if self.training else 0.0
        )
        return self.output(read.transpose(1, 2).reshape(states.shape))


class FeedForward(nn.Module):
    """Two linear layers around an activation."""

    def __init__(self, hidden_size: int, intermediate_size: int, activation: str):
        super().__init__()
        self.up = nn.Linear(hidden_size, intermediate_size)
        self.down = nn.Linear(intermediate_size, hidden_size)
        self.activation = ACT2FN[activation]

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.down(self.activation(self.up(states)))
