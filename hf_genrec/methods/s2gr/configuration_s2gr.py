"""Configuration of S2GR (arXiv 2601.18664): a T5 over codes that thinks before it writes a code."""

import sys
from dataclasses import field
from typing import Any

from ...catalogue.saved_files import require_number
from ...decoding.code_t5_config import CodeT5Config

WEIGHTS = ("cluster_weight", "item_weight", "thought_weight")


class S2grConfig(CodeT5Config):
    r"""
    Configuration of [`S2grForConditionalGeneration`]: [`CodeT5Config`] with the thinking vectors.

    > Thinking

    Args:
        thinking (`list[bool]`, *optional*, an empty list stands for all false):
            Per level: whether the decoder feeds its state back once more before it writes the code. All false: TIGER.
        num_clusters (`list[int]`, *optional*, an empty list stands for all 0):
            Per level: clusters of the codebook that the thinking vector is taught to match; 0: it is taught nothing.
        code_dim (`int`, defaults to 1):
            Length of the codebooks' vectors.

    > Loss, terms beside the cross-entropy of the codes

    Args:
        cluster_weight (`float`, defaults to 1.0):
            Of the cross-entropies of the clusters.
        item_weight (`float`, defaults to 1.0):
            Of the contrastive loss of the auxiliary decoder, which tells the item apart from the others of the batch. 0
            leaves out the decoder and the next term.
        thought_weight (`float`, defaults to 0.1):
            Of one minus the cosine of the first thinking vector and the auxiliary decoder's.
        temperature (`float`, defaults to 0.1):
            Of both softmaxes over cosines.
    """

    model_type = "s2gr"
    keys_to_ignore_at_inference = ["losses", "cache", "past_key_values"]  # noqa: RUF012

    thinking: list[bool] = field(default_factory=list)
    num_clusters: list[int] = field(default_factory=list)
    code_dim: int = 1
    cluster_weight: float = 1.0
    item_weight: float = 1.0
    thought_weight: float = 0.1
    temperature: float = 0.1

    def __post_init__(self, **kwargs: Any):
        self.thinking = [bool(thinks) for thinks in self.thinking]
        self.num_clusters = list(self.num_clusters)
        super().__post_init__(**kwargs)
        levels = self.num_levels or 0
        self.thinking = self.thinking or [False] * levels
        self.num_clusters = self.num_clusters or [0] * levels
        self._check_thinking(levels)
        if getattr(self, "auto_map", None) is None:
            self.auto_map = {
                "AutoConfig": "configuration_s2gr.S2grConfig",
                "AutoModel": "modeling_s2gr.S2grForConditionalGeneration",
                "AutoModelForSeq2SeqLM": "modeling_s2gr.S2grForConditionalGeneration",
                "AutoProcessor": "processing_sequences.GenRecProcessor",
            }

    def _check_thinking(self, levels: int) -> None:
        for name in ("thinking", "num_clusters"):
            if len(getattr(self, name)) != levels:
                raise ValueError(
                    f"{name} has {len(getattr(self, name))} entries, codebook_sizes {levels}: give one per level."
                )
        for number in self.num_clusters:
            require_number("num_clusters", number, 0)
        require_number("code_dim", self.code_dim, 1)
        for name in WEIGHTS:
            require_number(name, getattr(self, name), 0, sys.float_info.max, whole=False)
        require_number("temperature", self.temperature, 1e-6, sys.float_info.max, whole=False)

    @property
    def learns_items(self) -> bool:
        """Whether there is an auxiliary decoder that teaches the first thinking vector the whole item."""
        return bool(self.item_weight) and any(self.thinking)


S2grConfig.register_for_auto_class()

__all__ = ["S2grConfig"]
