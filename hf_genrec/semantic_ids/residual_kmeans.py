"""Fitting a ResidualKMeansTokenizer: k-means on what the levels before left over."""

import logging
import warnings
from contextlib import AbstractContextManager

import numpy as np
import torch

from hf_genrec.models.configuration_residual_kmeans import ResidualKMeansConfig
from hf_genrec.models.modeling_residual_kmeans import MAX_NUMBERS, ResidualKMeansTokenizer, nearest_centroid

logger = logging.getLogger(__name__)

MAX_ITERATIONS = 100  # TIGER reproductions; more does not lower the error noticeably

# Codebooks are fitted on at most this many items, about 400 per code at the usual 256: twice as many lower the error on
# new vectors by less than 1 %. Mean, scale and principal components are always those of all items.
SAMPLE_ROWS = 100_000
# Above this many rows k-means++ draws the first centroids from this many of them (it is the slowest step: 256 passes in
# float64), and Lloyd stops after LARGE_ITERATIONS: twice as many lower the error of a level by 0.1 to 0.2 %.
LARGE_ROWS = 32_768
LARGE_ITERATIONS = 40


def fit_residual_kmeans(
    parts: dict[str, np.ndarray],
    codebook_sizes: list[int],
    weights: dict[str, float] | None = None,
    seed: int = 0,
    projection_dim: int | None = None,
    text_model: str | None = None,
    text_columns: list[str] | None = None,
) -> ResidualKMeansTokenizer:
    """Fit the parts' mean and scale and one codebook per level. Deterministic, and no code is left unused.

    Parts may be memory maps (`np.load(path, mmap_mode="r")`): they are read in chunks, and of more than `SAMPLE_ROWS`
    items only a sample of that size, drawn by `seed`, is held in memory.

    Each part is centred and divided by the root of its mean squared norm, so that the weights alone say how much a part
    counts. Rows of zeros are missing vectors (see `ResidualKMeansTokenizer.join`) and do not count for mean and scale.

    Args:
        parts: by name, (N, D_part) each; rows are items.
        weights: by part name; 1 where not given.
        projection_dim: principal components that are kept; None, or no fewer than there are columns, keeps the vectors
            whole. In hundreds of dimensions residuals are alike in every direction: the mean of many is nearer to each
            than the mean of a few, one cluster takes most items, and the finer levels say little.
        text_model, text_columns: noted in the configuration, for encoding new items.

    Raises:
        ValueError: no items, parts of different lengths, NaN or infinity in a part, a part whose vectors are all alike,
            or fewer distinct vectors than codes at some level.
    """
    arrays = {name: np.asarray(part) for name, part in parts.items()}
    lengths = {name: len(part) for name, part in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"the parts have different numbers of rows ({lengths}); give each part one row per item")
    means, scales = zip(*(_mean_and_scale(name, part) for name, part in arrays.items()), strict=True)
    dims = [part.shape[1] for part in arrays.values()]
    keep = None if projection_dim is None or projection_dim >= sum(dims) else projection_dim
    config = ResidualKMeansConfig(
        codebook_sizes=list(codebook_sizes),
        input_dim=sum(dims),
        projection_dim=keep,
        part_names=list(arrays),
        part_dims=dims,
        part_weights=[float((weights or {}).get(name, 1.0)) for name in arrays],
        text_model=text_model,
        text_columns=text_columns,
    )
    tokenizer = ResidualKMeansTokenizer(config)
    tokenizer.part_mean.copy_(torch.from_numpy(np.concatenate(means)))
    tokenizer.part_scale.copy_(torch.tensor(scales))

    if keep is not None:
        tokenizer.get_buffer("projection").copy_(torch.from_numpy(_principal_components(tokenizer, arrays, keep)))
    sample = _sample_rows(lengths.popitem()[1], seed)
    residuals = tokenizer.join(**{name: part[sample] for name, part in arrays.items()}).numpy()
    for level, size in enumerate(config.codebook_sizes):
        centroids, codes = _fit_level(residuals, level, size, seed)
        tokenizer.get_buffer(f"codebook_{level}").copy_(torch.from_numpy(centroids))
        residuals -= centroids[codes]
        logger.info("level %d: %d codes, mean squared residual %.4f", level, size, _squared_norms(residuals).mean())
    return tokenizer.eval()


def _sample_rows(rows: int, seed: int) -> np.ndarray | slice:
    """Index of the rows that the codebooks are fitted on: all, or `SAMPLE_ROWS` of them in rising order."""
    if rows <= SAMPLE_ROWS:
        return slice(None)
    return np.sort(np.random.default_rng(seed).choice(rows, SAMPLE_ROWS, replace=False))


def _mean_and_scale(name: str, part: np.ndarray) -> tuple[np.ndarray, float]:
    if not len(part):
        raise ValueError(f"part {name!r} has no vectors: the catalogue is empty")
    count, mean, squares = 0, np.zeros(part.shape[1]), 0.0  # squares: summed squared distance to the mean
    step = max(1, MAX_NUMBERS // part.shape[1])
    for start in range(0, len(part), step):
        chunk = np.asarray(part[start : start + step], dtype=np.float32)
        if not np.isfinite(chunk).all():
            row = start + int((~np.isfinite(chunk).all(axis=1)).argmax())
            raise ValueError(f"part {name!r}, row {row} holds NaN or infinity")
        present = chunk[(chunk != 0).any(axis=1)].astype(np.float64)
        if not len(present):
            continue
        chunk_mean = present.mean(axis=0)
        shift = chunk_mean - mean
        squares += float(np.square(present - chunk_mean).sum())
        squares += float(np.square(shift).sum()) * count * len(present) / (count + len(present))
        mean = mean + shift * (len(present) / (count + len(present)))
        count += len(present)
    if not count:
        raise ValueError(f"part {name!r} is zero for every item; leave it out")
    scale = float(np.sqrt(squares / count))
    if scale < 1e-6 * np.linalg.norm(mean):
        raise ValueError(f"part {name!r} is the same for every item; leave it out")
    return mean.astype(np.float32), scale


def _principal_components(tokenizer: ResidualKMeansTokenizer, parts: dict[str, np.ndarray], keep: int) -> np.ndarray:
    """(D, keep) float32: orthonormal directions of the largest variance of the centred parts side by side, each with
    its largest entry positive."""
    scatter = np.zeros((tokenizer.config.input_dim,) * 2)
    with _one_thread():
        for chunk in tokenizer.chunks(**parts):
            vectors = tokenizer.side_by_side(**chunk).numpy().astype(np.float64)
            scatter += vectors.T @ vectors
        _, directions = np.linalg.eigh(scatter)  # rising eigenvalues
    directions = directions[:, ::-1][:, :keep]
    largest = np.abs(directions).argmax(axis=0)
    return (directions * np.sign(directions[largest, np.arange(keep)])).astype(np.float32)


def _one_thread() -> AbstractContextManager:
    """Threads add up numbers in the order in which they finish: results would differ between runs by rounding."""
    from threadpoolctl import threadpool_limits

    return threadpool_limits(limits=1)


def _fit_level(residuals: np.ndarray, level: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(centroids (size, D), codes (N,)) of one level."""
    from sklearn.cluster import KMeans, kmeans_plusplus
    from sklearn.exceptions import ConvergenceWarning

    residuals += 0.0  # no negative zeros, which would count as distinct below
    distinct: set[bytes] = set()
    for row in residuals:
        distinct.add(row.tobytes())
        if len(distinct) == size:
            break
    else:
        raise ValueError(
            f"level {level} has {len(distinct)} distinct vectors for {size} codes; lower codebook_sizes[{level}] or "
            "leave the level out"
        )

    def first_centroids(vectors, count, random_state):
        some = random_state.choice(len(vectors), max(LARGE_ROWS, count), replace=False)
        return kmeans_plusplus(vectors[some], count, random_state=random_state)[0]

    large = len(residuals) > LARGE_ROWS
    kmeans = KMeans(
        size,
        n_init=1,
        init=first_centroids if large else "k-means++",
        max_iter=LARGE_ITERATIONS if large else MAX_ITERATIONS,
        random_state=seed,
    )
    with _one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # too few clusters: filled below
        kmeans.fit(residuals)
    return _fill_empty(residuals, kmeans.cluster_centers_.astype(np.float32))


def _fill_empty(residuals: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Move the centroids of empty clusters onto the vectors farthest from their own centroid, until none is empty.

    It ends: each round lowers the summed distance, which is above zero while a cluster is empty and there are at least
    as many distinct vectors as clusters.
    """
    while True:
        codes = nearest_centroid(residuals, centroids)
        empty = np.flatnonzero(np.bincount(codes, minlength=len(centroids)) == 0)
        if not len(empty):
            return centroids, codes
        distances = _squared_norms(residuals - centroids[codes])
        farthest = np.argsort(-distances, kind="stable")[: len(empty)]
        farthest = farthest[distances[farthest] > 0]
        centroids = centroids.copy()
        centroids[empty[: len(farthest)]] = residuals[farthest]


def _squared_norms(vectors: np.ndarray) -> np.ndarray:
    return np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64)
