"""Layers of the SASRec family: attention and a feed-forward part, each with its residual and then its layer norm."""

from typing import Any

import torch
from torch import nn

from .attention import FeedForward, MultiHeadAttention


def dropout(states: torch.Tensor, share: float, training: bool) -> torch.Tensor:
    """
    Dropout of a share of the numbers. A processor draws uniform numbers four times as fast as it draws the mask of
    torch's own dropout.
    """
    if not training or not 0 < share < 1 or states.device.type != "cpu":
        return nn.functional.dropout(states, share, training)
    kept = torch.rand_like(states, dtype=torch.float32).ge_(share).mul_(1 / (1 - share))
    return states * kept.to(states.dtype)


class PostNormAttention(MultiHeadAttention):
    """
    Multi-head attention with its residual and layer norm (post-norm).

    Args:
        config: with `hidden_size`, `num_attention_heads`, `attention_dropout`, `hidden_dropout`, `layer_norm_eps`.
    """

    def __init__(self, config: Any):
        super().__init__(config.hidden_size, config.num_attention_heads, config.attention_dropout)
        self.hidden_dropout = config.hidden_dropout
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def add(self, hidden: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
        """What follows the attention: dropout of what it adds, the residual, the norm."""
        return self.layer_norm(hidden + dropout(added, self.hidden_dropout, self.training))


class PostNormFeedForward(FeedForward):
    """
    Two linear layers with their residual and layer norm (post-norm).

    Args:
        config: with `hidden_size`, `intermediate_size`, `hidden_act`, `hidden_dropout`, `layer_norm_eps`.
    """

    def __init__(self, config: Any):
        super().__init__(config.hidden_size, config.intermediate_size, config.hidden_act)
        self.hidden_dropout = config.hidden_dropout
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.layer_norm(hidden + dropout(super().forward(hidden), self.hidden_dropout, self.training))


class PostNormLayer(nn.Module):
    """One layer that reads all positions at once."""

    def __init__(self, config: Any):
        super().__init__()
        self.attention = PostNormAttention(config)
        self.feed_forward = PostNormFeedForward(config)

    def forward(self, hidden: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
        """
        Args:
            hidden: (B, T, d)
            allowed: boolean, broadcastable to (B, heads, T, T), True = attended.

        Returns:
            (B, T, d)
        """
        attention = self.attention
        hidden = attention.add(hidden, attention(hidden, *attention.keys_values(hidden), allowed))
        return self.feed_forward(hidden)
