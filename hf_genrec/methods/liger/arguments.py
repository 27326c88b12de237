"""The keys of LIGER that a user sets."""

from dataclasses import dataclass, field
from typing import Any, Literal

from hf_genrec.methods.liger.liger_choices import RETRIEVAL
from hf_genrec.training.code_t5_arguments import CodeT5Arguments

OWN = (
    "projector_sizes",
    "projector_dropout",
    "input_dropout",
    "dense_temperature",
    "sparse_loss_weight",
    "dense_loss_weight",
    "retrieval",
)


@dataclass
class LigerArguments(CodeT5Arguments):
    """
    The LIGER model, a T5 over codes and texts, from scratch.

    Raises:
        ValueError: for values that the model's configuration refuses.
    """

    method: Literal["liger"] = field(default="liger", metadata={"help": "what is trained"})
    projector_sizes: list[int] = field(
        default_factory=lambda: [256],
        metadata={
            "help": "widths of the residual layers between an item's text and its vector; empty: one linear layer"
        },
    )
    projector_dropout: float = field(default=0.2, metadata={"help": "dropout in front of these layers and behind each"})
    input_dropout: float = field(default=0.5, metadata={"help": "dropout of what the encoder reads"})
    dense_temperature: float = field(default=0.07, metadata={"help": "cosines are divided by it in the dense loss"})
    sparse_loss_weight: float = field(default=1.0, metadata={"help": "weight of the loss of the codes"})
    dense_loss_weight: float = field(default=1.0, metadata={"help": "weight of the loss of the dense vectors"})
    retrieval: str = field(
        default="hybrid",
        metadata={
            "help": f"how lists are made, one of {', '.join(RETRIEVAL)}; hybrid ranks the beams' items and those that "
            "nobody has had yet by the dense vector"
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        # It imports torch, which the keys need not.
        from hf_genrec.methods.liger.configuration_liger import LigerConfig

        LigerConfig(vocab_size=3, codebook_sizes=[1], **self.config_fields())  # the codes are not known yet: any do

    def config_fields(self) -> dict[str, Any]:
        return super().config_fields() | {name: getattr(self, name) for name in OWN if hasattr(self, name)}
