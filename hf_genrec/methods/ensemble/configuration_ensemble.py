"""Configuration of a model that adds up the scores of several recommenders."""

import re
from dataclasses import field

from ...catalogue.flat_code import FlatCode
from ...catalogue.saved_files import require_number
from ...catalogue.transformers_bridge import PreTrainedConfig

LARGEST_WEIGHT = 1e6


class EnsembleConfig(FlatCode, PreTrainedConfig):
    """
    Configuration of [`EnsembleForNextItem`].

    Args:
        members (`list[str]`): folders below the model's own, each a saved model that opens by itself.
        member_types (`list[str]`): their `model_type`.
        weights (`list[float]`): what the members' scores are multiplied with. A member of weight 0 is not asked.
        num_candidates (`int`): items that each member offers.
        num_items (`int`): the catalogue's.
        max_history (`int`): newest items of a history that some member reads.
    """

    model_type = "ensemble"
    settings_of_processor = ("max_history", "num_items")  # equal in both, or the folder is refused

    members: list[str] = field(default_factory=lambda: ["member_1"])
    member_types: list[str] = field(default_factory=lambda: [""])
    weights: list[float] = field(default_factory=lambda: [1.0])
    num_candidates: int = 100
    num_items: int = 1
    max_history: int = 50

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if getattr(self, "auto_map", None) is None:
            # What wrote codes alone is opened by the same line with another member beside it.
            self.auto_map = {
                "AutoConfig": "configuration_ensemble.EnsembleConfig",
                "AutoModel": "modeling_ensemble.EnsembleForNextItem",
                "AutoModelForCausalLM": "modeling_ensemble.EnsembleForNextItem",
                "AutoModelForSequenceClassification": "modeling_ensemble.EnsembleForNextItem",
                "AutoProcessor": "processing_rows.ItemProcessor",
            }
        self._check()

    def _check(self):
        lists = {name: getattr(self, name) for name in ("members", "member_types", "weights")}
        for name, values in lists.items():
            if not isinstance(values, list) or len(values) != len(self.members) or not values:
                raise ValueError(f"{name}={values!r}: give one for each of the members, at least 1.")
        for name in self.members:
            if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9]\w*", name, re.ASCII):
                raise ValueError(f"members: {name!r} is no name of a folder: use letters, digits and _.")
        if len(set(self.members)) < len(self.members):
            raise ValueError(f"members: {self.members} names a folder twice.")
        for name in self.member_types:
            if not isinstance(name, str) or not re.fullmatch(r"\w*", name, re.ASCII):
                raise ValueError(f"member_types: {name!r} is no type of a model.")
        for value in self.weights:
            require_number("weights", value, 0, LARGEST_WEIGHT, whole=False)
        if not any(self.weights):
            raise ValueError(f"weights={self.weights}: at least one member must have a weight above 0.")
        for name in ("num_candidates", "num_items", "max_history"):
            require_number(name, getattr(self, name), 1)


EnsembleConfig.register_for_auto_class()

__all__ = ["EnsembleConfig"]
