"""Configuration of the OPQ item tokenizer."""

from dataclasses import field
from typing import Any

from .configuration_item_tokenizer import ItemTokenizerConfig


class OpqConfig(ItemTokenizerConfig):
    """Configuration of an [`OpqTokenizer`]: `codebook_sizes` has one number per part of the rotated vector; the codes
    have no order."""

    model_type = "opq"
    auto_classes = {  # noqa: RUF012  (a ClassVar of the base class)
        "AutoConfig": "configuration_opq.OpqConfig",
        "AutoModel": "modeling_opq.OpqTokenizer",
    }

    codebook_sizes: list[int] = field(default_factory=lambda: [256] * 4)

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if len(self.codebook_sizes) > self.vector_dim:
            raise ValueError(
                f"{len(self.codebook_sizes)} codebooks for vectors of {self.vector_dim} numbers: each needs one at "
                f"least, give fewer codebook_sizes"
            )

    @property
    def latent_dim(self) -> int:
        """Length of the codewords; the rotated vector has zeros at its end where they are longer than it."""
        return -(-self.vector_dim // len(self.codebook_sizes))


OpqConfig.register_for_auto_class()
