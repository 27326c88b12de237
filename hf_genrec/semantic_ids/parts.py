"""The parts of a catalogue's item vectors: what a tokenizer's configuration says of them, and their statistics."""

from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch

from hf_genrec.item_tokenizers.item_tokenizer import ItemTokenizer
from hf_genrec.item_tokenizers.nearest_centroid import MAX_NUMBERS

from .shares import of_all, own_share


def part_fields(
    parts: dict[str, np.ndarray], weights: dict[str, float] | None = None, projection_dim: int | None = None
) -> dict[str, Any]:
    """The fields of an `ItemTokenizerConfig` for these parts.

    Args:
        parts: by name, (N, D_part) each; rows are items.
        weights: by part name; 1 where not given.
        projection_dim: principal components that are kept; None, or no fewer than there are columns, keeps the vectors
            whole.

    Raises:
        ValueError: parts of different lengths.
    """
    lengths = {name: len(part) for name, part in parts.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"the parts have different numbers of rows ({lengths}); give each part one row per item")
    dims = [part.shape[1] for part in parts.values()]
    return {
        "input_dim": sum(dims),
        "projection_dim": None if projection_dim is None or projection_dim >= sum(dims) else projection_dim,
        "part_names": list(parts),
        "part_dims": dims,
        "part_weights": [float((weights or {}).get(name, 1.0)) for name in parts],
    }


def fit_parts(tokenizer: ItemTokenizer, parts: dict[str, np.ndarray]) -> None:
    """Set the tokenizer's mean, scale and, where it has one, projection to those of all items.

    Each part is centred and divided by the root of its mean squared norm, so that the weights alone say how much a part
    counts. Rows of zeros are missing vectors (see `ItemTokenizer.join`) and do not count.

    Where several processes were started together, all have to ask: each reads its share of the chunks.

    Args:
        parts: by name, (N, D_part) each; they may be memory maps, which are read in chunks.

    Raises:
        ValueError: no items, NaN or infinity in a part, or a part whose vectors are all alike.
    """
    means, scales = zip(*(_mean_and_scale(name, part) for name, part in parts.items()), strict=True)
    tokenizer.part_mean.copy_(torch.from_numpy(np.concatenate(means)))
    tokenizer.part_scale.copy_(torch.tensor(scales))
    if tokenizer.config.projection_dim is not None:
        projection = principal_components(tokenizer, parts, tokenizer.config.projection_dim)
        tokenizer.get_buffer("projection").copy_(torch.from_numpy(projection))


def _mean_and_scale(name: str, part: np.ndarray) -> tuple[np.ndarray, float]:
    if not len(part):
        raise ValueError(f"part {name!r} has no vectors: the catalogue is empty")
    step = max(1, MAX_NUMBERS // part.shape[1])
    starts = range(0, len(part), step)
    own = [_chunk_statistics(name, part, start, step) for start in starts[own_share(len(starts))]]
    count, mean, squares = 0, np.zeros(part.shape[1]), 0.0  # squares: summed squared distance to the mean
    for rows, chunk_mean, chunk_squares in (chunk for share in of_all(own) for chunk in share if chunk[0]):
        shift = chunk_mean - mean
        squares += chunk_squares
        squares += float(np.square(shift).sum()) * count * rows / (count + rows)
        mean = mean + shift * (rows / (count + rows))
        count += rows
    if not count:
        raise ValueError(f"part {name!r} is zero for every item; leave it out")
    scale = float(np.sqrt(squares / count))
    if scale < 1e-6 * np.linalg.norm(mean):
        raise ValueError(f"part {name!r} is the same for every item; leave it out")
    return mean.astype(np.float32), scale


def _chunk_statistics(name: str, part: np.ndarray, start: int, step: int) -> tuple[int, np.ndarray, float]:
    """Of `step` rows from `start` on: how many are vectors, their mean, and their summed squared distance to it."""
    chunk = np.asarray(part[start : start + step], dtype=np.float32)
    if not np.isfinite(chunk).all():
        row = start + int((~np.isfinite(chunk).all(axis=1)).argmax())
        raise ValueError(f"part {name!r}, row {row} holds NaN or infinity")
    present = chunk[(chunk != 0).any(axis=1)].astype(np.float64)
    mean = present.mean(axis=0) if len(present) else np.zeros(part.shape[1])
    return len(present), mean, float(np.square(present - mean).sum())


def principal_components(tokenizer: ItemTokenizer, parts: dict[str, np.ndarray], keep: int) -> np.ndarray:
    """(D, keep) float32: orthonormal directions of the largest variance of the centred parts side by side, each with
    its largest entry positive. Of several processes, each sums up its share of the rows."""
    scatter = np.zeros((tokenizer.config.input_dim,) * 2)
    rows = own_share(len(next(iter(parts.values()))))
    with one_thread():
        for chunk in tokenizer.chunks(**{name: part[rows] for name, part in parts.items()}):
            vectors = tokenizer.side_by_side(**chunk).numpy().astype(np.float64)
            scatter += vectors.T @ vectors
        scatter = sum(of_all(scatter))
        _, directions = np.linalg.eigh(scatter)  # rising eigenvalues
    directions = directions[:, ::-1][:, :keep]
    largest = np.abs(directions).argmax(axis=0)
    return (directions * np.sign(directions[largest, np.arange(keep)])).astype(np.float32)


def one_thread() -> AbstractContextManager:
    """Threads add up numbers in the order in which they finish: results would differ between runs by rounding."""
    from threadpoolctl import threadpool_limits

    return threadpool_limits(limits=1)
