"""What the configurations of all item tokenizers share."""

import sys
from dataclasses import field
from typing import Any, ClassVar

from ..catalogue.flat_code import FlatCode
from ..catalogue.saved_files import require_number
from ..catalogue.transformers_bridge import PreTrainedConfig


class ItemTokenizerConfig(FlatCode, PreTrainedConfig):
    """What an [`ItemTokenizer`] quantizes, and into how many codes.

    An item's vector is made of named parts side by side (for instance a text embedding and a collaborative
    vector), each centred, scaled and weighted; `part_names`, `part_dims` and `part_weights` run in parallel.

    Args:
        codebook_sizes: number of codes of each codebook, in the order of the codes.
        input_dim: length of the parts side by side; the sum of `part_dims`.
        projection_dim: principal components of the parts side by side that are quantized; None quantizes them whole.
        part_names: names of the parts, in the order in which they stand in the vector.
        part_dims: length of each part.
        part_weights: factor of each part after it was centred and scaled to a mean squared norm of 1.
        text_model: the sentence-transformers model that made the part `text`, so that a new item can be embedded alike.
        text_columns: the item columns that made the text; None for title, categories, description.
        image_model: the sentence-transformers model that made the part `image`, of the items' pictures.
    """

    auto_classes: ClassVar[dict[str, str]]  # the auto_map of a saved folder

    codebook_sizes: list[int] = field(default_factory=lambda: [256, 256, 256])
    input_dim: int = 384
    projection_dim: int | None = None
    part_names: list[str] = field(default_factory=lambda: ["text"])
    part_dims: list[int] = field(default_factory=lambda: [384])
    part_weights: list[float] = field(default_factory=lambda: [1.0])
    text_model: str | None = None
    text_columns: list[str] | None = None
    image_model: str | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("auto_map", dict(self.auto_classes))
        super().__post_init__(**kwargs)
        if not self.codebook_sizes or min(self.codebook_sizes) < 1:
            raise ValueError(f"codebook_sizes must be one positive number per codebook, not {self.codebook_sizes}")
        if not len(self.part_names) == len(self.part_dims) == len(self.part_weights):
            raise ValueError(
                f"part_names {self.part_names}, part_dims {self.part_dims} and part_weights {self.part_weights} "
                "must have one entry per part"
            )
        if sum(self.part_dims) != self.input_dim:
            raise ValueError(f"input_dim is {self.input_dim}, but part_dims {self.part_dims} sum to another length")
        if self.projection_dim is not None and not 0 < self.projection_dim <= self.input_dim:
            raise ValueError(f"projection_dim is {self.projection_dim}, not between 1 and input_dim {self.input_dim}")
        sizes = [*self.codebook_sizes, *self.part_dims, self.input_dim, self.projection_dim or 1]
        for size in sizes:
            require_number("codebook_sizes, part_dims, input_dim and projection_dim", size, 1)
        for weight in self.part_weights:
            require_number("part_weights", weight, 0, sys.float_info.max, whole=False)

    @property
    def vector_dim(self) -> int:
        """D, the length of the quantized vector."""
        return self.projection_dim or self.input_dim

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:  # type: ignore[override]
        # transformers takes every class with "Tokenizer" in its name for a text tokenizer and notes it as a
        # (slow, fast) pair, which AutoModel cannot read.
        self.auto_map = dict(self.auto_classes)
        super().save_pretrained(save_directory, **kwargs)


class LearnedItemTokenizerConfig(ItemTokenizerConfig):
    """An [`ItemTokenizerConfig`] with the sizes and the loss of an autoencoder.

    Args:
        latent_dim: length of the codewords.
        hidden_sizes: widths of the hidden layers of the encoder, the widest first; the decoder has them reversed.
        commitment_weight: weight of the term that keeps what is quantized near its codeword.
    """

    latent_dim: int = 32
    hidden_sizes: list[int] = field(default_factory=lambda: [256])
    commitment_weight: float = 0.25

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.latent_dim < 1 or min(self.hidden_sizes, default=1) < 1:
            raise ValueError(
                f"latent_dim {self.latent_dim} and hidden_sizes {self.hidden_sizes} must be positive numbers"
            )
        if self.commitment_weight < 0:
            raise ValueError(f"commitment_weight must not be negative, it is {self.commitment_weight}")
        for size in (self.latent_dim, *self.hidden_sizes):
            require_number("latent_dim and hidden_sizes", size, 1)
        require_number("commitment_weight", self.commitment_weight, 0, sys.float_info.max, whole=False)
