"""What MDGR is made of: an encoder that reads one position per item, and a decoder of one slot per codebook.

Both are pre-norm transformers, and both see everything at once. Several rows of slots may belong to one history: they
stand one after the other, and share its encoding and its cross-attention's keys and values.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from ...decoding.code_set_encoding import CodeSetEncoding, code_sets_of_items
from ...decoding.pre_norm_layers import KeysValues, PreNormLayer
from .configuration_mdgr import MdgrConfig

Memory = list[KeysValues]  # of the histories, in each layer


def _norm(config: MdgrConfig) -> nn.Module:
    norm = nn.RMSNorm if config.norm_type == "rmsnorm" else nn.LayerNorm
    return norm(config.hidden_size, eps=config.norm_eps)


class MdgrEncoderLayer(PreNormLayer):
    """Bidirectional."""

    def __init__(self, config: MdgrConfig):
        super().__init__(config, partial(_norm, config), projection_bias=False)


class MdgrDecoderLayer(PreNormLayer):
    """Among the slots, and to the history."""

    def __init__(self, config: MdgrConfig):
        super().__init__(config, partial(_norm, config), reads_history=True, projection_bias=False)


class MdgrEncoder(nn.Module):
    """
    Histories of codes -> a state per item.

    Holds the table of code embeddings, which decoder and head read, too, and the last norm, which is the decoder's.
    """

    main_input_name = "input_ids"

    def __init__(self, config: MdgrConfig):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)  # type: ignore[arg-type]
        self.embed_places = nn.Embedding(config.max_history, config.hidden_size)  # from the oldest item on
        self.item_in = nn.Linear(config.num_codebooks * config.hidden_size, config.hidden_size)
        self.item_out = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)
        self.layers: Any = nn.ModuleList(MdgrEncoderLayer(config) for _ in range(config.num_encoder_layers))
        self.norm = _norm(config)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs) -> CodeSetEncoding:
        """
        Args:
            input_ids (`torch.LongTensor` of shape `(B, T * L)`):
                Codes of the history's items, oldest first, those of an item codebook after codebook; padded by whole
                items on either side; T is at least 1. Of a row without items, one padding item is read.
            attention_mask (`torch.Tensor` of shape `(B, T * L)`, *optional*):
                1 for codes, 0 for padding; by default what is not the padding token.

        Raises:
            ValueError: for half an item, none at all, or more than `max_history`.
        """
        codes_of_items, item_mask = code_sets_of_items(self.config, input_ids, attention_mask)
        codes = self.embed_tokens(codes_of_items).flatten(2)  # (B, T, L * d)
        items = self.item_out(torch.relu(self.item_in(codes)))
        places = (item_mask.long().cumsum(1) - 1).clamp(min=0)
        states = self.dropout(items + self.embed_places(places))
        for layer in self.layers:
            states = layer(states, item_mask[:, None, None])
        return CodeSetEncoding(self.norm(states).masked_fill(~item_mask[..., None], 0.0), item_mask)


class MdgrDecoder(nn.Module):
    """
    Embeddings of slots -> their states, before the last norm.

    There are no positions: a masked slot's vector and a code's embedding say which codebook they are of.
    """

    def __init__(self, config: MdgrConfig):
        super().__init__()
        self.mask_vectors = nn.Embedding(config.num_codebooks, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)
        self.layers: Any = nn.ModuleList(MdgrDecoderLayer(config) for _ in range(config.num_hidden_layers))

    def memory(self, encoding: CodeSetEncoding) -> Memory:
        """Keys and values of the histories' items, in every layer: for several passes over the same histories."""
        return [layer.cross_attention.keys_values(encoding.last_hidden_state) for layer in self.layers]

    def forward(
        self, codes: torch.Tensor, masked: torch.Tensor, encoding: CodeSetEncoding, memory: Memory | None = None
    ) -> torch.Tensor:
        """
        Args:
            codes: (R, L, d), embeddings of the codes; not read where `masked`.
            masked: (R, L) boolean.
            encoding: of B histories; R is a multiple of B: the rows of one history stand one after the other.
            memory (*optional*): of [`memory`], if it is made already.

        Returns:
            (R, L, d)
        """
        mask_vectors = self.mask_vectors(torch.arange(masked.shape[1], device=masked.device))
        states = self.dropout(torch.where(masked[..., None], mask_vectors, codes))
        memories: Sequence[Any] = [None] * len(self.layers) if memory is None else memory
        for layer, of_history in zip(self.layers, memories, strict=True):
            of_history = of_history or layer.cross_attention.keys_values(encoding.last_hidden_state)
            states = layer(states, None, of_history, encoding.item_mask[:, None, None])
        return states
