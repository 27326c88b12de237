"""Configuration of LIGER (arXiv 2411.18814): a T5 over codes and item texts with a dense head on its encoder."""

import sys
from dataclasses import field
from typing import Any

from ...catalogue.saved_files import require_number
from ...catalogue.transformers_bridge import CACHE_NAMES
from ...decoding.code_t5_config import CodeT5Config
from .liger_choices import RETRIEVAL


class LigerConfig(CodeT5Config):
    r"""
    Configuration of [`LigerForConditionalGeneration`]: [`CodeT5Config`], and

    Args:
        num_items (`int`, defaults to 1):
            N, the items of the catalogue.
        item_vector_size (`int`, defaults to 384):
            D, the length of an item's text embedding.
        projector_sizes (`list[int]`, defaults to `[256]`):
            Widths of the residual layers between an item's text and its dense vector. An empty list: one linear layer.
        projector_dropout (`float`, defaults to 0.2):
            Dropout of the text embeddings and behind each of these layers.
        input_dropout (`float`, defaults to 0.5):
            Dropout of what the encoder reads.
        dense_temperature (`float`, defaults to 0.07):
            Cosines are divided by it in the dense loss.
        sparse_loss_weight, dense_loss_weight (`float`, defaults to 1.0):
            Weights of the two losses.
        retrieval (`str`, defaults to `"hybrid"`):
            `"hybrid"`: the beams' items and those without a training interaction, ranked by the cosine; `"sparse"`: the
            beams by their codes, as TIGER; `"dense"`: all items by the cosine.

    Example:

    ```python
    >>> from hf_genrec.methods.liger.modeling_liger import LigerConfig, LigerForConditionalGeneration

    >>> config = LigerConfig(
    ...     vocab_size=770, codebook_sizes=[256, 256, 256], answer_token_id=768, pad_token_id=769, num_items=12101,
    ...     max_history=20, d_model=128, d_ff=1024, d_kv=64, num_heads=6, num_layers=6,
    ... )
    >>> model = LigerForConditionalGeneration(config)
    ```
    """

    model_type = "liger"
    settings_of_processor = (*CodeT5Config.settings_of_processor, "num_items")  # type: ignore[assignment]
    keys_to_ignore_at_inference = [*CACHE_NAMES, "losses"]  # noqa: RUF012

    num_items: int = 1
    item_vector_size: int = 384
    projector_sizes: list[int] = field(default_factory=lambda: [256])
    projector_dropout: float = 0.2
    input_dropout: float = 0.5
    dense_temperature: float = 0.07
    sparse_loss_weight: float = 1.0
    dense_loss_weight: float = 1.0
    retrieval: str = "hybrid"

    def __post_init__(self, **kwargs: Any):
        self.projector_sizes = list(self.projector_sizes)
        if self.max_history is None:
            self.max_history = 20
        if self.codebook_sizes is None:
            self.codebook_sizes = [256] * 3
        super().__post_init__(**kwargs)
        if getattr(self, "auto_map", None) is None:
            self.auto_map = {
                "AutoConfig": "configuration_liger.LigerConfig",
                "AutoModel": "modeling_liger.LigerForConditionalGeneration",
                "AutoModelForSeq2SeqLM": "modeling_liger.LigerForConditionalGeneration",
                "AutoProcessor": "processing_liger.LigerProcessor",
            }

    def _check(self) -> None:
        super()._check()
        for name in ("num_items", "item_vector_size"):
            require_number(name, getattr(self, name), 1)
        for size in self.projector_sizes:
            require_number("hidden_size", size, 1)
        for name in ("projector_dropout", "input_dropout"):
            require_number(name, getattr(self, name), 0, 1, whole=False)
        for name in ("dense_temperature", "sparse_loss_weight", "dense_loss_weight"):
            require_number(name, getattr(self, name), 0, sys.float_info.max, whole=False)
        if not self.dense_temperature:
            raise ValueError("dense_temperature=0: give a number above 0.")
        if self.retrieval not in RETRIEVAL:
            raise ValueError(f"retrieval={self.retrieval!r}: use one of {', '.join(RETRIEVAL)}.")
        if self.item_separators or self.num_user_bins:
            raise ValueError("LIGER reads codes and texts alone: leave item_separators and num_user_bins out.")
        if self.shared_kv_pool_size:
            raise ValueError("LIGER's lists read the encoder's states themselves: leave shared_kv_pool_size out.")


LigerConfig.register_for_auto_class()

__all__ = ["LigerConfig"]
