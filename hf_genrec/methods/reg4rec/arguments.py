"""The keys of REG4Rec that a user sets."""

from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from hf_genrec.methods.reg4rec.categories import CategoryRule


@dataclass
class Reg4RecArguments:
    """
    The REG4Rec model: what a user sets of `Reg4RecConfig`, with its names and defaults, where the items' categories
    come from, and when the model's own order of the codes is taught.

    Raises:
        ValueError: for values that `Reg4RecConfig` refuses, another rule, or a share that is none.
    """

    method: Literal["reg4rec"] = field(default="reg4rec", metadata={"help": "what is trained"})
    hidden_size: int = field(default=128, metadata={"help": "length of embeddings and states"})
    intermediate_size: int = field(default=640, metadata={"help": "width of the feed-forward layers"})
    num_encoder_layers: int = field(default=1, metadata={"help": "layers that read the history"})
    num_hidden_layers: int = field(default=2, metadata={"help": "layers of the decoder"})
    num_attention_heads: int = field(default=4, metadata={"help": "attention heads"})
    dropout: float = field(default=0.1, metadata={"help": "dropout of the embeddings and of what each layer adds"})
    attention_dropout: float = field(default=0.0, metadata={"help": "dropout of the attention weights"})
    code_order: str = field(
        default="confidence",
        metadata={"help": "the surest codebook's code is next (confidence), or codebook 1, 2, ... (fixed)"},
    )
    code_reading: str = field(
        default="path",
        metadata={
            "help": "what follows depends on the codes so far and their order (path), or on the codes alone (set)"
        },
    )
    category_weight: float = field(default=0.2, metadata={"help": "weight of the category loss"})
    reflection_threshold: float | None = field(
        default=None,
        metadata={"help": "recommending: a code that moves the category further (JS) is taken back; published 0.06"},
    )
    reflection_interval: int = field(default=1, metadata={"help": "recommending: steps between two such checks"})
    max_rollbacks: int = field(default=2, metadata={"help": "recommending: codes of a path that may be taken back"})
    category_column: str | None = field(
        default=None, metadata={"help": "items' column of the categories; null takes the column categories"}
    )
    category_rule: str = field(
        default="first",
        metadata={"help": "of several categories the first, or the most frequent one that at most a quarter have"},
    )
    confidence_order_from: float = field(
        default=0.3,
        metadata={"help": "share of the training with codes in random order, before the model's own is taught; 1: all"},
    )
    own_order_loss: str = field(
        default="all",
        metadata={
            "help": "what a step of the model's own order teaches: the codes of all unused codebooks (all), or the one "
            "that is chosen, as equation (6) has it (next)"
        },
    )
    horizon: int = field(
        default=1, metadata={"help": "next items of the user that are targets; the first counts most (MSRA)"}
    )
    horizon_decay: float = field(default=0.8, metadata={"help": "weight of a target against that of the one before it"})

    def __post_init__(self) -> None:
        # It imports torch, which the keys need not.
        from hf_genrec.methods.reg4rec.configuration_reg4rec import Reg4RecConfig

        Reg4RecConfig(**self.config_fields())  # the codebooks are not known yet: any do
        if self.category_rule not in get_args(CategoryRule):
            raise ValueError(f"category_rule: {self.category_rule!r} is not one of {', '.join(get_args(CategoryRule))}")
        if not 0 <= self.confidence_order_from <= 1:
            raise ValueError(f"confidence_order_from must be from 0 to 1, not {self.confidence_order_from}")
        if self.own_order_loss not in ("all", "next"):
            raise ValueError(f"own_order_loss: {self.own_order_loss!r} is not one of all, next")
        if self.horizon < 1 or not 0 < self.horizon_decay <= 1:
            raise ValueError(
                f"horizon {self.horizon}, horizon_decay {self.horizon_decay}: give at least 1, and above 0 to 1"
            )

    def config_fields(self) -> dict[str, Any]:
        """The settings that are fields of `Reg4RecConfig`."""
        own = {"method", "category_column", "category_rule"}
        own |= {"confidence_order_from", "own_order_loss", "horizon", "horizon_decay"}
        return {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name not in own}
