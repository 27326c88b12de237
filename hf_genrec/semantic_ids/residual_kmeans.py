"""Fitting a ResidualKMeansTokenizer: k-means on what the levels before left over."""

import logging
import warnings

import numpy as np
import torch

from hf_genrec.models.configuration_residual_kmeans import ResidualKMeansConfig
from hf_genrec.models.modeling_residual_kmeans import ResidualKMeansTokenizer, nearest_centroid

logger = logging.getLogger(__name__)

MAX_ITERATIONS = 100  # TIGER reproductions; more does not lower the error noticeably


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
        ValueError: no items, NaN or infinity in a part, a part whose vectors are all alike, or fewer distinct vectors
            than codes at some level.
    """
    arrays = {name: np.asarray(part, dtype=np.float32) for name, part in parts.items()}
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
        tokenizer.get_buffer("projection").copy_(_principal_components(tokenizer.side_by_side(**arrays), keep))
    residuals = tokenizer.join(**arrays)
    for level, size in enumerate(config.codebook_sizes):
        centroids, codes = _fit_level(residuals, level, size, seed)
        tokenizer.get_buffer(f"codebook_{level}").copy_(centroids)
        residuals = residuals - centroids[codes]
        logger.info("level %d: %d codes, mean squared residual %.4f", level, size, residuals.square().sum(1).mean())
    return tokenizer.eval()


def _mean_and_scale(name: str, part: np.ndarray) -> tuple[np.ndarray, float]:
    if not len(part):
        raise ValueError(f"part {name!r} has no vectors: the catalogue is empty")
    finite = np.isfinite(part).all(axis=1)
    if not finite.all():
        raise ValueError(f"part {name!r}, row {int((~finite).argmax())} holds NaN or infinity")
    present = part[(part != 0).any(axis=1)].astype(np.float64)
    if not len(present):
        raise ValueError(f"part {name!r} is zero for every item; leave it out")
    mean = present.mean(axis=0)
    scale = float(np.sqrt(np.square(present - mean).sum(axis=1).mean()))
    if scale < 1e-6 * np.linalg.norm(mean):
        raise ValueError(f"part {name!r} is the same for every item; leave it out")
    return mean.astype(np.float32), scale


def _principal_components(joined: torch.Tensor, keep: int) -> torch.Tensor:
    """(D, keep) orthonormal directions of the largest variance of centred vectors (N, D), each with its largest entry
    positive."""
    vectors = joined.double()
    _, directions = torch.linalg.eigh(vectors.T @ vectors)  # rising eigenvalues
    directions = directions.flip(1)[:, :keep]
    largest = directions.abs().argmax(dim=0, keepdim=True)
    return (directions * directions.gather(0, largest).sign()).float()


def _fit_level(residuals: torch.Tensor, level: int, size: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(centroids (size, D), codes (N,)) of one level."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    array = residuals.numpy() + 0.0  # no negative zeros, which would count as distinct below
    distinct = len({row.tobytes() for row in array})
    if distinct < size:
        raise ValueError(
            f"level {level} has {distinct} distinct vectors for {size} codes; lower codebook_sizes[{level}] or leave "
            "the level out"
        )
    kmeans = KMeans(size, n_init=1, max_iter=MAX_ITERATIONS, random_state=seed)
    # One thread: threads add up a centroid in the order in which they finish, and rounding would differ between runs.
    with threadpool_limits(limits=1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # too few clusters: filled below
        kmeans.fit(array)
    return _fill_empty(residuals, torch.from_numpy(kmeans.cluster_centers_.astype(np.float32)))


def _fill_empty(residuals: torch.Tensor, centroids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Move the centroids of empty clusters onto the vectors farthest from their own centroid, until none is empty.

    It ends: each round lowers the summed distance, which is above zero while a cluster is empty and there are at least
    as many distinct vectors as clusters.
    """
    while True:
        codes, distances = nearest_centroid(residuals, centroids)
        empty = (torch.bincount(codes, minlength=len(centroids)) == 0).nonzero()[:, 0]
        if not len(empty):
            return centroids, codes
        farthest = distances.argsort(descending=True, stable=True)[: len(empty)]
        farthest = farthest[distances[farthest] > 0]
        centroids = centroids.clone()
        centroids[empty[: len(farthest)]] = residuals[farthest]
