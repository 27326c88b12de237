"""The keys of S2GR that a user sets."""

from dataclasses import dataclass, field
from typing import Any, Literal

from hf_genrec.training.code_t5_arguments import CodeT5Arguments


@dataclass
class S2grArguments(CodeT5Arguments):
    """
    The S2GR model, a T5 over codes that thinks before each, from scratch.

    Raises:
        ValueError: for values that the model's configuration refuses.
    """

    method: Literal["s2gr"] = field(default="s2gr", metadata={"help": "what is trained"})
    thinking: list[bool] = field(
        default_factory=lambda: [True],
        metadata={"help": "per code: a thinking vector before it; one value stands for every code; all false: TIGER"},
    )
    num_clusters: int = field(
        default=32, metadata={"help": "clusters of each codebook that thinking vectors are taught to match; 0: none"}
    )
    cluster_weight: float = field(default=1.0, metadata={"help": "weight of the clusters in the loss"})
    item_weight: float = field(
        default=1.0, metadata={"help": "weight of telling whole items apart; 0 leaves out the decoder that does"}
    )
    thought_weight: float = field(
        default=0.1, metadata={"help": "weight of the first thinking vector's distance from the whole item"}
    )
    temperature: float = field(default=0.1, metadata={"help": "of the softmaxes over cosines"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.thinking:
            raise ValueError("thinking is empty: give [true] for every code, or one value per code")
        # It imports torch, which the keys need not.
        from hf_genrec.methods.s2gr.configuration_s2gr import S2grConfig

        S2grConfig(vocab_size=3, codebook_sizes=[1], num_clusters=[self.num_clusters], **self.loss_fields())

    def loss_fields(self) -> dict[str, Any]:
        """The settings that are fields of `S2grConfig` alone, whatever the codes."""
        names = ("cluster_weight", "item_weight", "thought_weight", "temperature")
        return {name: getattr(self, name) for name in names}
