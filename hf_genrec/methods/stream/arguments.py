"""The keys of STREAM that a user sets."""

from dataclasses import dataclass, field
from typing import Any, Literal

from hf_genrec.training.code_t5_arguments import CodeT5Arguments

TRACES = ("residual", "random", "similar")


@dataclass
class StreamArguments(CodeT5Arguments):
    """
    The STREAM model, a T5 over codes that writes thinking tokens first, and where its traces come from.

    Raises:
        ValueError: for values that the model's configuration refuses, or other traces.
    """

    method: Literal["stream"] = field(default="stream", metadata={"help": "what is trained"})
    num_thinking_tokens: int = field(default=4, metadata={"help": "codes written before those of the item; 0: TIGER"})
    traces: str = field(
        default="residual",
        metadata={
            "help": f"one of {', '.join(TRACES)}: what the thinking tokens are taught, the codes nearest to what the "
            "model of stage1_run lacks of the target; random codes; or, for a stage 1, those of the items whose text "
            "is nearest"
        },
    )
    stage1_run: str | None = field(
        default=None,
        metadata={
            "help": "finished run of the same data, codes and sizes (method: tiger or stream) whose model writes the "
            "traces and whose weights the training starts from; null, without residual traces: random weights"
        },
    )
    state_weight: float = field(default=1.0, metadata={"help": "weight of drawing the states to the target"})
    quantization_weight: float = field(
        default=1.0, metadata={"help": "weight of the distance between residuals and their codes"}
    )
    preference_weight: float = field(
        default=0.1,
        metadata={"help": "weight of preferring the target to what the model of stage1_run takes for it (DPO); 0: not"},
    )
    preference_beta: float = field(default=0.1, metadata={"help": "DPO: what log-probability ratios are multiplied by"})
    temperature: float = field(default=0.1, metadata={"help": "of the softmax over cosines of states and targets"})

    def __post_init__(self) -> None:
        super().__post_init__()
        # It imports torch, which the keys need not.
        from hf_genrec.methods.stream.configuration_stream import StreamConfig

        StreamConfig(vocab_size=3, codebook_sizes=[1], **self.stream_fields())
        if self.traces not in TRACES:
            raise ValueError(f"traces: {self.traces!r} is not one of {', '.join(TRACES)}")

    def stream_fields(self) -> dict[str, Any]:
        """The settings that are fields of `StreamConfig` alone. Only residual traces have residuals to be learned, and
        the traces of a stage 1 are learned as they are."""
        state = 0.0 if self.traces == "similar" else self.state_weight
        return {
            "num_thinking_tokens": self.num_thinking_tokens,
            "state_weight": state,
            "quantization_weight": self.quantization_weight if self.traces == "residual" else 0.0,
            "preference_weight": self.preference_weight,
            "preference_beta": self.preference_beta,
            "temperature": self.temperature,
        }

    @property
    def prefers(self) -> bool:
        """Whether the loss has a preference."""
        return self.preference_weight > 0 and self.stage1_run is not None and self.traces != "similar"
