"""Beams of a T5 decoder as extra slots of one row: the history is encoded once and its states are not repeated.

The slots of a row stand in the order in which they were written, beam by beam; T5's relative positions are counted in
codes. So the bias of a pair of slots follows from how deep each stands in its own beam, not from where it lies.
"""

import torch
from torch import nn

from .beam_decoder import BeamDecoder, RoomyLayer
from .history_encoding import HistoryEncoding


def decode_slots(
    decoder,
    embeddings: torch.Tensor,
    depths: torch.Tensor,
    layers: list,
    all_depths: torch.Tensor,
    memory: list[tuple[torch.Tensor, torch.Tensor]],
    memory_bias: torch.Tensor,
    allowed: torch.Tensor | None = None,
) -> torch.Tensor:
    """
    States of new slots of a T5 decoder, whose keys and values are kept.

    Args:
        decoder: a `T5Stack` with cross-attention.
        embeddings: (B, n, d) of the new slots.
        depths: (n,) positions of the new slots in their own sequence, from 0.
        layers: what keeps keys and values, one a layer, with an `update` as the layers of transformers' caches.
        all_depths: (S,) positions of all slots, the new ones last.
        memory: keys and values of the encoded history, (B, heads, E, d_kv) each, one pair a layer; see
            [`memory_of`].
        memory_bias: (B, 1, 1, E), 0 for slots that are read.
        allowed (*optional*): (B, n, S), which slots a new one may attend to; by default all.

    Returns:
        (B, n, d), of the last layer, normed.
    """
    first = decoder.block[0].layer[0].SelfAttention
    buckets = first._relative_position_bucket(
        all_depths[None, :] - depths[:, None],
        bidirectional=False,
        num_buckets=first.relative_attention_num_buckets,
        max_distance=first.relative_attention_max_distance,
    )
    bias = first.relative_attention_bias(buckets).permute(2, 0, 1).unsqueeze(0)  # (1, heads, n, S)
    if allowed is not None:
        bias = bias.masked_fill(~allowed.unsqueeze(1), torch.finfo(bias.dtype).min)
    states = decoder.dropout(embeddings)
    for block, layer, (keys, values) in zip(decoder.block, layers, memory, strict=True):
        own, cross, feed_forward = block.layer
        attention = own.SelfAttention
        normed = own.layer_norm(states)
        own_keys, own_values = layer.update(
            heads(attention, attention.k(normed)), heads(attention, attention.v(normed))
        )
        states = states + own.dropout(_attended(attention, normed, own_keys, own_values, bias))
        attention = cross.EncDecAttention
        read = _attended(attention, cross.layer_norm(states), keys, values, memory_bias)
        states = feed_forward(states + cross.dropout(read))
    return decoder.dropout(decoder.final_layer_norm(states))


def memory_of(decoder, encoding: HistoryEncoding) -> tuple[list, torch.Tensor]:
    """What [`decode_slots`] reads of encoded histories: `memory` and `memory_bias`."""
    attentions = decoder.cross_attentions
    if encoding.records is None:
        decoder.set_padding(encoding.attention_mask)
        states = encoding.last_hidden_state
        found = [(one.k(states), one.v(states)) for one in attentions]
    else:
        found = decoder.look_up(encoding.records)
    memory = [(heads(one, key), heads(one, value)) for one, (key, value) in zip(attentions, found, strict=True)]
    return memory, memory_bias_of(memory, encoding.attention_mask)


def memory_bias_of(memory: list, mask: torch.Tensor) -> torch.Tensor:
    """(B, 1, 1, E), what is added to the attention to encoded histories: of their mask (B, E), as the keys' numbers."""
    dtype = memory[0][0].dtype
    bias = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return bias.masked_fill(~mask.bool(), torch.finfo(dtype).min)[:, None, None, :]


def heads(attention, states: torch.Tensor) -> torch.Tensor:
    """(B, n, heads * d_kv) -> (B, heads, n, d_kv)"""
    return states.unflatten(-1, (-1, attention.key_value_proj_dim)).transpose(1, 2)


def _attended(attention, states, keys, values, bias) -> torch.Tensor:
    query = heads(attention, attention.q(states))
    dropout = attention.dropout if attention.training else 0.0
    bias = bias.to(query.dtype)
    read = nn.functional.scaled_dot_product_attention(query, keys, values, attn_mask=bias, dropout_p=dropout, scale=1.0)
    return attention.o(read.transpose(1, 2).flatten(2))


class Seq2SeqBeamDecoder(BeamDecoder):
    """
    [`BeamDecoder`] of a T5 encoder-decoder over codes: the row that the beams share begins with the start token.

    The model is a [`CodeT5`].
    """

    def start(  # type: ignore[override]
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, encoder_outputs=None, **reading
    ) -> torch.Tensor:
        """
        Encode the histories.

        Args:
            input_ids, attention_mask: (B, S), as the encoder takes them.
            encoder_outputs (*optional*): encoded histories, instead.
            reading: what else the encoder reads.

        Returns:
            (B, 1, hidden_size), the states that predict the first code.
        """
        encoding = encoder_outputs
        if encoding is None:
            encoding = self.model.get_encoder()(input_ids=input_ids, attention_mask=attention_mask, **reading)
        self.decoder = self.model.get_decoder()
        self.memory, self.memory_bias = memory_of(self.decoder, encoding)
        self.layers = [RoomyLayer(self.prompt_slots(0) + self.room) for _ in range(self.num_layers())]
        rows, device = len(encoding.attention_mask), encoding.attention_mask.device
        self.depths = torch.empty(0, dtype=torch.long, device=device)
        self.prompt_mask = torch.ones(rows, self.prompt_slots(0), dtype=torch.bool, device=device)
        self.position = torch.zeros(rows, dtype=torch.long, device=device)
        self.ancestors = torch.ones(rows, 1, 0, dtype=torch.bool, device=device)
        start = torch.full((rows, 1), self.model.config.decoder_start_token_id, device=device)
        return self.first(self.model.get_input_embeddings()(start))

    def first(self, start: torch.Tensor) -> torch.Tensor:
        """States (B, 1, hidden_size) that predict the first code, from the embedding of the start token, of such a
        shape."""
        return self.model.scaled(self.append(start, torch.zeros(1, dtype=torch.long, device=start.device)))

    def extend(self, codes: torch.Tensor, parents: torch.Tensor) -> torch.Tensor:
        return self.model.scaled(super().extend(codes, parents))

    def append(self, embeddings: torch.Tensor, depths: torch.Tensor, allowed: torch.Tensor | None = None):
        """States (B, n, hidden_size) of new slots; see [`decode_slots`]."""
        self.depths = torch.cat([self.depths, depths])
        return decode_slots(
            self.decoder, embeddings, depths, self.layers, self.depths, self.memory, self.memory_bias, allowed
        )

    def prompt_slots(self, num_tokens: int) -> int:
        return 1

    def num_layers(self) -> int:
        return self.model.config.num_decoder_layers

    def logits(self, states: torch.Tensor, level: int) -> torch.Tensor:
        return self.model.code_logits(states, torch.tensor([level], device=states.device))

    def decode(
        self, embeddings: torch.Tensor, allowed: torch.Tensor, positions: torch.Tensor, size: int
    ) -> torch.Tensor:
        return self.append(embeddings, positions[0], allowed)[:, size - 1 :: size]
