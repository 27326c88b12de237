"""Configuration of the LETTER item tokenizer."""

import sys
from dataclasses import field
from typing import Any

from ..catalogue.saved_files import require_number
from .configuration_rq_vae import RqVaeConfig


class LetterConfig(RqVaeConfig):
    """Configuration of a [`LetterTokenizer`]. The weights are those of the published script.

    Args:
        alignment_weight: alpha, weight of the contrastive loss between items' quantized and collaborative vectors.
        diversity_weight: beta, weight of the loss that spreads the codewords.
        quantization_weight: weight of codebook, commitment and diversity losses together.
        sinkhorn_epsilons: per level, the temperature of the even assignment in training; 0 takes the nearest codeword.
            Empty is 0.003 at the last level, 0 before.
        sinkhorn_iterations: rounds of Sinkhorn's algorithm.
    """

    model_type = "letter"
    auto_classes = {  # noqa: RUF012  (a ClassVar of the base class)
        "AutoConfig": "configuration_letter.LetterConfig",
        "AutoModel": "modeling_letter.LetterTokenizer",
    }

    alignment_weight: float = 0.01
    diversity_weight: float = 0.0001
    quantization_weight: float = 1.0
    sinkhorn_epsilons: list[float] = field(default_factory=list)
    sinkhorn_iterations: int = 50

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        levels = len(self.codebook_sizes)
        if not self.sinkhorn_epsilons:
            self.sinkhorn_epsilons = [0.0] * (levels - 1) + [0.003]
        if len(self.sinkhorn_epsilons) != levels:
            raise ValueError(
                f"sinkhorn_epsilons {self.sinkhorn_epsilons} must have one number for each of {levels} levels"
            )
        for epsilon in self.sinkhorn_epsilons:
            require_number("sinkhorn_epsilons", epsilon, 0, sys.float_info.max, whole=False)
            if 0 < epsilon < 0.003:
                raise ValueError(f"sinkhorn_epsilons must be 0 or at least 0.003, not {epsilon}: float64 underflows")
        for name in ("alignment_weight", "diversity_weight", "quantization_weight"):
            require_number(name, getattr(self, name), 0, sys.float_info.max, whole=False)
        require_number("sinkhorn_iterations", self.sinkhorn_iterations, 1)
        if self.diversity_weight and min(self.codebook_sizes) < 2:
            raise ValueError(
                f"codebook_sizes {self.codebook_sizes}: the diversity loss tells a code from another one; give each "
                f"codebook two at least, or set diversity_weight: 0"
            )


LetterConfig.register_for_auto_class()
