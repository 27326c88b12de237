"""Whether lists leave the history out: chosen on the validation split, as the default of a trained model."""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from hf_genrec.data.prepared import EvaluationSplit
from hf_genrec.evaluation.metrics import ndcg_at_k

logger = logging.getLogger(__name__)

K = 10
RULES = {"history_in_lists": False, "history_left_out": True}


def choose_exclude_seen(
    model: Any,
    split: EvaluationSplit,
    wanted: bool | None = None,
    batch_size: int = 64,
    known: Mapping[str, float] | None = None,
) -> dict[str, Any] | None:
    """
    Give a model's processor the default of `recommend` that has the better NDCG@10 on a split; equal ones leave the
    history in.

    Args:
        wanted: what the user has set; both are measured all the same.
        known: figures that need not be measured, by the names of `RULES`.

    Returns:
        for the record of the training: what was chosen, both figures and their users; `None` without a user.
    """
    if wanted is not None:
        model.processor.exclude_seen = wanted
    if not split.histories:
        return None
    figures = {
        name: known[name] if known and name in known else _ndcg(model, split, leave_out, batch_size)
        for name, leave_out in RULES.items()
    }
    with_history, without = figures.values()
    if wanted is None:
        model.processor.exclude_seen = without > with_history
    left_out = model.processor.exclude_seen
    logger.info(
        "lists %s by default, as %s: validation NDCG@%d %.4f with its items, %.4f without them",
        "leave the history out" if left_out else "may hold items of the history",
        "is better" if wanted is None else "is set",
        K,
        with_history,
        without,
    )
    chosen_by = "validation" if wanted is None else "exclude_seen"
    return {"left_out": left_out, "chosen_by": chosen_by, "users": len(split.histories), f"ndcg@{K}": figures}


def _ndcg(model: Any, split: EvaluationSplit, exclude_seen: bool, batch_size: int) -> float:
    rows = model.recommend_rows(split.histories, K, exclude_seen=exclude_seen, batch_size=batch_size)[0]
    rows = np.pad(rows, ((0, 0), (0, K - rows.shape[1])), constant_values=-1)  # of a catalogue with fewer items
    return float(ndcg_at_k(rows, split.targets, K).mean())
