"""The keys of S3-Rec that a user sets."""

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from hf_genrec.methods.s3rec.s3rec_choices import LOSSES, POSITIONS, PREFIXES

# What is no field of `S3RecConfig`.
OF_TRAINING = (
    "method",
    "attribute_columns",
    "mask_probability",
    "pretrain_epochs",
    "pretrain_prefixes",
    "pretrain_batch_size",
    "pretrain_learning_rate",
)
# What the fine-tuning alone reads.
OF_FINE_TUNING = ("loss_type",)


@dataclass
class S3RecArguments:
    """
    The S3-Rec model: what a user sets of `S3RecConfig`, with its names and defaults, and how it is pretrained.

    Raises:
        ValueError: for values that `S3RecConfig` refuses, or a pretraining that there is not.
    """

    method: Literal["s3rec"] = field(default="s3rec", metadata={"help": "what is trained"})
    hidden_size: int = field(default=64, metadata={"help": "length of item vectors and states"})
    intermediate_size: int = field(default=256, metadata={"help": "width of the feed-forward layers"})
    num_hidden_layers: int = field(default=2, metadata={"help": "layers"})
    num_attention_heads: int = field(default=2, metadata={"help": "attention heads"})
    hidden_dropout: float = field(
        default=0.5, metadata={"help": "dropout of the embeddings and of what each layer adds"}
    )
    attention_dropout: float = field(default=0.5, metadata={"help": "dropout of the attention weights"})
    positions_from: str = field(
        default="newest",
        metadata={
            "help": f"one of {', '.join(POSITIONS)}: the newest item has the last position, as published, or the "
            "oldest the first, as models that start from this pretraining have it"
        },
    )
    loss_type: str = field(
        default="bce",
        metadata={"help": f"fine-tuning, one of {', '.join(LOSSES)}: one negative a target, or all items"},
    )
    attribute_columns: list[str] | None = field(
        default=None,
        metadata={"help": "items' columns of attributes, lists or names separated by commas; null takes categories"},
    )
    aap_weight: float = field(default=0.2, metadata={"help": "weight of the loss of the attributes of what is read"})
    mip_weight: float = field(default=1.0, metadata={"help": "weight of the loss of masked items"})
    map_weight: float = field(default=1.0, metadata={"help": "weight of the loss of the attributes of masked items"})
    sp_weight: float = field(default=0.5, metadata={"help": "weight of the loss of segments"})
    mip_on_logits: bool = field(
        default=False,
        metadata={
            "help": "masked items and segments by the difference of scores, not, as published, of their sigmoids"
        },
    )
    mask_probability: float = field(default=0.2, metadata={"help": "share of masked items; the last one always is"})
    pretrain_epochs: int = field(
        default=50, metadata={"help": "epochs of the pretraining; 0 goes on to the fine-tuning at once"}
    )
    pretrain_prefixes: str = field(
        default="one",
        metadata={"help": f"one of {', '.join(PREFIXES)}: a user's random prefix an epoch, or, as published, each"},
    )
    pretrain_batch_size: int = field(default=100, metadata={"help": "prefixes per step and process of the pretraining"})
    pretrain_learning_rate: float = field(default=1e-3, metadata={"help": "peak learning rate of the pretraining"})

    def __post_init__(self) -> None:
        from hf_genrec.methods.s3rec.configuration_s3rec import S3RecConfig  # imports torch, which the keys need not

        S3RecConfig(**self.config_fields())  # the catalogue is not known yet: any size does
        if self.attribute_columns is not None and not self.attribute_columns:
            raise ValueError("attribute_columns is empty: name columns, or leave it out for categories")
        if not 0 <= self.mask_probability <= 1:
            raise ValueError(f"mask_probability must be from 0 to 1, not {self.mask_probability}")
        if self.pretrain_epochs < 0:
            raise ValueError(f"pretrain_epochs must be 0 or more, not {self.pretrain_epochs}")
        if self.pretrain_prefixes not in PREFIXES:
            raise ValueError(f"pretrain_prefixes: {self.pretrain_prefixes!r} is not one of {', '.join(PREFIXES)}")
        if self.pretrain_batch_size < 1:
            raise ValueError(f"pretrain_batch_size must be at least 1, not {self.pretrain_batch_size}")
        if not self.pretrain_learning_rate > 0:
            raise ValueError(f"pretrain_learning_rate must be above 0, not {self.pretrain_learning_rate}")

    def config_fields(self) -> dict[str, Any]:
        """The settings that are fields of `S3RecConfig`."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name not in OF_TRAINING}
