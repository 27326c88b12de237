"""Fitting an OpqTokenizer: a rotation after which parts of the vector can be quantized each by itself."""

import logging

import numpy as np
import torch

from hf_genrec.item_tokenizers.configuration_opq import OpqConfig
from hf_genrec.item_tokenizers.modeling_opq import OpqTokenizer
from hf_genrec.item_tokenizers.nearest_centroid import nearest_centroid

from .codebooks import fill_unused, fit_codebooks, sample_rows
from .parts import fit_parts, one_thread, part_fields
from .shares import of_first

logger = logging.getLogger(__name__)

STEPS = 30  # of the rotation; more do not lower the error noticeably


def fit_opq(
    parts: dict[str, np.ndarray],
    codebook_sizes: list[int],
    weights: dict[str, float] | None = None,
    seed: int = 0,
    projection_dim: int | None = None,
    text_model: str | None = None,
    text_columns: list[str] | None = None,
    image_model: str | None = None,
) -> OpqTokenizer:
    """Fit the parts' mean and scale, the rotation and its codebooks. Deterministic, and no code is left unused.

    The rotation starts with the principal directions of the items, shared out so that the products of the variances of
    all parts are about equal (the paper's parametric solution); k-means makes the codebooks. Then, in turn, the
    rotation that brings the vectors nearest to their codewords is taken (Procrustes), and every codeword becomes the
    mean of the vectors that it is nearest to (its non-parametric solution). Neither can raise the error.

    Args:
        parts, weights, projection_dim, text_model, text_columns, image_model: see `fit_residual_kmeans`.
        codebook_sizes: one number per part of the rotated vector.

    Raises:
        ValueError: as `fit_residual_kmeans`, or for more codebooks than the vectors have numbers.
    """
    arrays = {name: np.asarray(part) for name, part in parts.items()}
    config = OpqConfig(
        codebook_sizes=list(codebook_sizes),
        text_model=text_model,
        text_columns=text_columns,
        image_model=image_model,
        **part_fields(arrays, weights, projection_dim),
    )
    tokenizer = OpqTokenizer(config)
    fit_parts(tokenizer, arrays)
    sample = sample_rows(len(next(iter(arrays.values()))), seed)
    vectors = tokenizer.join(**{name: part[sample] for name, part in arrays.items()}).numpy()
    with one_thread():
        rotation = balanced_directions(vectors, len(codebook_sizes), config.latent_dim)
    _set_rotation(tokenizer, of_first(rotation))
    fit_codebooks(tokenizer, vectors, seed)
    with one_thread():
        rotation, codebooks = improved(tokenizer, vectors, STEPS)
    rotation, codebooks = of_first((rotation, codebooks))  # the same in all processes
    _set_rotation(tokenizer, rotation)
    for number, codebook in enumerate(codebooks):
        tokenizer.get_buffer(f"codebook_{number}").copy_(torch.from_numpy(codebook))
    fill_unused(tokenizer, vectors)
    return tokenizer.eval()


def balanced_directions(vectors: np.ndarray, num_parts: int, latent_dim: int) -> np.ndarray:
    """
    Principal directions of centred vectors (N, D), in the order of the parts: the one with the largest variance that
    is left goes to the part whose product of variances is the smallest, as long as that has room.

    Returns:
        (D, num_parts * latent_dim) float64 with orthonormal rows; columns to spare are zero.
    """
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    variances, directions = np.linalg.eigh(centred.T @ centred / len(centred))  # rising
    # Over the smallest, so that a part without a direction has the smallest product of all.
    floor = max(float(variances[-1]) * 1e-12, np.finfo(np.float64).tiny)
    logs = np.log(np.maximum(variances, floor))
    logs -= logs.min()
    rotation = np.zeros((len(directions), num_parts * latent_dim))
    products, used = np.zeros(num_parts), np.zeros(num_parts, dtype=np.int64)
    for place in range(len(directions))[::-1]:
        part = int(np.where(used < latent_dim, products, np.inf).argmin())
        direction = directions[:, place]
        sign = np.sign(direction[np.abs(direction).argmax()])
        rotation[:, part * latent_dim + used[part]] = direction * sign
        products[part] += logs[place]
        used[part] += 1
    return rotation


def improved(tokenizer: OpqTokenizer, vectors: np.ndarray, steps: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """
    Rotation and codebooks after so many steps of the alternation, from where the tokenizer stands.

    Args:
        vectors: (N, D) quantized vectors.

    Returns:
        the rotation, float64 with orthonormal rows, and the codebooks, float32.
    """
    exact = vectors.astype(np.float64)
    rotation = tokenizer.rotation.cpu().numpy().astype(np.float64)
    codebooks = [codebook.cpu().numpy().copy() for codebook in tokenizer.codebooks]
    for step in range(steps + 1):
        rotated = (exact @ rotation).astype(np.float32)
        latents = [np.ascontiguousarray(part) for part in np.split(rotated, len(codebooks), axis=1)]
        codes = [nearest_centroid(*two) for two in zip(latents, codebooks, strict=True)]
        if step:
            codebooks = [_means(*three) for three in zip(latents, codes, codebooks, strict=True)]
        words = np.concatenate([book[code] for book, code in zip(codebooks, codes, strict=True)], axis=1)
        if step in (0, steps):
            error = np.square(rotated - words).sum(axis=1).mean()
            logger.info("rotation, step %d: mean squared error %.4f", step, error)
        if step < steps:
            left, _, right = np.linalg.svd(exact.T @ words, full_matrices=False)
            rotation = left @ right
    return rotation, codebooks


def _means(vectors: np.ndarray, codes: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    """Of each code the mean of its vectors (N, d); a codeword that is nobody's stays."""
    counts = np.bincount(codes, minlength=len(codebook))
    columns = [np.bincount(codes, column, minlength=len(codebook)) for column in vectors.T.astype(np.float64)]
    sums = np.stack(columns, axis=1)
    means = sums / np.maximum(counts, 1)[:, None]
    return np.where(counts[:, None] > 0, means, codebook).astype(np.float32)


def _set_rotation(tokenizer: OpqTokenizer, rotation: np.ndarray) -> None:
    tokenizer.rotation.copy_(torch.from_numpy(rotation))
