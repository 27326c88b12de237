"""The keys of CodeTree that a user sets."""

from dataclasses import dataclass, field, fields
from typing import Any, Literal


@dataclass
class CodeTreeArguments:
    """
    The CodeTree model: what a user sets of `CodeTreeConfig`, with its names and defaults.

    Raises:
        ValueError: for values that `CodeTreeConfig` refuses.
    """

    method: Literal["codetree"] = field(default="codetree", metadata={"help": "what is trained"})
    hidden_size: int = field(default=64, metadata={"help": "length of item vectors and states"})
    intermediate_size: int = field(default=256, metadata={"help": "width of the feed-forward layers"})
    num_hidden_layers: int = field(default=2, metadata={"help": "layers that read the history"})
    num_attention_heads: int = field(default=2, metadata={"help": "attention heads"})
    hidden_dropout: float = field(
        default=0.2, metadata={"help": "dropout of what enters the first layer and of what each layer adds"}
    )
    attention_dropout: float = field(default=0.2, metadata={"help": "dropout of the attention weights"})

    def __post_init__(self) -> None:
        from hf_genrec.methods.codetree.configuration_codetree import (
            CodeTreeConfig,
        )  # imports torch, as the keys do not

        CodeTreeConfig(**self.config_fields())  # catalogue and codes are not known yet: any do

    def config_fields(self) -> dict[str, Any]:
        """The settings that are fields of `CodeTreeConfig`."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "method"}
