"""The layers of a T5 over codes, encoder or decoder."""

from itertools import pairwise

import torch
from torch import nn

from ..catalogue.transformers_bridge import T5Attention, T5LayerFF, T5Stack, initialization, overrides
from .beam_decoder import additive_mask
from .code_t5_config import CodeT5Config
from .shared_keys_values import SharedProjection


class InitializedAsT5:
    """
    Placed before a class of T5's. Of code that is not its own, transformers initializes no module that has no weight
    itself, in case it would write over loaded ones; T5's attention is such a module. Ours, as T5's, writes through
    `transformers.initialization`, which leaves loaded weights alone.
    """

    def _initialize_weights(self, module, is_custom_code: bool = False):
        super()._initialize_weights(module, False)  # type: ignore[misc]

    def _init_weights(self, module):
        config = self.config  # type: ignore[attr-defined]
        if isinstance(module, SharedProjection):
            std = config.initializer_factor * config.d_model**-0.5
            initialization.normal_(module.pool.weight, mean=0.0, std=config.initializer_factor)
            for linear in (part for part in module.children() if isinstance(part, nn.Linear)):
                initialization.normal_(linear.weight, mean=0.0, std=std)
                initialization.zeros_(linear.bias)
        elif isinstance(module, T5Attention) and isinstance(module.k, SharedProjection):
            std = config.initializer_factor * (config.d_model * config.d_kv) ** -0.5
            initialization.normal_(module.q.weight, mean=0.0, std=std)
            std = config.initializer_factor * (config.num_heads * config.d_kv) ** -0.5
            initialization.normal_(module.o.weight, mean=0.0, std=std)
        else:
            super()._init_weights(module)  # type: ignore[misc]


class HistoryProjection(SharedProjection):
    """
    [`SharedProjection`] of an encoder's states, which T5's attention calls as the linear layer it stands for.

    Attributes:
        valid: (B, E) boolean, the states that are no padding; set before it is called in training.
    """

    valid: torch.Tensor

    def forward(self, states: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """Keys, or values, (B, E, size) of states (B, E, d)."""
        return super().forward(states, self.valid) if self.training else self.look_up(self.record(states))


@overrides("_initialize_weights")
class CodeT5Stack(InitializedAsT5, T5Stack):
    """
    `T5Stack`, whose feed-forward layers are [`WideFeedForward`] where `mlp_layers` says so, and whose keys and values
    of the history are looked up where `shared_kv_pool_size` does.
    """

    def __init__(self, config: CodeT5Config):
        super().__init__(config)
        if config.mlp_layers is not None:
            for block in self.block:
                block.layer[-1] = WideFeedForward(config)
        if self.is_decoder and config.shared_kv_pool_size:
            sizes = (config.d_model, config.num_heads * config.d_kv)
            for attention in self.cross_attentions:
                attention.k, attention.v = (
                    HistoryProjection(*sizes, config.shared_kv_user_dim, config.shared_kv_pool_size) for _ in range(2)
                )
        self.post_init()

    @property
    def cross_attentions(self) -> list[T5Attention]:
        """Of a decoder, a layer's attention to the history."""
        return [block.layer[1].EncDecAttention for block in self.block]

    def forward(self, *args, attention_mask=None, encoder_attention_mask=None, **kwargs):
        """`T5Stack`'s, which looks at 2-D masks to find whether it needs them, and waits for a GPU to know."""
        if not self.is_decoder:
            attention_mask = self._for_all_rows(attention_mask)
        else:
            self.set_padding(encoder_attention_mask)
        encoder_attention_mask = self._for_all_rows(encoder_attention_mask)
        return super().forward(
            *args, attention_mask=attention_mask, encoder_attention_mask=encoder_attention_mask, **kwargs
        )

    def records(self, states: torch.Tensor) -> torch.Tensor:
        """What is kept of encoded states (B, E, d) where keys and values are looked up: (B, E, layers, R) int16."""
        kept = [torch.cat([one.k.record(states), one.v.record(states)], -1) for one in self.cross_attentions]
        return torch.stack(kept, 2)

    def look_up(self, records: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Of each layer the keys and values (B, E, heads * d_kv) of what [`records`] gives."""
        parts = [record.chunk(2, -1) for record in records.unbind(2)]
        layers = zip(self.cross_attentions, parts, strict=True)
        return [(one.k.look_up(key), one.v.look_up(value)) for one, (key, value) in layers]

    def set_padding(self, encoder_attention_mask: torch.Tensor) -> None:
        """Tell the layers that look keys and values up which states (B, E) of the history are none, in training."""
        if self.training and self.config.shared_kv_pool_size:
            for attention in self.cross_attentions:
                attention.k.valid = attention.v.valid = encoder_attention_mask.bool()

    def _for_all_rows(self, mask: torch.Tensor | None) -> torch.Tensor | None:
        """A padding mask (B, S) as the layers take it, (B, 1, 1, S)."""
        if mask is None or mask.dim() != 2:
            return mask
        allowed, eager = mask[:, None].bool(), self.config._attn_implementation == "eager"
        return additive_mask(allowed, self.dtype) if eager else allowed.unsqueeze(1)

    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, WideFeedForward):
            for layer in (*module.inner, module.outer):
                std = self.config.initializer_factor * layer.in_features**-0.5
                initialization.normal_(layer.weight, mean=0.0, std=std)
                initialization.zeros_(layer.bias)


class WideFeedForward(T5LayerFF):
    """
    T5's feed-forward layer with biases and `mlp_layers` linear layers before the last, an activation behind each; as
    GRID has it.
    """

    def __init__(self, config: CodeT5Config):
        super().__init__(config)
        del self.DenseReluDense
        widths = [config.d_model, *[config.d_ff] * int(config.mlp_layers or 1)]
        self.inner = nn.ModuleList([nn.Linear(*pair) for pair in pairwise(widths)])
        self.outer = nn.Linear(config.d_ff, config.d_model)
        self.inner_dropout = nn.Dropout(config.dropout_rate)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        states = self.layer_norm(hidden_states)
        for layer in self.inner:
            states = nn.functional.relu(layer(states))
        return hidden_states + self.dropout(self.outer(self.inner_dropout(states)))
