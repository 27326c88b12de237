"""Clusters of bounded size: the cheapest balanced assignment, and k-means with it."""

from itertools import pairwise

import numpy as np
from scipy.spatial.distance import cdist

ITERATIONS = 10  # of k-means under the bounds, LETTER's; it starts from plain k-means, which has converged


def balanced_assignment(costs: np.ndarray, smallest: int, largest: int) -> np.ndarray:
    """
    The assignment of rows to clusters of the least summed cost, each cluster having `smallest` to `largest` rows.

    A minimum cost flow by successive shortest paths: from each row's cheapest cluster, which is the best without
    bounds, one row at a time leaves a cluster that is too large, or enters one that is too small, along the cheapest
    chain of moves. Every step keeps the assignment the cheapest of its sizes, so the last one is.

    Args:
        costs: (N, K).

    Returns:
        (N,) int64

    Raises:
        ValueError: bounds that N rows cannot keep.
    """
    costs = np.asarray(costs, dtype=np.float64)
    rows, clusters = costs.shape
    if not clusters * smallest <= rows <= clusters * largest:
        raise ValueError(f"{rows} rows cannot make {clusters} clusters of {smallest} to {largest} rows each")
    moves = _Moves(costs)
    for cluster in np.flatnonzero(moves.sizes > largest).tolist():
        while moves.sizes[cluster] > largest:
            moves.along(_cheapest_path(moves.cost, cluster, moves.sizes < largest))
    for cluster in np.flatnonzero(moves.sizes < smallest).tolist():
        while moves.sizes[cluster] < smallest:
            moves.along(_cheapest_path(moves.cost.T, cluster, moves.sizes > smallest)[::-1])
    return moves.labels


class _Moves:
    """The assignment so far, and from each cluster to each other one the row that is moved at the least cost."""

    def __init__(self, costs: np.ndarray):
        self.costs, self.labels = costs, costs.argmin(axis=1)
        clusters = costs.shape[1]
        self.sizes = np.bincount(self.labels, minlength=clusters)
        self.cost = np.full((clusters, clusters), np.inf)  # [a, b]: added by moving the row from a to b
        self.row = np.zeros((clusters, clusters), dtype=np.int64)
        for cluster in range(clusters):
            self._look_at(cluster)

    def _look_at(self, cluster: int) -> None:
        members = np.flatnonzero(self.labels == cluster)
        self.cost[cluster] = np.inf
        if len(members):
            added = self.costs[members] - self.costs[members, cluster][:, None]
            best = added.argmin(axis=0)
            self.row[cluster], self.cost[cluster] = members[best], added[best, np.arange(len(best))]
        self.cost[cluster, cluster] = np.inf

    def along(self, path: list[int]) -> None:
        """Move one row from each cluster of a path to the next one."""
        moved = [self.row[source, target] for source, target in pairwise(path)]
        self.labels[moved] = path[1:]
        self.sizes[path[0]] -= 1
        self.sizes[path[-1]] += 1
        for cluster in path:
            self._look_at(cluster)


def _cheapest_path(cost: np.ndarray, start: int, ends: np.ndarray) -> list[int]:
    """From `start` to the cheapest of `ends` (K,) bool, by Bellman and Ford: costs may be negative, round trips not."""
    distance, before = np.full(len(cost), np.inf), np.full(len(cost), -1)
    distance[start], changed = 0.0, np.array([start])
    rounding = 1e-12 * np.abs(cost[np.isfinite(cost)]).max(initial=0.0)  # no round trip gains by it
    while len(changed):
        through = distance[changed, None] + cost[changed]
        best = through.argmin(axis=0)
        reached = through[best, np.arange(len(cost))]
        better = reached < distance - rounding
        before[better] = changed[best[better]]
        distance[better] = reached[better]
        changed = np.flatnonzero(better)
    path = [int(np.where(ends, distance, np.inf).argmin())]
    while path[-1] != start:
        path.append(int(before[path[-1]]))
    return path[::-1]


def balanced_centroids(vectors: np.ndarray, centroids: np.ndarray, smallest: int, largest: int) -> np.ndarray:
    """
    k-means whose clusters have `smallest` to `largest` of `vectors` (N, D) each, from `centroids` (K, D) on.

    Returns:
        (K, D) float32; the centroid of a cluster without rows stays where it was.

    Raises:
        ValueError: as `balanced_assignment`.
    """
    vectors, centroids = vectors.astype(np.float64), centroids.astype(np.float64)
    labels = np.full(len(vectors), -1)
    for _ in range(ITERATIONS):
        before, labels = labels, balanced_labels(vectors, centroids, smallest, largest)
        if np.array_equal(labels, before):
            break
        sums, sizes = np.zeros_like(centroids), np.bincount(labels, minlength=len(centroids))
        np.add.at(sums, labels, vectors)
        centroids = np.where(sizes[:, None] > 0, sums / np.maximum(sizes, 1)[:, None], centroids)
    return centroids.astype(np.float32)


def balanced_labels(vectors: np.ndarray, centroids: np.ndarray, smallest: int, largest: int) -> np.ndarray:
    """The clusters (N,) of `vectors` (N, D) around `centroids` (K, D) with the least summed squared distance."""
    distances = cdist(vectors.astype(np.float64), centroids.astype(np.float64), "sqeuclidean")
    return balanced_assignment(distances, smallest, largest)


def cluster_bounds(rows: int, clusters: int) -> tuple[int, int]:
    """The smallest and largest cluster that a codebook starts from: half and twice the mean size, as LETTER has it for
    256 codes and up to 25,600 items, and at least 50 beyond; and the largest at least 1.5 times the mean."""
    smallest = min(rows // (2 * clusters), 50)
    return smallest, max(4 * smallest, -(-3 * rows // (2 * clusters)))
