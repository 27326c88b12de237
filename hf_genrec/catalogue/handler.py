"""What Hugging Face's Inference Endpoints call: `handler.py` of a saved folder, which they load by itself."""

import inspect
import os
from collections.abc import Mapping
from typing import Any, get_args

import transformers

# By the first line of this file, which stays as it is, `refresh` tells it from a user's own, which is kept.
TASK = "recommendation"  # what `pipeline` of transformers calls it
TAKEN = ("inputs", "parameters", "options")  # `options` are those of the service, not of the model


class EndpointHandler:
    """
    The model beside this file, asked by JSON.

    Args:
        path: the folder; by default the one of this file.
    """

    def __init__(self, path: Any = ""):
        pipeline: Any = transformers.pipeline
        self.pipeline = pipeline(TASK, model=str(path) or os.path.dirname(__file__), trust_remote_code=True)

    def __call__(self, data: dict[str, Any]) -> list[Any]:
        """
        Args:
            data: `{"inputs": ..., "parameters": {...}}`: a history (item ids, oldest first), a list of them, or
                `{"history": ...}` or `{"histories": ...}`; and the options of `recommend` (`k`, `exclude_seen`,
                `candidates`, `unknown`, ...).

        Returns:
            a list of `{"item_id": ..., "title": ..., "score": ...}`, best first; for several histories a list of such
            lists.

        Raises:
            ValueError, TypeError: in one line, for anything else.
        """
        if not isinstance(data, dict) or "inputs" not in data:
            raise ValueError('The body has no inputs: send {"inputs": ["12", "7"], "parameters": {"k": 10}}.')
        more = sorted(map(str, set(data) - set(TAKEN)))
        if more:
            raise ValueError(
                f'The body has a key {more[0][:60]!r}: send "inputs" and "parameters", with the options in the latter.'
            )
        parameters = data.get("parameters")
        if not isinstance(parameters, dict | None):
            raise ValueError('The parameters are no object: send {"k": 10}, say, or leave them out.')
        parameters = parameters or {}
        if "inputs" in parameters:
            raise ValueError("The parameters hold 'inputs': send them beside the parameters.")
        inputs = data["inputs"]
        beside = set(inputs) - {"history", "histories"} if isinstance(inputs, Mapping) else set()
        taken = _options(self.pipeline.model)
        unknown = sorted(map(str, (beside | set(parameters)) - set(taken)))
        if unknown:
            raise ValueError(f"There is no parameter {unknown[0][:60]!r}: this endpoint takes {', '.join(taken)}.")
        return self.pipeline(inputs, **parameters)


def _options(model: Any) -> list[str]:
    """Those of `recommend` that JSON can say, and that leave the answer a list of items."""
    plain = {bool, int, float, str, type(None)}
    names = [
        name
        for name, entry in inspect.signature(model.recommend_rows).parameters.items()
        if set(get_args(entry.annotation) or [entry.annotation]) <= plain and not name.startswith("return_")
    ]
    return list(dict.fromkeys(["k", "exclude_seen", "candidates", "unknown", *names]))
