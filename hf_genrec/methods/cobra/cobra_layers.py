"""What COBRA's decoder is made of: its layers, and the dense vectors of items."""

import numpy as np
import torch
from torch import nn

from ...catalogue.item_vectors import without_rows
from ...catalogue.transformers_bridge import ACT2FN
from ...decoding.attention import FeedForward, MultiHeadAttention
from ...decoding.shared_keys_values import SharedKeysValues, keep_record
from .configuration_cobra import CobraConfig


class CobraLayer(nn.Module):
    """
    Causal attention and a feed-forward part, with norms in front of them or, as the community's code, behind. With
    `config.shared_kv_pool_size` all keys and values are from a pool.
    """

    def __init__(self, config: CobraConfig):
        super().__init__()
        size, eps = config.hidden_size, config.layer_norm_eps
        self.attention = MultiHeadAttention(size, config.num_attention_heads, config.attention_dropout)
        self.shared: nn.Module | None = None
        if config.shared_kv_pool_size:
            self.shared = SharedKeysValues(size, size, config.shared_kv_user_dim, config.shared_kv_pool_size)
            self.attention.key = self.attention.value = None  # type: ignore[assignment]
        self.attention_norm = nn.LayerNorm(size, eps)
        self.feed_forward = FeedForward(size, config.intermediate_size, config.hidden_act)
        self.feed_forward_norm = nn.LayerNorm(size, eps)
        self.dropout = nn.Dropout(config.dropout)
        self.norm_first = config.norm_first
        if not config.norm_first:
            self.empty_memory = nn.Parameter(torch.zeros(size))
            self.memory_norm = nn.LayerNorm(size, eps)

    def forward(
        self, states: torch.Tensor, allowed: torch.Tensor, cache, index: int, is_token: torch.Tensor | None
    ) -> torch.Tensor:
        """
        Args:
            states: (B, T, d).
            allowed: which slots each may attend to, broadcastable to (B, heads, T, slots).
            cache: keys and values so far, or `None`; the layer's are those of `index`.
            is_token: (B, T) boolean, False for padding; needed with a pool.
        """
        reading = self.attention_norm(states) if self.norm_first else states
        if self.shared is None:
            keys, values = self.attention.keys_values(reading)
        else:
            keys, values, record = self.shared(reading, is_token)
            keep_record(cache, index, record)
            keys, values = self.attention.heads(keys), self.attention.heads(values)
        if cache is not None:
            keys, values = cache.update(keys, values, index)
        states = states + self.dropout(self.attention(reading, keys, values, allowed))
        if self.norm_first:
            return states + self.dropout(self.feed_forward(self.feed_forward_norm(states)))
        states = self.memory_norm(self.attention_norm(states) + self.empty_memory)
        return self.feed_forward_norm(states + self.dropout(self.feed_forward(states)))


class TextLinear(nn.Linear):
    """
    Starts with a standard deviation of 1 / sqrt(inputs): through two layers of the usual 0.02, item vectors would start
    next to nothing.
    """


class DenseItems(nn.Module):
    """
    The dense vectors of items: a small network reads the text embeddings, which are fixed and saved with the weights.
    An item may have a learned vector of its own beside.
    """

    text: torch.Tensor  # (N, D), NaN until they are set

    def __init__(self, config: CobraConfig):
        super().__init__()
        self.register_buffer("text", torch.full((config.num_items, config.item_vector_size), float("nan")))
        self.up = TextLinear(config.item_vector_size, config.hidden_size)
        self.down = TextLinear(config.hidden_size, config.hidden_size)
        self.activation = ACT2FN[config.hidden_act]
        self.own = nn.Embedding(config.num_items, config.hidden_size) if config.item_embeddings else None
        self._known_to_be_set = False

    def forward(self, rows: torch.Tensor | None = None) -> torch.Tensor:
        """
        Dense vectors (n, d) of catalogue rows (n,), by default of all.

        Raises:
            ValueError: if the texts are not there.
        """
        if not (self._known_to_be_set or torch.compiler.is_compiling()):
            if not self.text.isfinite().all():
                raise ValueError("The model has no text embeddings: call set_item_vectors with an array (N, D) first.")
            self._known_to_be_set = True
        text = self.text if rows is None else self.text[rows]
        vectors = self.down(self.activation(self.up(text)))
        if self.own is None:
            return vectors
        return vectors + (self.own.weight if rows is None else self.own(rows))

    def add(self, text: torch.Tensor) -> None:
        """Items at the end, with text embeddings (M, D) and no vector of their own."""
        self.text = torch.cat([self.text, text])
        if self.own is not None:
            self.own = _with_rows(self.own, nn.functional.pad(self.own.weight, (0, 0, 0, len(text))))

    def remove(self, rows: np.ndarray) -> None:
        """Items (M,) leave; those behind them move up."""
        self.text = without_rows(self.text, rows)
        if self.own is not None:
            self.own = _with_rows(self.own, without_rows(self.own.weight, rows))


def _with_rows(table: nn.Embedding, weight: torch.Tensor) -> nn.Embedding:
    return nn.Embedding.from_pretrained(weight.detach().clone(), freeze=not table.weight.requires_grad)
