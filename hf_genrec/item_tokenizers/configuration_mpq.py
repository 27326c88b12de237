"""Configuration of the MPQ item tokenizer."""

from dataclasses import field
from typing import Any

from .configuration_item_tokenizer import LearnedItemTokenizerConfig


class MpqConfig(LearnedItemTokenizerConfig):
    """Configuration of an [`MpqTokenizer`]: `codebook_sizes` has one number per expert; the codes have no order.

    Args:
        orthogonality_weight: alpha of equation (4).
    """

    model_type = "mpq"
    auto_classes = {  # noqa: RUF012  (a ClassVar of the base class)
        "AutoConfig": "configuration_mpq.MpqConfig",
        "AutoModel": "modeling_mpq.MpqTokenizer",
    }

    codebook_sizes: list[int] = field(default_factory=lambda: [300] * 8)
    orthogonality_weight: float = 0.001

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.orthogonality_weight < 0:
            raise ValueError(f"orthogonality_weight must not be negative, it is {self.orthogonality_weight}")


MpqConfig.register_for_auto_class()
