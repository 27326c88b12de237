"""What CARE's layers do that Qwen2's do not: packed rows, dropout of what a layer adds, reading some slots only; and
Qwen3's norms of queries and keys."""

import torch
from torch import nn
from transformers import AttentionInterface

from ...catalogue.device_waits import places_of
from ...catalogue.transformers_bridge import (
    Qwen2Attention,
    Qwen2DecoderLayer,
    Qwen2MLP,
    Qwen2RMSNorm,
    eager_attention_forward,
    repeat_kv,
    rotate_half,
    takes_cache,
)
from ...decoding.shared_keys_values import SharedKeysValues, keep_record
from .care_packing import PackedMask, packed_attention, packed_reading

ATTENTION = AttentionInterface()


def take_slots(states: torch.Tensor, slots: torch.Tensor | None) -> torch.Tensor:
    """States (B, E, H) of some slots (B, R), or of all of them."""
    return states if slots is None else torch.take_along_dim(states, slots[..., None], dim=1)


def rows_to_read(
    rows: torch.Tensor, logits_to_keep: int | torch.Tensor, most_kept: int | None = None
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """
    Slots (B, R) of the rows to keep, of all rows' slots (B, T), and which of them count, (B, R) boolean.

    `None` for the first stands for all rows, for the second for all of the first. `most_kept` is R for a boolean mask,
    where it is known.
    """
    if isinstance(logits_to_keep, int):
        return (rows[:, -logits_to_keep:], None) if logits_to_keep else (None, None)
    if logits_to_keep.dtype != torch.bool:
        return kept_rows(rows, logits_to_keep), None
    counts = logits_to_keep.sum(-1, keepdim=True)
    most_kept = int(counts.max()) if most_kept is None else most_kept
    first = logits_to_keep.int().argsort(dim=-1, descending=True, stable=True)[:, :most_kept]
    return rows.gather(1, first), torch.arange(first.shape[1], device=rows.device) < counts


def kept_rows(
    tensor: torch.Tensor, logits_to_keep: int | torch.Tensor, kept_places: torch.Tensor | None = None
) -> torch.Tensor:
    """
    Of a tensor (B, T) the rows that `logits_to_keep` names, in the forms transformers knows: the last so many (0: all),
    positions (R,) or (B, R), or a boolean mask (B, T), which flattens what it keeps; of the mask the places (n,) may be
    known.
    """
    if isinstance(logits_to_keep, int):
        return tensor[:, -logits_to_keep:] if logits_to_keep else tensor
    if logits_to_keep.dtype == torch.bool and logits_to_keep.dim() == 2:
        return tensor.flatten()[places_of(logits_to_keep, kept_places)]
    return tensor.take_along_dim(logits_to_keep, dim=1) if logits_to_keep.dim() == 2 else tensor[:, logits_to_keep]


def wants_all_states(config, kwargs: dict) -> bool:
    """Whether the states or weights of every layer are asked for."""
    names = ("output_hidden_states", "output_attentions")
    return any(kwargs.get(name, getattr(config, name, False)) for name in names)


class CareAttention(Qwen2Attention):
    """
    Qwen2's attention, which takes a [`PackedMask`] too, and may answer for `read_slots` (B, R) only. With
    `config.qk_norm` and without `config.attention_bias` it is Qwen3's. With `config.shared_kv_pool_size` the slots
    `is_history` (B, n) have their keys and values from a pool.
    """

    def __init__(self, config, layer_idx: int):
        super().__init__(config, layer_idx)
        if not config.attention_bias:
            for name in ("q_proj", "k_proj", "v_proj"):
                linear = getattr(self, name)
                setattr(self, name, nn.Linear(linear.in_features, linear.out_features, bias=False))
        self.q_norm = Qwen2RMSNorm(self.head_dim, config.rms_norm_eps) if config.qk_norm else None
        self.k_norm = Qwen2RMSNorm(self.head_dim, config.rms_norm_eps) if config.qk_norm else None
        size, user_dim = config.num_key_value_heads * self.head_dim, config.shared_kv_user_dim
        self.shared: nn.Module | None = None
        if config.shared_kv_pool_size:
            self.shared = SharedKeysValues(config.hidden_size, size, user_dim, config.shared_kv_pool_size)

    @takes_cache
    def forward(
        self,
        hidden_states,
        position_embeddings,
        attention_mask=None,
        cache=None,
        read_slots: torch.Tensor | None = None,
        is_history: torch.Tensor | None = None,
        **kwargs,
    ):
        asking = take_slots(hidden_states, read_slots)
        query = self.q_proj(asking).view(*asking.shape[:2], -1, self.head_dim).transpose(1, 2)
        key, value = self.k_proj(hidden_states), self.v_proj(hidden_states)
        if self.shared is not None and is_history is not None:
            shared_key, shared_value, record = self.shared(hidden_states, is_history)
            key = torch.where(is_history.unsqueeze(-1), shared_key, key)
            value = torch.where(is_history.unsqueeze(-1), shared_value, value)
            keep_record(cache, self.layer_idx, record)
        key, value = self.in_heads(key, value, *position_embeddings)
        if self.q_norm is not None:
            query = self.q_norm(query)
        query = rotated(query, *(take_slots(part, read_slots) for part in position_embeddings))
        if cache is not None:
            key, value = cache.update(key, value, self.layer_idx)
        dropout = self.attention_dropout if self.training else 0.0
        weights = None
        if isinstance(attention_mask, PackedMask):
            key, value = (repeat_kv(states, self.num_key_value_groups) for states in (key, value))
            if read_slots is None:
                states = packed_attention(query, key, value, attention_mask, self.scaling, dropout)
            else:
                states = packed_reading(query, key, value, attention_mask, read_slots, self.scaling, dropout)
            states = states.transpose(1, 2)
        else:
            if read_slots is not None:
                attention_mask = torch.take_along_dim(attention_mask, read_slots[:, None, :, None], dim=2)
            attend = ATTENTION.get_interface(self.config._attn_implementation, eager_attention_forward)
            states, weights = attend(
                self, query, key, value, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs
            )
        states = self.o_proj(states.flatten(2))
        return nn.functional.dropout(states, self.config.hidden_dropout, self.training), weights

    def in_heads(self, key, value, cos, sin) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values (B, n, heads * D) as they are attended to, (B, heads, n, D): normed, and at their places."""
        key, value = (states.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for states in (key, value))
        return rotated(key if self.k_norm is None else self.k_norm(key), cos, sin), value


def rotated(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary positions: states (B, heads, R, D), cos and sin (B, R, D)."""
    return states * cos.unsqueeze(1) + rotate_half(states) * sin.unsqueeze(1)


class CareMLP(Qwen2MLP):
    """Qwen2's feed-forward layer with dropout."""

    def forward(self, x):
        return nn.functional.dropout(super().forward(x), self.config.hidden_dropout, self.training)


class CareDecoderLayer(Qwen2DecoderLayer):
    """
    Qwen2's layer. With `read_slots` (B, R) the last layer of a model computes the states of these slots alone: of the
    others, whose states nobody reads, it needs keys and values only.
    """

    def __init__(self, config, layer_idx: int):
        super().__init__(config, layer_idx)
        self.self_attn = CareAttention(config, layer_idx)
        self.mlp = CareMLP(config)
        self.is_last = layer_idx == config.num_hidden_layers - 1

    def forward(self, hidden_states, read_slots: torch.Tensor | None = None, **kwargs):
        if read_slots is None or not self.is_last:
            return super().forward(hidden_states, **kwargs)
        attended, _ = self.self_attn(self.input_layernorm(hidden_states), read_slots=read_slots, **kwargs)
        states = take_slots(hidden_states, read_slots) + attended
        return states + self.mlp(self.post_attention_layernorm(states))
