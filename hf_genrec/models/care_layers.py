"""What CARE's layers do that Qwen2's do not: packed rows, and dropout of what a layer adds."""

from torch import nn
from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention, Qwen2MLP, apply_rotary_pos_emb, repeat_kv

from .care_packing import PackedMask, packed_attention


class CareAttention(Qwen2Attention):
    """Qwen2's attention, which takes a [`PackedMask`] too."""

    def forward(self, hidden_states, position_embeddings, attention_mask=None, past_key_values=None, **kwargs):
        if isinstance(attention_mask, PackedMask):
            states, weights = self._packed(hidden_states, position_embeddings, attention_mask), None
        else:
            states, weights = super().forward(
                hidden_states, position_embeddings, attention_mask, past_key_values, **kwargs
            )
        return nn.functional.dropout(states, self.config.hidden_dropout, self.training), weights

    def _packed(self, hidden_states, position_embeddings, mask: PackedMask):
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        query, key, value = (
            projection(hidden_states).view(shape).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        key, value = (repeat_kv(states, self.num_key_value_groups) for states in (key, value))
        dropout = self.attention_dropout if self.training else 0.0
        states = packed_attention(query, key, value, mask, self.scaling, dropout)
        return self.o_proj(states.transpose(1, 2).flatten(2))


class CareMLP(Qwen2MLP):
    """Qwen2's feed-forward layer with dropout."""

    def forward(self, x):
        return nn.functional.dropout(super().forward(x), self.config.hidden_dropout, self.training)
