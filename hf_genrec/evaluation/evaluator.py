"""Runs a recommender over an evaluation split: accuracy with intervals, catalogue metrics, bias, cost."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from tqdm.auto import tqdm

from hf_genrec.evaluation.metrics import (
    bootstrap_interval,
    catalogue_coverage,
    diversity_ratio,
    gini,
    invalid_share,
    is_catalogue_item,
    over_recommendation_ratio,
    per_user_metrics,
    short_list_share,
    token_bias_amplification,
)
from hf_genrec.evaluation.popularity_metrics import popularity_metrics
from hf_genrec.terminal import shows_bars

if TYPE_CHECKING:
    from hf_genrec.data.prepared import EvaluationSplit

logger = logging.getLogger(__name__)

KS = (5, 10, 20)  # the lengths of the lists that are measured


@dataclass
class EvaluationResult:
    """What `evaluate_recommender` measured.

    Attributes:
        split, num_users, num_items, ks, exclude_seen: what was evaluated.
        metrics: for every k "recall@k", "ndcg@k", "mrr@k", "precision@k" (means over users), "div_ratio@k",
            "or_ratio@k", "coverage@k", "gini@k"; with `train` "novelty@k", "serendipity@k", "debiased_recall@k",
            "debiased_ndcg@k" (means over users); and over the longest lists "invalid_share" and "short_list_share".
        intervals: 95 % bootstrap interval (low, high) over users of every metric that is a mean over users.
        per_user: (users,) values of these metrics, in the order of the split, for paired comparisons.
        token_bias: (L, 5) amplification per code position and frequency group (`token_bias_amplification`) of the lists
            cut to `table_k`, or None without codes.
        seconds, cpu_seconds: wall and processor time spent in the recommender, all threads of this process.
    """

    split: str
    num_users: int
    num_items: int
    ks: tuple[int, ...]
    exclude_seen: bool
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    per_user: dict[str, np.ndarray] = field(repr=False)
    token_bias: np.ndarray | None
    seconds: float
    cpu_seconds: float

    @property
    def users_per_second(self) -> float:
        return self.num_users / self.seconds if self.seconds > 0 else float("inf")

    @property
    def table_k(self) -> int:
        """The k of the metrics shown at one k only: 10 where it was evaluated, otherwise the largest."""
        return 10 if 10 in self.ks else max(self.ks)


def evaluate_recommender(
    recommend: Callable[[list[np.ndarray], int], np.ndarray],
    split: "EvaluationSplit",
    num_items: int,
    ks: Sequence[int] = KS,
    batch_size: int = 256,
    popularity: np.ndarray | None = None,
    codes: np.ndarray | None = None,
    exclude_seen: bool = False,
    progress: bool = True,
    train: Sequence[np.ndarray] | None = None,
) -> EvaluationResult:
    """Evaluates `recommend` on all users of `split`, ranking the whole catalogue.

    Args:
        recommend: `recommend(histories, k)` returns an integer array (len(histories), up to k) of item indices, best
            first, -1 after the end of a short list. Any other value outside 0..num_items-1 counts as an invalid item.
        split: `histories` and `targets`, item indices per user.
        num_items: size of the catalogue.
        ks: cut-offs; `recommend` is asked for the largest.
        batch_size: users per call of `recommend`.
        popularity: (items,) training interactions per item; needed with `codes`.
        codes: (items, L) semantic IDs, for the token bias amplification.
        exclude_seen: says that `recommend` leaves out the items of the history. It is checked, not done here.
        progress: shows a progress bar.
        train: training sequences of item indices, for the metrics that ask how popular an item is.

    Raises:
        ValueError: an empty split, an answer of the wrong shape, a -1 before the end of a list, or a seen item
            although `exclude_seen` is set.
    """
    ks = tuple(sorted(set(ks)))
    users = len(split.histories)
    if users == 0 or not ks:
        raise ValueError(
            f"split {split.name!r} has {users} users and ks is {ks}; evaluation needs at least one of each"
        )
    if codes is not None and (popularity is None or not len(codes) == len(popularity) == num_items):
        raise ValueError(f"codes need popularity, and both one row for each of the {num_items} items")

    recommended = np.full((users, ks[-1]), -1, dtype=np.int64)
    wall, cpu = 0.0, 0.0
    with tqdm(
        total=users, desc=f"evaluate {split.name}", unit=" users", disable=not (progress and shows_bars())
    ) as bar:
        for start in range(0, users, batch_size):
            histories = list(split.histories[start : start + batch_size])
            wall_start, cpu_start = time.perf_counter(), time.process_time()
            answer = np.asarray(recommend(histories, ks[-1]))
            wall += time.perf_counter() - wall_start
            cpu += time.process_time() - cpu_start
            if (
                answer.ndim != 2
                or len(answer) != len(histories)
                or answer.shape[1] > ks[-1]
                or answer.dtype.kind != "i"
            ):
                raise ValueError(
                    f"recommend returned {answer.dtype} of shape {answer.shape} for {len(histories)} histories and "
                    f"k={ks[-1]}; it must return one integer array ({len(histories)}, up to {ks[-1]}) of item indices"
                )
            recommended[start : start + len(histories), : answer.shape[1]] = answer
            bar.update(len(histories))
    _check_lists(recommended, split.histories, exclude_seen)

    catalogue = np.ones(num_items, dtype=bool)
    metrics = {
        "invalid_share": invalid_share(recommended, catalogue),
        "short_list_share": short_list_share(recommended),
    }
    # from here on an invalid entry is an empty slot: it can neither hit nor count as an item
    recommended = np.where(is_catalogue_item(recommended, catalogue), recommended, -1)
    per_user = per_user_metrics(recommended, split.targets, ks)
    if train is not None:
        per_user |= popularity_metrics(recommended, split.targets, train, num_items, ks)
    for name, values in per_user.items():
        metrics[name] = float(values.mean())
    for k in ks:
        metrics[f"div_ratio@{k}"] = diversity_ratio(recommended, k)
        metrics[f"or_ratio@{k}"] = over_recommendation_ratio(recommended, k)
        metrics[f"coverage@{k}"] = catalogue_coverage(recommended, k, num_items)
        metrics[f"gini@{k}"] = gini(recommended, k, num_items)

    result = EvaluationResult(
        split=split.name,
        num_users=users,
        num_items=num_items,
        ks=ks,
        exclude_seen=exclude_seen,
        metrics=metrics,
        intervals={name: bootstrap_interval(values) for name, values in per_user.items()},
        per_user=per_user,
        token_bias=None,
        seconds=wall,
        cpu_seconds=cpu,
    )
    if codes is not None and popularity is not None:
        top = recommended[:, : result.table_k]
        result.token_bias = token_bias_amplification(
            codes[top[top >= 0]], codes[np.concatenate(split.targets)], codes, popularity
        )
    return result


def _check_lists(recommended: np.ndarray, histories: Sequence[np.ndarray], exclude_seen: bool) -> None:
    gaps = (recommended[:, :-1] == -1) & (recommended[:, 1:] != -1)
    if gaps.any():
        raise ValueError(f"the list of user row {int(np.nonzero(gaps)[0][0])} has -1 before its end; -1 only pads it")
    ordered = np.sort(recommended, axis=1)
    repeated = int(((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != -1)).sum())
    if repeated:
        logger.warning(
            "%d of %d list entries repeat an earlier entry of their list; only the first can be a hit",
            repeated,
            recommended.size,
        )
    if exclude_seen:
        for row, (items, history) in enumerate(zip(recommended, histories, strict=True)):
            seen = items[np.isin(items, history)]
            if len(seen):
                raise ValueError(
                    f"user row {row} was recommended item {seen[0]} of its history although exclude_seen is set; "
                    "let recommend leave out seen items"
                )
