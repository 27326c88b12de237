"""The keys of an ensemble that a user sets."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass
class EnsembleArguments:
    """
    An ensemble of finished runs on the same prepared data.

    Raises:
        ValueError: for a weight below 0, weights that are not one a run, or no candidates.
    """

    method: Literal["ensemble"] = field(default="ensemble", metadata={"help": "what is trained"})
    members_runs: list[str] = field(
        default_factory=list, metadata={"help": "run folders of the trained models that are added up, two or more"}
    )
    member_weights: list[float] | None = field(
        default=None,
        metadata={"help": "what each member's scores are multiplied with; null chooses them on the validation split"},
    )
    num_candidates: int = field(
        default=100, metadata={"help": "items that each member offers, and beams of those that search"}
    )

    def __post_init__(self) -> None:
        if self.num_candidates < 1:
            raise ValueError(f"num_candidates {self.num_candidates}: give a whole number, at least 1")
        if self.member_weights is not None:
            if min(self.member_weights, default=-1) < 0 or not any(self.member_weights):
                raise ValueError(f"member_weights {self.member_weights}: give numbers from 0, one above 0 among them")
            if len(self.member_weights) != len(self.members_runs):
                raise ValueError(
                    f"member_weights are {len(self.member_weights)} numbers for {len(self.members_runs)} members_runs: "
                    f"give one for each"
                )
