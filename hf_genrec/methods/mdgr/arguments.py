"""The keys of MDGR that a user sets."""

from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

Views = Literal["familiarity", "guided", "sequential", "random"]


@dataclass
class MdgrArguments:
    """
    The MDGR model: what a user sets of `MdgrConfig`, with its names and defaults, and which codes training hides.

    Raises:
        ValueError: for values that `MdgrConfig` refuses, other views, or a share that is none.
    """

    method: Literal["mdgr"] = field(default="mdgr", metadata={"help": "what is trained"})
    hidden_size: int = field(default=256, metadata={"help": "length of embeddings and states"})
    intermediate_size: int = field(default=1024, metadata={"help": "width of the feed-forward layers"})
    num_encoder_layers: int = field(default=1, metadata={"help": "layers that read the history"})
    num_hidden_layers: int = field(default=4, metadata={"help": "layers of the decoder"})
    num_attention_heads: int = field(default=4, metadata={"help": "attention heads"})
    norm_type: str = field(default="layernorm", metadata={"help": "layernorm or rmsnorm"})
    dropout: float = field(default=0.1, metadata={"help": "dropout of the embeddings and of what each layer adds"})
    attention_dropout: float = field(default=0.0, metadata={"help": "dropout of the attention weights"})
    label_smoothing: float = field(
        default=0.1, metadata={"help": "share of a target's probability that is spread over its codebook"}
    )
    warmup_codes: int | None = field(
        default=None,
        metadata={
            "help": "recommending: codes written one at a time, before several are; null: a quarter of the codebooks"
        },
    )
    parallel_width: int = field(default=3, metadata={"help": "recommending: codes written at once from then on"})
    views: str = field(
        default="familiarity",
        metadata={
            "help": "which codes of a target are hidden: by two schedules (familiarity), by the model's confidence "
            "(guided), along a random order (sequential), or any (random)"
        },
    )
    num_views: int = field(
        default=4,
        metadata={"help": "views of a target in a step, of familiarity and random; the others have one per codebook"},
    )
    full_view_share: float = field(
        default=0.25, metadata={"help": "familiarity: the share of views in which all codes are hidden, at least"}
    )
    guided_first: str = field(
        default="least", metadata={"help": "guided: the codes that the model is least or most sure of are hidden first"}
    )
    guided_refresh: bool = field(
        default=False, metadata={"help": "guided: ask the model anew after each code, not once per target"}
    )

    def __post_init__(self) -> None:
        # It imports torch, which the keys need not.
        from hf_genrec.methods.mdgr.configuration_mdgr import MdgrConfig

        own = self.config_fields()
        # The codebooks are not known yet: so many that any number of codes written one at a time will do.
        MdgrConfig(codebook_sizes=[1] * max(1, self.warmup_codes or 1), **own)
        for name, choices in (("views", get_args(Views)), ("guided_first", ("least", "most"))):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}: {getattr(self, name)!r} is not one of {', '.join(choices)}")
        if self.num_views < 1:
            raise ValueError(f"num_views must be at least 1, not {self.num_views}")
        if not 0 <= self.full_view_share <= 1:
            raise ValueError(f"full_view_share must be from 0 to 1, not {self.full_view_share}")

    def config_fields(self) -> dict[str, Any]:
        """The settings that are fields of `MdgrConfig`."""
        own = ("method", "views", "num_views", "full_view_share", "guided_first", "guided_refresh")
        return {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name not in own}
