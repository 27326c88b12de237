"""Metrics that ask how popular the recommended items are: novelty, serendipity, and accuracy without popularity bias.

They read ranked lists and targets as those of `metrics` do, and the interactions of training. Definitions of novelty
(mean inverse user frequency) and serendipity: those of RecTools. The worked examples share three training sequences of
a catalogue of four items, and two users:

    train = [np.array([0, 1]), np.array([0, 2]), np.array([0])]
    recommended = np.array([[2, 0], [3, -1]])
    targets = [np.array([2]), np.array([3])]
"""

from collections.abc import Sequence

import numpy as np

from hf_genrec.evaluation.metrics import first_columns, target_hits

PROPENSITY_POWER = 0.5


def novelty_at_k(recommended: np.ndarray, train: Sequence[np.ndarray], num_items: int, k: int) -> np.ndarray:
    """
    Mean of -log2(share of the training users who have the item) over the first `k` items of a list, (users,) float64;
    0 for an empty list. An item that nobody has counts as that of one user.

    Example: `novelty_at_k(recommended, train, 4, 2)` is `[0.7925, 1.585]`: item 2 has one of three users (log2 3), item
    0 all of them (0), item 3 none.
    """
    lists = first_columns(recommended, k)
    users = [sequence for sequence in train if len(sequence)]
    if not users:
        raise ValueError("there are no training interactions, so nothing is known to be popular or new")
    counts = np.bincount(np.concatenate([np.unique(sequence) for sequence in users]), minlength=num_items)
    novelty = -np.log2(np.maximum(counts, 1) / len(users))
    return _mean_over_list(np.where(lists >= 0, novelty[lists], 0.0), lists)


def serendipity_at_k(
    recommended: np.ndarray, targets: Sequence[np.ndarray], popularity: np.ndarray, k: int
) -> np.ndarray:
    """
    Mean over the first `k` items of a list of max(p - p_any, 0) where the item is a target, else 0; (users,) float64.

    At rank r of n items p is (n + 1 - r) / n; p_any is the same of the item's rank by `popularity` (items,), its number
    of training interactions: 1 for the most frequent, equal numbers share a rank; p_any is 0 for items without any.

    Example: with popularity `[3, 1, 1, 0]`, `serendipity_at_k(recommended, targets, popularity, 2)` is `[0.125, 1.0]`:
    item 2 is second by popularity, (4/4 - 3/4) / 2; item 3 is new, 4/4 - 0, in a list of one.
    """
    lists = first_columns(recommended, k)
    hits, _ = target_hits(recommended, targets, k)
    num_items = len(popularity)
    known = np.unique(popularity[popularity > 0])
    rank = len(known) - np.searchsorted(known, popularity)
    p_any = np.where(popularity > 0, (num_items + 1 - rank) / num_items, 0.0)
    p = (num_items + 1 - np.arange(1, k + 1)) / num_items  # (k,)
    return _mean_over_list(np.maximum(p - p_any[lists], 0.0) * hits, lists)


def debiased_at_k(
    recommended: np.ndarray, targets: Sequence[np.ndarray], popularity: np.ndarray, k: int
) -> dict[str, np.ndarray]:
    """
    Recall@k and NDCG@k as if targets were drawn with no regard to popularity: `{"debiased_recall": (users,),
    "debiased_ndcg": (users,)}`, whose means are the metrics.

    A target weighs 1 / propensity, the propensity of an item being its share of the training interactions to the power
    of 1/2 (arXiv 1909.03601); items without any count as those with one. Within a user, the weights are the gains of
    its targets; a user weighs as much as its targets on average (self-normalised inverse propensity scoring). Where all
    targets are equally popular the metrics are recall and NDCG.

    The value of a user is the metric plus what this user moves it by: so means, differences and bootstrap intervals of
    these values are those of the metric.

    Example: `debiased_at_k(recommended, targets, np.array([3, 1, 4, 1]), 1)`: both targets are hit, so recall is
    `[1.0, 1.0]`. Were item 2 not, its user's weight would be 1/sqrt(4) and the other's 1: the mean would be 1 / 1.5.
    """
    lists = first_columns(recommended, k)
    hits, _ = target_hits(recommended, targets, k)
    weights = np.maximum(popularity, 1).astype(np.float64) ** -PROPENSITY_POWER  # (items,)
    discounts = 1.0 / np.log2(np.arange(2, k + 2))
    gains = np.where(hits, weights[np.where(hits, lists, 0)], 0.0)
    wanted = [weights[np.unique(target)] for target in targets]
    total = np.array([own.sum() for own in wanted])
    ideal = np.array([np.sort(own)[::-1][:k] @ discounts[: len(own)] for own in wanted])
    of_user = total / np.array([len(own) for own in wanted])  # mean weight of a user's targets
    of_user = of_user / of_user.mean()
    values = {}
    for name, own in (("debiased_recall", gains.sum(1) / total), ("debiased_ndcg", gains @ discounts / ideal)):
        mean = float((of_user * own).mean())
        values[name] = mean + of_user * (own - mean)
    return values


def popularity_metrics(
    recommended: np.ndarray,
    targets: Sequence[np.ndarray],
    train: Sequence[np.ndarray],
    num_items: int,
    ks: Sequence[int],
) -> dict[str, np.ndarray]:
    """The metrics of this module at every k, `{"novelty@5": (users,), "serendipity@5": ..., ...}`."""
    popularity = np.bincount(np.concatenate([np.empty(0, np.int64), *train]).astype(np.int64), minlength=num_items)
    values = {}
    for k in ks:
        values[f"novelty@{k}"] = novelty_at_k(recommended, train, num_items, k)
        values[f"serendipity@{k}"] = serendipity_at_k(recommended, targets, popularity, k)
        for name, of_users in debiased_at_k(recommended, targets, popularity, k).items():
            values[f"{name}@{k}"] = of_users
    return values


def _mean_over_list(values: np.ndarray, lists: np.ndarray) -> np.ndarray:
    """Over the entries of each list (users, k) that are there."""
    return values.sum(1) / np.maximum((lists >= 0).sum(1), 1)
