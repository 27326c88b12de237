"""Weights of the authors' code."""

from collections.abc import Mapping

import torch


def require_same_weights(expected: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor | None]) -> None:
    """
    Raises:
        ValueError: if a weight is missing (or `None`), left over, or of another shape; names them.
    """
    wrong = []
    for name in sorted(expected.keys() | given.keys()):
        weight = given.get(name)
        if name not in expected or weight is None or weight.shape != expected[name].shape:
            wrong.append(name)
    if wrong:
        raise ValueError(f"The weights do not fit the configuration (missing, left over or of another shape): {wrong}.")
