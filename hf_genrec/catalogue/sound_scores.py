"""Scores that are no numbers: a damaged model must not pass for one that recommends something, or nothing."""

from typing import NoReturn

import torch

REMEDY = "train again from sound weights, or load another checkpoint (in float16: a wider dtype)"


def refuse_model(model) -> NoReturn:
    """
    Raises:
        ValueError: always; says which model.
    """
    place = getattr(getattr(model, "config", None), "_name_or_path", "")
    name = f"{type(model).__name__} from {place}" if place else type(model).__name__
    raise ValueError(f"{name}: its scores, so its weights, hold NaN or infinity: {REMEDY}.")


def require_sound(model, scores: torch.Tensor) -> torch.Tensor:
    """
    The scores as they are. -inf is one: the model rules the item out.

    Raises:
        ValueError: if there is NaN or +inf among them.
    """
    if not (scores < torch.inf).all():  # NaN is not less, either
        refuse_model(model)
    return scores


def require_sound_codes(scores: torch.Tensor) -> None:
    """
    [`require_sound`] of the scores (rows, K) of codes, where the model is not known.

    Raises:
        ValueError: if there is NaN or +inf among them.
    """
    if not (scores < torch.inf).all():
        raise ValueError(f"The model's scores of codes, so its weights, hold NaN or infinity: {REMEDY}.")
