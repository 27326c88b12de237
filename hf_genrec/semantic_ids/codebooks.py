"""Fitting codebooks to the items by k-means, and keeping every code in use."""

import logging
import warnings

import numpy as np
import torch

from hf_genrec.item_tokenizers.item_tokenizer import ItemTokenizer
from hf_genrec.item_tokenizers.nearest_centroid import nearest_centroid

from .balanced import balanced_centroids, cluster_bounds
from .parts import one_thread
from .shares import of_first

logger = logging.getLogger(__name__)

MAX_ITERATIONS = 100  # as in reproductions of arXiv 2305.05065; more does not lower the error noticeably

# Codebooks are fitted on at most this many items, about 400 per code at the usual 256: twice as many lower the error on
# new vectors by less than 1 %. Mean, scale and principal components are always those of all items.
SAMPLE_ROWS = 100_000
# Above this many rows k-means++ draws the first centroids from this many of them (it is the slowest step: 256 passes in
# float64), and Lloyd stops after LARGE_ITERATIONS: twice as many lower the error of a level by 0.1 to 0.2 %.
LARGE_ROWS = 32_768
LARGE_ITERATIONS = 40


@torch.no_grad()
def fit_codebooks(tokenizer: ItemTokenizer, vectors: np.ndarray, seed: int, balanced: bool = False) -> None:
    """Set each codebook in turn to the centroids of what it quantizes of `vectors` (N, D). No code is left unused.

    Args:
        balanced: clusters have bounded sizes (`cluster_bounds`).

    Raises:
        ValueError: a codebook has fewer distinct vectors than codes.
    """
    latents = tokenizer.latents(vectors)
    for level, size in enumerate(tokenizer.config.codebook_sizes):
        inputs = latents if tokenizer.ordered else np.ascontiguousarray(latents[:, level])
        # All processes find the same, but for rounding where their machines differ.
        centroids, codes = of_first(_fit_level(inputs, level, size, seed, balanced))
        getattr(tokenizer, f"codebook_{level}").copy_(torch.from_numpy(centroids))
        inputs -= centroids[codes]  # which are the latents themselves where the codebooks are ordered
        logger.info("codebook %d: %d codes, mean squared residual %.4f", level + 1, size, _squared_norms(inputs).mean())


@torch.no_grad()
def fill_unused(tokenizer: ItemTokenizer, vectors: np.ndarray) -> int:
    """Move the codes that none of `vectors` (N, D) uses onto what is farthest from its own codeword, codebook by
    codebook, as far as there are different vectors; returns how many codes moved."""
    latents, moved = tokenizer.latents(vectors), 0
    for level in range(len(tokenizer.config.codebook_sizes)):
        inputs = latents if tokenizer.ordered else np.ascontiguousarray(latents[:, level])
        codebook = getattr(tokenizer, f"codebook_{level}")
        before = codebook.cpu().numpy().copy()
        filled, codes = fill_empty(inputs, before)
        moved += int((filled != before).any(axis=1).sum())
        codebook.copy_(torch.from_numpy(filled))
        inputs -= filled[codes]
    return moved


def sample_rows(rows: int, seed: int) -> np.ndarray | slice:
    """Index of the rows that the codebooks are fitted on: all, or `SAMPLE_ROWS` of them in rising order."""
    if rows <= SAMPLE_ROWS:
        return slice(None)
    return np.sort(np.random.default_rng(seed).choice(rows, SAMPLE_ROWS, replace=False))


def _fit_level(
    residuals: np.ndarray, level: int, size: int, seed: int, balanced: bool
) -> tuple[np.ndarray, np.ndarray]:
    """(centroids (size, D), codes (N,)) of one level."""
    residuals += 0.0  # no negative zeros, which would count as distinct below
    distinct: set[bytes] = set()
    for row in residuals:
        distinct.add(row.tobytes())
        if len(distinct) == size:
            break
    else:
        fits = 2 ** max(1, len(distinct).bit_length() - 2)
        raise ValueError(
            f"level {level} has {len(distinct)} distinct vectors for {size} codes; lower codebook_sizes[{level}] "
            f"({fits} codes at every level are enough for so few) or leave the level out"
        )
    centroids = plain_centroids(residuals, size, seed)
    if balanced:
        centroids = balanced_centroids(residuals, centroids, *cluster_bounds(len(residuals), size))
    return fill_empty(residuals, centroids)


def plain_centroids(vectors: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Centroids (size, D) float32 of `vectors` (N, D) by k-means; with fewer distinct vectors some are alike."""
    from sklearn.cluster import KMeans, kmeans_plusplus
    from sklearn.exceptions import ConvergenceWarning

    def first_centroids(vectors, count, random_state):
        some = random_state.choice(len(vectors), max(LARGE_ROWS, count), replace=False)
        return kmeans_plusplus(vectors[some], count, random_state=random_state)[0]

    large = len(vectors) > LARGE_ROWS
    kmeans = KMeans(
        size,
        n_init=1,
        init=first_centroids if large else "k-means++",
        max_iter=LARGE_ITERATIONS if large else MAX_ITERATIONS,
        random_state=seed,
    )
    with one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # too few clusters: filled below
        kmeans.fit(vectors)
    return kmeans.cluster_centers_.astype(np.float32)


def fill_empty(vectors: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Move the centroids of empty clusters onto the vectors farthest from their own centroid, until none is empty or
    every vector is a centroid.

    It ends: each round lowers the summed distance, which is zero when every vector is a centroid.
    """
    while True:
        codes = nearest_centroid(vectors, centroids)
        empty = np.flatnonzero(np.bincount(codes, minlength=len(centroids)) == 0)
        distances = _squared_norms(vectors - centroids[codes])
        farthest = np.argsort(-distances, kind="stable")[: len(empty)]
        farthest = farthest[distances[farthest] > 0]
        if not len(farthest):
            return centroids, codes
        centroids = centroids.copy()
        centroids[empty[: len(farthest)]] = vectors[farthest]


def _squared_norms(vectors: np.ndarray) -> np.ndarray:
    return np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64)
