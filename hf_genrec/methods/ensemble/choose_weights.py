"""The weights of an ensemble's members: chosen on the validation split, without a gradient."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.functional import pad

from hf_genrec.catalogue.best_columns import best_columns
from hf_genrec.catalogue.evaluation_mode import evaluation_mode
from hf_genrec.data.prepared import EvaluationSplit
from hf_genrec.evaluation.metrics import ndcg_at_k, recall_at_k
from hf_genrec.methods.ensemble.modeling_ensemble import Candidates, EnsembleForNextItem

GRID = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
K = 10
USERS = 4096  # whose lists are made at once


@torch.no_grad()
def choose_weights(
    model: EnsembleForNextItem, split: EvaluationSplit, exclude_seen: bool | None = None, batch_size: int = 64
) -> list[dict[str, Any]]:
    """
    Give a model the weights of the best NDCG@10 on all users of a split.

    The first member's weight is 1. Each other one's is the best of `GRID` beside those found so far, the smallest of
    equal ones; where there are more than two members, all are gone through twice. This is done for lists with the
    history's items and for lists without them. The members are asked once: a list without the history is what is left
    of the same candidates.

    Args:
        exclude_seen: for which of these lists the weights are taken; by default for those that are better.

    Returns:
        what was tried, in the order of trying: `weights`, `exclude_seen`, and their `ndcg@10` and `recall@10`.
    """
    found = _all_candidates(model, split.histories, batch_size)
    unseen = found._replace(offered=found.offered & ~_seen(found.rows, split.histories))
    searches = {False: _Search(found, split), True: _Search(unseen, split)}
    best = {rule: search.run(len(model.members)) for rule, search in searches.items()}
    if exclude_seen is None:
        exclude_seen = searches[True].ndcg(best[True]) > searches[False].ndcg(best[False])
    for search in searches.values():
        search.ndcg(best[exclude_seen])  # what is chosen is measured under both rules
    model.set_weights(best[exclude_seen])
    return [
        {"weights": list(weights), "exclude_seen": rule, **figures}
        for rule, search in searches.items()
        for weights, figures in search.tried.items()
    ]


class _Search:
    """The figures of weights, each measured once."""

    def __init__(self, found: Candidates, split: EvaluationSplit):
        self.found, self.split = found, split
        self.tried: dict[tuple[float, ...], dict[str, float]] = {}

    def ndcg(self, weights: tuple[float, ...]) -> float:
        if weights not in self.tried:
            rows, targets = np.concatenate(list(_lists(self.found, weights))), self.split.targets
            figures = {"ndcg@10": ndcg_at_k(rows, targets, K), "recall@10": recall_at_k(rows, targets, K)}
            self.tried[weights] = {name: float(values.mean()) for name, values in figures.items()}
        return self.tried[weights]["ndcg@10"]

    def run(self, num_members: int) -> tuple[float, ...]:
        """The best weights found."""
        weights = (1.0,) + (0.0,) * (num_members - 1)
        for _ in range(1 if num_members == 2 else 2):
            for place in range(1, num_members):
                choices = [(*weights[:place], weight, *weights[place + 1 :]) for weight in GRID]
                weights = max(choices, key=self.ndcg)  # the first of equal ones
        return weights


def _seen(rows: torch.Tensor, histories: Sequence[np.ndarray]) -> torch.Tensor:
    """Which of the rows (users, C) are in the user's history."""
    return torch.from_numpy(
        np.stack([np.isin(line, history) for line, history in zip(rows.numpy(), histories, strict=True)])
    )


def _all_candidates(model: EnsembleForNextItem, histories: Sequence[np.ndarray], batch_size: int) -> Candidates:
    """What all members offer for all users, on the CPU."""
    by_length = np.argsort([len(history) for history in histories], kind="stable")
    members, count = range(len(model.members)), max(model.config.num_candidates, K)
    parts: list[Candidates] = []
    with evaluation_mode(model):
        for start in range(0, len(by_length), batch_size):
            batch = [histories[int(line)] for line in by_length[start : start + batch_size]]
            part = model.candidates(batch, members, min(count, model.config.num_items))
            parts.append(Candidates(*(tensor.cpu() for tensor in part)))
    width = max([K, *(part.rows.shape[1] for part in parts)])
    back = torch.from_numpy(np.argsort(by_length, kind="stable"))
    rows = torch.cat([pad(part.rows.int(), (0, width - part.rows.shape[1]), value=-1) for part in parts])
    scores = torch.cat([pad(part.scores, (0, width - part.rows.shape[1])) for part in parts], dim=1)
    offered = torch.cat([pad(part.offered, (0, width - part.rows.shape[1])) for part in parts], dim=1)
    return Candidates(rows[back], scores[:, back], offered[:, back])


def _lists(found: Candidates, weights: Sequence[float]) -> Iterator[np.ndarray]:
    """The lists (users, K) of some weights, -1 where an item lacks."""
    for start in range(0, len(found.rows), USERS):
        some = slice(start, start + USERS)
        part = Candidates(found.rows[some], found.scores[:, some], found.offered[:, some])
        best, columns = best_columns(part.sum(weights), K)
        yield part.rows.gather(1, columns).masked_fill(best == -torch.inf, -1).long().numpy()
