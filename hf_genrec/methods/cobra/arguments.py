"""The keys of COBRA that a user sets."""

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from hf_genrec.methods.cobra.cobra_choices import NEGATIVES, RETRIEVAL


@dataclass
class CobraArguments:
    """
    The COBRA model: what a user sets of `CobraConfig`, with its names and defaults.

    Raises:
        ValueError: for values that `CobraConfig` refuses.
    """

    method: Literal["cobra"] = field(default="cobra", metadata={"help": "what is trained"})
    hidden_size: int = field(default=128, metadata={"help": "length of dense vectors and states"})
    intermediate_size: int = field(default=256, metadata={"help": "width of the feed-forward layers"})
    num_hidden_layers: int = field(default=2, metadata={"help": "layers"})
    num_attention_heads: int = field(default=4, metadata={"help": "attention heads"})
    dropout: float = field(default=0.1, metadata={"help": "dropout of the embeddings and of what each layer adds"})
    attention_dropout: float = field(default=0.0, metadata={"help": "dropout of the attention weights"})
    item_embeddings: bool = field(
        default=False,
        metadata={
            "help": "an item's dense vector is made of its text and of a learned vector of its own, not text alone"
        },
    )
    dense_temperature: float = field(
        default=0.1, metadata={"help": "cosines are divided by it in the dense loss; paper: 1"}
    )
    negatives: str = field(
        default="catalogue",
        metadata={
            "help": f"what a dense vector is told from, one of {', '.join(NEGATIVES)}; batch is for catalogues too "
            "large for all items, and the paper's"
        },
    )
    dense_loss_weight: float = field(
        default=1.0, metadata={"help": "weight of the dense loss beside that of the codes"}
    )
    retrieval: str = field(
        default="fusion", metadata={"help": f"how lists are made, one of {', '.join(RETRIEVAL)}; fusion takes both"}
    )
    dense_weight: float = field(
        default=10.0, metadata={"help": "fusion: weight of the cosine beside the codes' log-probability"}
    )
    num_neighbours: int = field(
        default=20, metadata={"help": "fusion: items near the dense vectors that are considered beside the beams' own"}
    )

    shared_kv_pool_size: int = field(
        default=0,
        metadata={"help": "rows of the pool that users' cached keys, and values, are looked up in; 0 for plain ones"},
    )
    shared_kv_user_dim: int = field(
        default=2, metadata={"help": "with a pool: numbers of a cached key, and of a value, that are the user's own"}
    )

    def __post_init__(self) -> None:
        from hf_genrec.methods.cobra.configuration_cobra import CobraConfig  # imports torch, which the keys need not

        CobraConfig(**self.config_fields())  # catalogue and codes are not known yet: any do

    def config_fields(self) -> dict[str, Any]:
        """The settings that are fields of `CobraConfig`."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "method"}
