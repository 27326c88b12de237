"""What REG4Rec is made of: an encoder that reads one position per item, and a decoder over the codes chosen so far.

Both are pre-norm transformers. A *path* is an order of codes that the decoder reads. Several paths may belong to one
history: their rows stand one after the other, and they share its encoding and its cross-attention's keys and values.
"""

from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import EncoderDecoderCache

from ...decoding.code_set_encoding import CodeSetEncoding, code_sets_of_items
from ...decoding.pre_norm_layers import KeysValues, PreNormLayer
from .configuration_reg4rec import Reg4RecConfig


def _norm(config: Reg4RecConfig) -> nn.LayerNorm:
    return nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


class EncoderLayer(PreNormLayer):
    """Bidirectional."""

    def __init__(self, config: Reg4RecConfig):
        super().__init__(config, partial(_norm, config))


class DecoderLayer(PreNormLayer):
    """To the path so far, and to the history."""

    def __init__(self, config: Reg4RecConfig, index: int):
        super().__init__(config, partial(_norm, config), reads_history=True)
        self.index = index

    def keys_values(self, encoding: CodeSetEncoding, cache: EncoderDecoderCache | None) -> KeysValues:
        """Of the history's items, made once for a cache."""
        if cache is not None and cache.is_updated.get(self.index):
            layer: Any = cache.cross_attention_cache.layers[self.index]
            return layer.keys, layer.values
        keys, values = self.cross_attention.keys_values(encoding.last_hidden_state)
        if cache is not None:
            cache.cross_attention_cache.update(keys, values, self.index)
            cache.is_updated[self.index] = True
        return keys, values


class Reg4RecEncoder(nn.Module):
    """Histories of codes -> a state per item. Holds the table of code embeddings, which the decoder reads, too."""

    main_input_name = "input_ids"

    def __init__(self, config: Reg4RecConfig):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)  # type: ignore[arg-type]
        self.embed_places = nn.Embedding(config.max_history, config.hidden_size)  # from the newest item backwards
        self.embedding_norm = _norm(config)
        self.dropout = nn.Dropout(config.dropout)
        self.layers: Any = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_encoder_layers))
        self.norm = _norm(config)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs) -> CodeSetEncoding:
        """
        Args:
            input_ids (`torch.LongTensor` of shape `(B, T * M)`):
                Codes of the history's items, oldest first, padded on the left by whole items; T is at least 1. The
                codes of an item may stand in any order. Of a row without items, one padding item is read.
            attention_mask (`torch.Tensor` of shape `(B, T * M)`, *optional*):
                1 for codes, 0 for padding; by default what is not the padding token.

        Raises:
            ValueError: for half an item, none at all, or more than `max_history`.
        """
        codes_of_items, item_mask = code_sets_of_items(self.config, input_ids, attention_mask)
        items = self.embed_tokens(codes_of_items).sum(2)  # (B, T, d): a set of codes
        places = torch.arange(item_mask.shape[1] - 1, -1, -1, device=input_ids.device)
        states = self.dropout(self.embedding_norm(items + self.embed_places(places)))
        for layer in self.layers:
            states = layer(states, item_mask[:, None, None])
        return CodeSetEncoding(self.norm(states), item_mask)


class Reg4RecDecoder(nn.Module):
    """
    Embeddings of paths -> states that predict the next code.

    A code's embedding says which codebook it is of. There are no positions: the codes chosen so far are a set, so the
    place of a code in the path says nothing about the item, and how many are chosen shows in how the start token's
    share of the attention shrinks.

    By `code_reading` a code reads the codes before it, or itself alone. Then the start token stands behind each code,
    too, and reads all codes before it and itself: tokens at even places are start tokens, at odd ones codes.
    """

    def __init__(self, config: Reg4RecConfig):
        super().__init__()
        self.embedding_norm = _norm(config)
        self.dropout = nn.Dropout(config.dropout)
        self.layers: Any = nn.ModuleList(DecoderLayer(config, index) for index in range(config.num_hidden_layers))
        self.norm = _norm(config)
        self.reads_sets = config.code_reading == "set"

    def forward(
        self,
        embeddings: torch.Tensor,
        encoding: CodeSetEncoding,
        cache: EncoderDecoderCache | None = None,
        start: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        Args:
            embeddings: (R, S, d), of start token and codes; with a filled cache only those that are new. R is a
                multiple of the encoding's B: the paths of one history stand one after the other.
            cache (*optional*): keys and values of the codes so far, and of the histories.
            start (*optional*): (d,), the start token's embedding, where codes are read as a set.

        Returns:
            (R, S, d)
        """
        past = 0 if cache is None else int(cache.get_seq_length())
        first = 0 if past else 1
        if self.reads_sets and start is not None:
            codes = embeddings[:, first:]
            pairs = torch.stack([codes, start.expand_as(codes)], dim=2).flatten(1, 2)
            embeddings = torch.cat([embeddings[:, :first], pairs], dim=1)
        length, allowed = embeddings.shape[1], None
        if length > 1:
            allowed = torch.ones(length, past + length, dtype=torch.bool, device=embeddings.device).tril(past)
        if self.reads_sets and allowed is not None:
            places = torch.arange(past + length, device=embeddings.device)
            own = places[past:, None] == places
            allowed &= own | ((places[past:, None] % 2 == 0) & (places % 2 == 1))
        states = self.dropout(self.embedding_norm(embeddings))
        for layer in self.layers:
            keep = None if cache is None else partial(cache.self_attention_cache.update, layer_idx=layer.index)
            history = layer.keys_values(encoding, cache)
            states = layer(states, allowed, history, encoding.item_mask[:, None, None], keep)
        states = self.norm(states)
        return states[:, 1 - first :: 2] if self.reads_sets else states
