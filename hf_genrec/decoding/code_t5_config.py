"""Configuration that encoder-decoders over ordered codes share: T5's, with the codes of the items."""

import sys
from typing import Any

from transformers import T5Config

from ..catalogue.flat_code import FlatCode
from ..catalogue.saved_files import require_number
from ..catalogue.transformers_bridge import ACT2FN
from .shared_keys_values import require_shared_settings

COUNTS = (
    "vocab_size",
    "d_model",
    "d_kv",
    "d_ff",
    "num_layers",
    "num_decoder_layers",
    "num_heads",
    "relative_attention_num_buckets",
    "relative_attention_max_distance",
)


class CodeT5Config(FlatCode, T5Config):
    r"""
    Configuration of [`CodeT5`]. The fields of [`T5Config`] describe encoder and decoder.

    > Semantic IDs

    Args:
        codebook_sizes (`list[int]`, *optional*):
            Codes per level, L numbers. Needed with `level_heads` and `item_separators`.
        answer_token_id (`int`, *optional*):
            Token that ends the history and starts the answer; the decoder's start token.
        max_history (`int`, *optional*):
            Newest history items that are read.

    > What T5 has not

    Args:
        item_separators (`bool`, defaults to `False`):
            Whether the encoder reads a learned vector behind the codes of each item.
        num_user_bins (`int`, *optional*):
            The encoder reads one of so many learned vectors before the history, chosen by the user. `None`: none.
        level_heads (`bool`, defaults to `False`):
            Whether each level has a head of its own, not tied to the embeddings, whose softmax is over the codes of the
            level; else the head is the table of all tokens, scaled by `d_model ** -0.5`, as in T5.
        mlp_layers (`int`, *optional*):
            Feed-forward layers with biases and so many linear layers before the last. `None`: T5's own.
        shared_kv_pool_size (`int`, defaults to 0):
            Rows of the pool that a decoder's layer looks up the keys of a history in, and as many for its values
            (CollectiveKV, arXiv 2601.19178). 0: they are projections of the encoder's states, as in T5.
        shared_kv_user_dim (`int`, defaults to 2):
            With a pool: numbers of a key, and of a value, of all heads together, that are the user's own.
        shared_kv_peak_weight, shared_kv_balance_weight (`float`, defaults to 0.01):
            With a pool: weights of its two losses.

    > Training

    Args:
        label_smoothing (`float`, defaults to 0.0):
            Share of the target that the cross-entropy spreads over all tokens, in training only.
    """

    settings_of_processor = ("max_history", "codebook_sizes", "answer_token_id")  # equal in both, or it is refused

    codebook_sizes: list[int] | None = None
    answer_token_id: int | None = None
    max_history: int | None = None
    item_separators: bool = False
    num_user_bins: int | None = None
    level_heads: bool = False
    mlp_layers: int | None = None
    label_smoothing: float = 0.0
    shared_kv_pool_size: int = 0
    shared_kv_user_dim: int = 2
    shared_kv_peak_weight: float = 0.01
    shared_kv_balance_weight: float = 0.01
    eos_token_id: int | None = None  # type: ignore[assignment]  # items have L codes: nothing ends them

    def __post_init__(self, **kwargs: Any):
        super().__post_init__(**kwargs)
        if self.answer_token_id is not None:
            self.decoder_start_token_id = self.answer_token_id
        self._check()

    def _check(self) -> None:
        for name in COUNTS:
            require_number(name, getattr(self, name), 1)
        for size in self.codebook_sizes or ():
            require_number("codebook_sizes", size, 1)
        for name in ("dropout_rate", "label_smoothing"):
            require_number(name, getattr(self, name), 0, 1, whole=False)
        require_shared_settings(self.shared_kv_pool_size, self.shared_kv_user_dim, self.num_heads * self.d_kv)
        weights = ("shared_kv_peak_weight", "shared_kv_balance_weight")
        for name in ("layer_norm_epsilon", "initializer_factor", *weights):
            require_number(name, getattr(self, name), 0, sys.float_info.max, whole=False)
        for name in ("max_history", "num_user_bins", "mlp_layers"):
            if getattr(self, name) is not None:
                require_number(name, getattr(self, name), 1)
        if self.answer_token_id is not None:
            require_number("answer_token_id", self.answer_token_id, 0)
        # Of T5's buckets half for each direction, half of these for distances of their own.
        if self.relative_attention_num_buckets < 4 or self.relative_attention_max_distance <= max(
            self.relative_attention_num_buckets // 2, 1
        ):
            raise ValueError(
                f"relative_attention_num_buckets={self.relative_attention_num_buckets} and "
                f"relative_attention_max_distance={self.relative_attention_max_distance}: give 4 buckets or more, and "
                f"a distance above half of them."
            )
        if self.dense_act_fn not in ACT2FN:
            raise ValueError(f"feed_forward_proj={self.feed_forward_proj!r}: name relu, gelu or gated-gelu.")
        if (self.item_separators or self.level_heads) and not self.codebook_sizes:
            raise ValueError("item_separators and level_heads need codebook_sizes: give the codes of each level.")
        if self.level_heads and sum(self.codebook_sizes or ()) > self.vocab_size:
            raise ValueError(
                f"codebook_sizes={self.codebook_sizes} are more codes than vocab_size={self.vocab_size}: change one."
            )

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None):
        """Of the decoder, whose layers its cache has: T5's own counts those of the encoder."""
        config = super().get_text_config(decoder, encoder)
        if decoder and not encoder:
            config.num_layers = self.num_decoder_layers
        return config

    @property
    def num_levels(self) -> int | None:
        """L, the number of codes of an item, if it is known."""
        return len(self.codebook_sizes) if self.codebook_sizes else None
