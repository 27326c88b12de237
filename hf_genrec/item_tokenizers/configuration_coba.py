"""Configuration of the CoBa RQ-VAE item tokenizer."""

import sys
from dataclasses import field
from typing import Any

from ..catalogue.saved_files import require_number
from .configuration_rq_vae import RqVaeConfig


class CobaConfig(RqVaeConfig):
    """Configuration of a [`CobaTokenizer`].

    Args:
        uniformity_weight: weight of the term that pushes codewords of a level apart.
        balance_strength: eta, how much a code's use changes its distance in training; 0 takes the nearest codeword.
        balance_limit: delta, by which share of the distance at most.
        use_decay: what is kept of the count of a code's uses from step to step.
    """

    model_type = "coba"
    auto_classes = {  # noqa: RUF012  (a ClassVar of the base class)
        "AutoConfig": "configuration_coba.CobaConfig",
        "AutoModel": "modeling_coba.CobaTokenizer",
    }

    codebook_sizes: list[int] = field(default_factory=lambda: [256, 256, 256])
    uniformity_weight: float = 0.1
    balance_strength: float = 0.2
    balance_limit: float = 0.3
    use_decay: float = 0.99

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        for name, highest in (
            ("uniformity_weight", sys.float_info.max),
            ("balance_strength", sys.float_info.max),
            ("balance_limit", 1.0),
            ("use_decay", 1.0),
        ):
            require_number(name, getattr(self, name), 0, highest, whole=False)


CobaConfig.register_for_auto_class()
