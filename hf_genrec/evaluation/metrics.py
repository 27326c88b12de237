"""Ranking, catalogue and bias metrics as small functions on ranked lists of item indices.

Every function reads the same two inputs:

- `recommended` (users, K) int64: one row per user, best item first; -1 where a list is shorter than K. Rank r is
  column r - 1. An item repeated within a row counts as a hit only the first time.
- `targets`: one array of one or more item indices per user; repeated indices count once.

The worked examples share these two users, who want the items 3 and 7, and 5:

    recommended = np.array([[3, 1, 7, 2], [4, 5, 0, -1]])
    targets = [np.array([3, 7]), np.array([5])]

Definitions: those of the code published with arXiv 2602.03692 (multi-target recall and NDCG, DivRatio, ORRatio).
"""

from collections.abc import Sequence

import numpy as np

BOOTSTRAP_CHUNK = 2_000_000  # resampled values held at once: 16 MB


def target_hits(recommended: np.ndarray, targets: Sequence[np.ndarray], k: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the first `k` columns hold a target (users, k) bool, and how many distinct targets a user has (users,)."""
    lists = first_columns(recommended, k)
    users = len(lists)
    if len(targets) != users:
        raise ValueError(f"{users} recommended lists but {len(targets)} arrays of targets; give one of each per user")
    lengths = np.array([len(target) for target in targets])
    if not lengths.all():
        raise ValueError(f"user row {int(np.argmin(lengths))} has no target; leave users without targets out")
    wanted = np.concatenate(targets).astype(np.int64)
    if wanted.min() < 0:
        row = int(np.repeat(np.arange(users), lengths)[np.argmin(wanted)])
        raise ValueError(f"user row {row} has the negative target {wanted.min()}; targets are item indices from 0 on")

    # one integer per (user, item) pair makes membership a single sorted lookup over all users
    base = max(int(lists.max()), int(wanted.max())) + 1
    target_keys = np.unique(np.repeat(np.arange(users), lengths) * base + wanted)
    keys = (np.arange(users)[:, None] * base + lists).ravel()
    found = np.flatnonzero(np.isin(keys, target_keys) & (lists.ravel() >= 0))
    _, first = np.unique(keys[found], return_index=True)
    hits = np.zeros(lists.size, dtype=bool)
    hits[found[first]] = True
    return hits.reshape(lists.shape), np.bincount(target_keys // base, minlength=users)


def first_columns(recommended: np.ndarray, k: int) -> np.ndarray:
    recommended = np.asarray(recommended)
    if recommended.ndim != 2 or len(recommended) == 0:
        raise ValueError(f"recommended has shape {recommended.shape}; it must be (users, K) with at least one user")
    if not 1 <= k <= recommended.shape[1]:
        raise ValueError(f"k={k} but the lists have {recommended.shape[1]} columns; pad short lists with -1 up to k")
    return recommended[:, :k]


def recall_at_k(recommended: np.ndarray, targets: Sequence[np.ndarray], k: int) -> np.ndarray:
    """Share of a user's targets among the first `k` items, (users,) float64.

    Example: `recall_at_k(recommended, targets, 2)` is `[0.5, 1.0]`: one of two targets, and the only one.
    """
    hits, num_targets = target_hits(recommended, targets, k)
    return hits.sum(axis=1) / num_targets


def precision_at_k(recommended: np.ndarray, targets: Sequence[np.ndarray], k: int) -> np.ndarray:
    """Hits among the first `k` items divided by `k`, (users,) float64; a short list is divided by `k` too.

    Example: `precision_at_k(recommended, targets, 4)` is `[0.5, 0.25]`.
    """
    hits, _ = target_hits(recommended, targets, k)
    return hits.sum(axis=1) / k


def ndcg_at_k(recommended: np.ndarray, targets: Sequence[np.ndarray], k: int) -> np.ndarray:
    """Normalised discounted cumulative gain with gain 1 / log2(rank + 1), (users,) float64.

    The ideal list holds min(|targets|, k) hits at its head. Example: `ndcg_at_k(recommended, targets, 3)` is
    `[0.9197, 0.6309]`: (1 + 1/log2(4)) / (1 + 1/log2(3)) = 1.5 / 1.6309 for hits at ranks 1 and 3, and 1/log2(3) for
    a single target at rank 2.
    """
    hits, num_targets = target_hits(recommended, targets, k)
    gains = 1.0 / np.log2(np.arange(2, k + 2))
    return hits @ gains / np.cumsum(gains)[np.minimum(num_targets, k) - 1]


def mrr_at_k(recommended: np.ndarray, targets: Sequence[np.ndarray], k: int) -> np.ndarray:
    """1 / rank of the first hit within `k`, 0 without one, (users,) float64.

    Example: `mrr_at_k(recommended, targets, 4)` is `[1.0, 0.5]`.
    """
    hits, _ = target_hits(recommended, targets, k)
    return np.where(hits.any(axis=1), 1.0 / (hits.argmax(axis=1) + 1), 0.0)


def per_user_metrics(
    recommended: np.ndarray, targets: Sequence[np.ndarray], ks: Sequence[int]
) -> dict[str, np.ndarray]:
    """The ranking metrics at every k: `{"recall@5": (users,), "ndcg@5": ..., "mrr@5": ..., "precision@5": ...}`."""
    functions = {"recall": recall_at_k, "ndcg": ndcg_at_k, "mrr": mrr_at_k, "precision": precision_at_k}
    return {f"{name}@{k}": function(recommended, targets, k) for k in ks for name, function in functions.items()}


def diversity_ratio(recommended: np.ndarray, k: int) -> float:
    """DivRatio@k: distinct items over all users' first `k` items, divided by the users * k slots; higher is better.

    Example: `diversity_ratio(recommended, 4)` is 7 / 8: the items 0 to 5 and 7 in eight slots, one of them empty.
    """
    lists = first_columns(recommended, k)
    return len(np.unique(lists[lists >= 0])) / lists.size


def over_recommendation_ratio(recommended: np.ndarray, k: int, most: int = 10) -> float:
    """ORRatio@k: share of the users * k slots taken by the `most` most recommended items; lower is better.

    Example: the lists [[1, 2], [1, 3], [1, 4]] with k=2 and most=1 give 3 / 6: item 1 takes three of six slots.
    """
    lists = first_columns(recommended, k)
    _, counts = np.unique(lists[lists >= 0], return_counts=True)
    return float(np.sort(counts)[::-1][:most].sum() / lists.size)


def catalogue_coverage(recommended: np.ndarray, k: int, num_items: int) -> float:
    """Share of the catalogue's `num_items` items which stand in at least one list's first `k`.

    Example: `catalogue_coverage(recommended, 4, num_items=10)` is 0.7.
    """
    return float(np.count_nonzero(_counts(recommended, k, num_items)) / num_items)


def gini(recommended: np.ndarray, k: int, num_items: int) -> float:
    """Gini coefficient of how often each catalogue item, never recommended ones included, is in a list's first `k`.

    0 when every item is recommended equally often, (n - 1) / n when one of n items takes everything; nan when nothing
    is recommended. Example: counts [0, 0, 1, 3] give (-3*0 - 1*0 + 1*1 + 3*3) / (4 * 4) = 0.625.
    """
    counts = np.sort(_counts(recommended, k, num_items))
    if counts[-1] == 0:
        return float("nan")
    weights = 2 * np.arange(1, num_items + 1) - num_items - 1
    return float(weights @ counts / (num_items * counts.sum()))


def _counts(recommended: np.ndarray, k: int, num_items: int) -> np.ndarray:
    lists = first_columns(recommended, k)
    return np.bincount(lists[(lists >= 0) & (lists < num_items)], minlength=num_items)


def invalid_share(recommended: np.ndarray, catalogue: np.ndarray) -> float:
    """Share of the recommended entries which are no catalogue items; 0 when there are no entries at all.

    `catalogue` (items,) bool is True where the index is an item that may be recommended; an index outside it (other
    than the padding -1, which is no entry) is invalid. Example: `[[0, 2, 9], [1, -1, -1]]` with
    `catalogue = [True, True, False]` gives 2 / 4: 2 is not allowed and 9 is unknown.
    """
    entries = recommended[recommended != -1]
    return float((~is_catalogue_item(entries, catalogue)).mean()) if entries.size else 0.0


def is_catalogue_item(entries: np.ndarray, catalogue: np.ndarray) -> np.ndarray:
    """Which entries (any shape, int64) are indices where `catalogue` (items,) bool is True."""
    inside = (entries >= 0) & (entries < len(catalogue))
    return inside & catalogue[np.where(inside, entries, 0)]


def short_list_share(recommended: np.ndarray) -> float:
    """Share of the users whose list is shorter than K, that is padded with -1. Example: 0.5 for the two users above."""
    return float((recommended == -1).any(axis=1).mean())


def token_bias_amplification(
    recommended_codes: np.ndarray,
    target_codes: np.ndarray,
    catalogue_codes: np.ndarray,
    popularity: np.ndarray,
    groups: int = 5,
) -> np.ndarray:
    """How much more often than in the targets a model recommends frequent and rare tokens, (L, groups) float64.

    At each code position the tokens (codes) are ordered by their frequency in the training interactions, most frequent
    first, ties by code, and cut into `groups` groups of equal frequency mass: a token belongs to the group in which the
    middle of its share of the mass lies. Entry [l, g] is

        (share of recommended tokens in group g) / (share of target tokens in group g) - 1

    so a positive first column means that frequent tokens are amplified. It is nan where no target token falls into the
    group, which happens when one token holds more mass than a group. Tokens unseen in training are in the last group.

    Args:
        recommended_codes: (n, L) codes of all recommended items, one row per list entry.
        target_codes: (m, L) codes of all target items.
        catalogue_codes: (items, L) codes of the catalogue.
        popularity: (items,) training interactions per item.

    Example: one position, two groups, training counts 3, 2, 1 of the codes 0, 1, 2. The mass intervals are [0, 1/2],
    [1/2, 5/6] and [5/6, 1], so the groups are {0} and {1, 2}. Recommended 0, 0, 0, 1 and targets 0, 0, 1, 2 give
    [0.75 / 0.5 - 1, 0.25 / 0.5 - 1] = [0.5, -0.5].
    """
    amplification = np.full((catalogue_codes.shape[1], groups), np.nan)
    for level in range(catalogue_codes.shape[1]):
        columns = [codes[:, level] for codes in (catalogue_codes, recommended_codes, target_codes)]
        num_codes = max(int(column.max(initial=0)) for column in columns) + 1
        frequency = np.bincount(columns[0], weights=popularity, minlength=num_codes)
        if frequency.sum() == 0:
            raise ValueError("popularity is 0 for every item; it must count the training interactions")
        order = np.argsort(-frequency, kind="stable")
        middle = np.cumsum(frequency[order]) - frequency[order] / 2
        group = np.empty(num_codes, dtype=np.int64)
        group[order] = np.minimum(middle * groups // frequency.sum(), groups - 1)
        shares = [np.bincount(group[column], minlength=groups) / max(len(column), 1) for column in columns[1:]]
        np.divide(shares[0], shares[1], out=amplification[level], where=shares[1] > 0)
    return amplification - 1


def bootstrap_interval(
    values: np.ndarray, confidence: float = 0.95, samples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of `values` (users,), resampling users with replacement.

    Deterministic for a seed; memory is bounded whatever the number of users. Example: for 1,000 users of whom 100 are
    hit (mean 0.1) the interval is about (0.08, 0.12), which is 0.1 -+ 1.96 * sqrt(0.1 * 0.9 / 1000).
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(f"values has shape {values.shape}; it must be (users,) with at least one user")
    rng = np.random.default_rng(seed)
    chunk = max(1, BOOTSTRAP_CHUNK // len(values))
    means = np.empty(samples)
    for start in range(0, samples, chunk):
        rows = min(chunk, samples - start)
        means[start : start + rows] = values[rng.integers(len(values), size=(rows, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def paired_bootstrap_difference(
    first: np.ndarray, second: np.ndarray, confidence: float = 0.95, samples: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """Mean of `first - second` (both (users,), the same users in the same order) and its bootstrap interval.

    Returns (difference, low, high); an interval that leaves out 0 is a difference at the given confidence. Example:
    if `first` is `second + 0.1` for every user, the answer is (0.1, 0.1, 0.1) however much users differ.
    """
    if np.shape(first) != np.shape(second):
        raise ValueError(f"first has shape {np.shape(first)}, second {np.shape(second)}; both need the same users")
    difference = np.asarray(first, dtype=np.float64) - second
    return float(difference.mean()), *bootstrap_interval(difference, confidence, samples, seed)
