"""The nearest row of a codebook, so exactly that an item's code depends on nothing but the item."""

import numpy as np

# Numbers of the largest array that is made of a chunk of vectors (float32: 8 MB)
MAX_NUMBERS = 2**21


def nearest_centroid(vectors: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    """The nearest row of `codebook` (K, D) for each row of `vectors` (N, D), both float32; ties go to the lower code.

    The codes are those of distances computed pair by pair in float64, so the code of an item depends neither on which
    items it is encoded with nor on the number of threads. The rounding of a float32 matrix product does; it only rules
    out the centroids that its rounding error cannot make the nearest, and what is left is compared pair by pair.

    Returns:
        (N,) int64
    """
    rows = max(1, MAX_NUMBERS // max(codebook.shape))
    chunks = [_nearest_of_chunk(vectors[start : start + rows], codebook) for start in range(0, len(vectors), rows)]
    return np.concatenate([np.zeros(0, dtype=np.int64), *chunks])


def _nearest_of_chunk(vectors: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(codebook.astype(np.float64), axis=1)
    rounding = np.finfo(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # infinity and NaN rule nothing out
        # numpy's product, as torch's may be set to less than float32. Half the squared distance less |x|^2/2: (rows, K)
        scores = (np.square(norms) / 2).astype(np.float32) - vectors @ codebook.T
        # A dot product over D is off by at most about D * eps/2 * |x| |c|, in whichever order it is added up, and D
        # underflows; this is twice the error of the difference of two scores, so it covers the float64 rounding too.
        scale = np.square(np.linalg.norm(vectors, axis=1) + norms.max())
        margin = ((codebook.shape[1] + 8) * (rounding.eps * scale + rounding.tiny)).astype(np.float32)
        codes = scores.argmin(axis=1)
        limit = scores[np.arange(len(codes)), codes] + margin
        scores[np.arange(len(codes)), codes] = np.inf
        unsure = np.flatnonzero(~(scores.min(axis=1) > limit))
        near = ~(scores[unsure] > limit[unsure, None])
    near[np.arange(len(unsure)), codes[unsure]] = True
    row, code = near.nonzero()
    apart = vectors[unsure[row]].astype(np.float64) - codebook[code]
    distances = np.full(near.shape, np.inf)
    distances[row, code] = np.einsum("nd,nd->n", apart, apart)  # adds up each row alike, however many there are
    codes[unsure] = distances.argmin(axis=1)  # the first of equal minima
    return codes
