"""Layers whose parts read normed states: of encoders, and of decoders that read an encoded history."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from .attention import FeedForward, MultiHeadAttention

KeysValues = tuple[torch.Tensor, torch.Tensor]  # (B, heads, T, D) each


class PreNormLayer(nn.Module):
    """
    Attention, attention to a history, if one is read, and a feed-forward part, each with a norm before it and its
    residual.

    Args:
        config: with `hidden_size`, `intermediate_size`, `num_attention_heads`, `hidden_act`, `dropout`,
            `attention_dropout`.
        norm: makes a norm of `hidden_size`.
        reads_history: whether it is a decoder's.
        projection_bias: whether queries, keys and values have biases.
    """

    def __init__(
        self, config: Any, norm: Callable[[], nn.Module], reads_history: bool = False, projection_bias: bool = True
    ):
        super().__init__()
        sizes = (config.hidden_size, config.num_attention_heads, config.attention_dropout, projection_bias)
        self.attention_norm, self.attention = norm(), MultiHeadAttention(*sizes)
        if reads_history:
            self.cross_norm, self.cross_attention = norm(), MultiHeadAttention(*sizes)
        self.feed_forward_norm = norm()
        self.feed_forward = FeedForward(config.hidden_size, config.intermediate_size, config.hidden_act)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        states: torch.Tensor,
        allowed: torch.Tensor | None,
        history: KeysValues | None = None,
        is_item: torch.Tensor | None = None,
        keep: Callable[..., KeysValues] | None = None,
    ) -> torch.Tensor:
        """
        Args:
            states: (R, S, d).
            allowed: boolean, broadcastable to (R, heads, S, S), True = attended; `None` for all.
            history (*optional*): keys and values of B histories; R is a multiple of B.
            is_item (*optional*): boolean, broadcastable to (B, heads, S, T), which of their slots are read.
            keep (*optional*): takes the keys and values of `states`, and gives those that are read.

        Returns:
            (R, S, d)
        """
        normed = self.attention_norm(states)
        keys, values = self.attention.keys_values(normed)
        if keep is not None:
            keys, values = keep(keys, values)
        states = states + self.dropout(self.attention(normed, keys, values, allowed))
        if history is not None:
            states = states + self.dropout(self.cross_attention(self.cross_norm(states), *history, is_item))
        return states + self.dropout(self.feed_forward(self.feed_forward_norm(states)))
