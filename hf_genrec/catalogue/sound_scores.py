"""Scores that are no numbers: a damaged model must not pass for one that recommends something, or nothing."""

from typing import Any, NoReturn
from weakref import WeakKeyDictionary

import torch

from .weights_mark import weights_mark

REMEDY = "train again from sound weights, or load another checkpoint (in float16: a wider dtype)"


class UnsoundModel(ValueError):
    """A model whose weights or scores hold NaN or infinity."""


def refuse_model(model, weight: str = "") -> NoReturn:
    """
    Raises:
        UnsoundModel: always; says which model, and which weight, where it is known.
    """
    place = getattr(getattr(model, "config", None), "_name_or_path", "")
    name = f"{type(model).__name__} from {place}" if place else type(model).__name__
    what = f"weights ({weight})" if weight else "scores, so its weights,"
    raise UnsoundModel(f"{name}: its {what} hold NaN or infinity: {REMEDY}.")


_sound: WeakKeyDictionary[torch.nn.Module, list[tuple[Any, ...]]] = WeakKeyDictionary()  # marks of sound weights


def require_sound_weights(model: torch.nn.Module) -> None:
    """
    Looks at all weights, unless they are those of the last time: some kernels of attention make zeros of NaN, and the
    scores show nothing. -inf may stand in a bias, of what is never to be written.

    Raises:
        ValueError: if there is NaN or infinity among them; says in which.
    """
    mark = weights_mark(model)
    if _sound.get(model) == mark:
        return
    sound = {
        name: (weight < torch.inf if name.endswith("bias") else weight.isfinite()).all()
        for name, weight in model.named_parameters()
        if weight.is_floating_point() and not weight.is_meta
    }
    if sound and not torch.stack([of_one.to(model.device) for of_one in sound.values()]).all():  # waits once for all
        refuse_model(model, next(name for name, of_one in sound.items() if not of_one))
    _sound[model] = mark


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


def illegal_scores(scores: torch.Tensor, closed: torch.Tensor) -> torch.Tensor:
    """
    What a logits processor of the catalogue gives to tokens (rows, V) that are not legal: -inf, or the lowest finite
    number in rows where a legal code has -inf itself (`closed`, (rows,) boolean) and must not be chosen instead.
    """
    lowest = torch.full_like(scores, -torch.inf)
    return lowest.masked_fill_(closed[:, None], torch.finfo(scores.dtype).min)


def require_choice(open_codes: torch.Tensor, closed: torch.Tensor, num_beams: int) -> None:
    """
    That there is something to sample, where some scores are -inf.

    Args:
        open_codes: (rows,) boolean, whether a code is left whose score is above -inf.
        closed: (rows,) boolean, whether a legal code has a score of -inf.
        num_beams: beams that are sampled; more than one are drawn without replacement, past what has no probability.

    Raises:
        ValueError: if a row has none left; for several beams, if any legal code is ruled out.
    """
    if not open_codes.all():
        raise ValueError(
            "The model's scores rule out every legal code (-inf), so there is nothing to sample: call recommend, which "
            "leaves such items out, or allow more candidates."
        )
    if num_beams > 1 and closed.any():
        raise ValueError(
            f"The model's scores rule out legal codes (-inf), and num_beams={num_beams} would sample them, too: sample "
            f"with num_beams=1, or leave do_sample out."
        )
