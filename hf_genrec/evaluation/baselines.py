"""Two baselines to stand beside every model: most popular, and item-kNN.

Both are built from training sequences of item indices and answer
`recommend(histories, k, exclude_seen=False) -> (items, scores)` with `items` (users, k) int64 and `scores` (users, k)
float64, best first; -1 with score -inf where fewer than k items may be recommended. Items of the history are NOT
removed unless `exclude_seen` is set.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from scipy import sparse

CHUNK_CELLS = 4_000_000  # (rows, items) cells held at once: 32 MB of float64


class MostPopular:
    """Recommends the items with the most training interactions, to everybody the same; ties: lower index first.

    Scores are the interaction counts.
    """

    def __init__(self, train_sequences: Sequence[np.ndarray], num_items: int):
        self.counts = np.bincount(_flatten(train_sequences, num_items), minlength=num_items)
        self.order = np.argsort(-self.counts, kind="stable")

    def recommend(
        self, histories: Sequence[np.ndarray], k: int, exclude_seen: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        items = np.full((len(histories), k), -1, dtype=np.int64)
        if exclude_seen:
            for row, history in enumerate(histories):
                head = self.order[: k + len(history)]
                kept = head[~np.isin(head, history)][:k]
                items[row, : len(kept)] = kept
        else:
            items[:, : len(self.order)] = self.order[:k]
        return items, np.where(items >= 0, self.counts[items], -np.inf)


class ItemKNN:
    """Item-based nearest neighbours: cosine similarity of the sets of training users of two items.

    similarity(i, j) = users with both / sqrt(users with i * users with j). Every item keeps its `num_neighbours` most
    similar other items. A candidate's score is the sum, over the last `history` items of the user, of the similarity
    wherever the candidate is a neighbour, times `decay` to the power of the item's age (0 for the newest); an item of
    the history does not vouch for itself. Equal scores: more popular first, then lower index. So an empty history, or
    one without neighbours, gets the most popular items (with score 0).

    The defaults do well on the validation users of both MovieLens 100K and Amazon-2014 Beauty: NDCG@10 0.065 and 0.040,
    against 0.046 and 0.031 without decay, and 0.065 and 0.038 from the last two items alone.

    Example: sequences [0, 1], [0, 1], [0, 2]: similarity(0, 1) = 2 / sqrt(3 * 2) = 0.816, similarity(0, 2) =
    1 / sqrt(3 * 1) = 0.577, similarity(1, 2) = 0. The history [0] gets 1, then 2, then 0 (score 0).
    """

    def __init__(
        self,
        train_sequences: Sequence[np.ndarray],
        num_items: int,
        num_neighbours: int = 100,
        history: int = 10,
        decay: float = 0.5,
    ):
        self.num_items = num_items
        self.history = history
        self.decay = decay
        # popularity order as the internal item order makes popularity the tie break, and the fallback
        self.order = MostPopular(train_sequences, num_items).order
        self.rank = np.argsort(self.order)
        interactions = self._user_rows(train_sequences)
        interactions.sum_duplicates()
        interactions.data[:] = 1.0  # a repeated item counts once per user
        self.similarity = _nearest_neighbours(interactions, num_neighbours)  # (items, items), rows: item of the history

    def recommend(
        self, histories: Sequence[np.ndarray], k: int, exclude_seen: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        items = np.full((len(histories), k), -1, dtype=np.int64)
        scores = np.full((len(histories), k), -np.inf)
        width = min(k, self.num_items)
        for rows in _chunks(len(histories), self.num_items):
            seen = histories[rows]
            recent = [history[max(0, len(history) - self.history) :] for history in seen]
            ages = [np.arange(len(history))[::-1] for history in recent]
            weights = self.decay ** np.concatenate([np.empty(0), *ages])
            chunk = (self._user_rows(recent, weights) @ self.similarity).toarray()  # (chunk, items)
            if exclude_seen:
                chunk[self._user_rows(seen).nonzero()] = -np.inf
            top = _top_k(chunk, width)
            scores[rows, :width] = np.take_along_axis(chunk, top, axis=1)
            items[rows, :width] = np.where(scores[rows, :width] > -np.inf, self.order[top], -1)
        return items, scores

    def _user_rows(self, sequences: Sequence[np.ndarray], weights: np.ndarray | None = None) -> sparse.csr_matrix:
        """One row per sequence, (len(sequences), items) in the internal item order; repeated items add up."""
        columns = self.rank[_flatten(sequences, self.num_items)]
        starts = np.concatenate([[0], np.cumsum([len(sequence) for sequence in sequences], dtype=np.int64)])
        data = np.ones(len(columns)) if weights is None else weights
        return sparse.csr_matrix((data, columns, starts), shape=(len(sequences), self.num_items))


def _flatten(sequences: Sequence[np.ndarray], num_items: int) -> np.ndarray:
    for row, sequence in enumerate(sequences):
        if len(sequence) and (np.min(sequence) < 0 or np.max(sequence) >= num_items):
            raise ValueError(
                f"sequence {row} holds an item index outside 0..{num_items - 1}; rebuild it from the catalogue"
            )
    return np.concatenate([np.empty(0, dtype=np.int64), *sequences]).astype(np.int64)


def _chunks(rows: int, columns: int) -> Iterator[slice]:
    size = max(1, CHUNK_CELLS // columns)
    return (slice(start, start + size) for start in range(0, rows, size))


def _nearest_neighbours(interactions: sparse.csr_matrix, num_neighbours: int) -> sparse.csr_matrix:
    """Cosine similarity (items, items) of the columns; each row keeps its largest entries off the diagonal."""
    num_items = interactions.shape[1]
    users_per_item = np.asarray(interactions.sum(axis=0)).ravel()
    by_item = interactions.T.tocsr()
    kept = []
    for rows in _chunks(num_items, num_items):
        block = (by_item[rows] @ interactions).tocoo()
        row, column = block.row + rows.start, block.col
        similarity = block.data / np.sqrt(users_per_item[row] * users_per_item[column])
        off_diagonal = row != column
        row, column, similarity = row[off_diagonal], column[off_diagonal], similarity[off_diagonal]
        order = np.lexsort((column, -similarity, row))
        row, column, similarity = row[order], column[order], similarity[order]
        position = np.arange(len(row)) - np.searchsorted(row, row)  # place among the row's own neighbours
        near = position < num_neighbours
        kept.append((row[near], column[near], similarity[near]))
    row, column, similarity = (np.concatenate(parts) for parts in zip(*kept, strict=True))
    return sparse.csr_matrix((similarity, (row, column)), shape=(num_items, num_items))


def _top_k(scores: np.ndarray, k: int) -> np.ndarray:
    """Columns (rows, k) of the k largest entries of each row, largest first; ties: lower column first."""
    # torch gives the k-th value only, its order among ties is unspecified; np.partition is 40 times slower on ties
    threshold = torch.from_numpy(scores).topk(k).values[:, -1:].numpy()
    above, equal = scores > threshold, scores == threshold
    missing = k - above.sum(axis=1, keepdims=True)
    top = np.nonzero(above | (equal & (np.cumsum(equal, axis=1, dtype=np.int32) <= missing)))[1].reshape(len(scores), k)
    best_first = np.argsort(-np.take_along_axis(scores, top, axis=1), axis=1, kind="stable")
    return np.take_along_axis(top, best_first, axis=1)
