"""Item vectors carried along the graph of who is consumed with whom (CoBa RQ-VAE, arXiv 2601.18664)."""

import numpy as np
import scipy.sparse

STEPS = 3
OWN_SHARE = 0.3  # alpha: of an item's own vector in each step


def propagate(vectors: np.ndarray, counts: scipy.sparse.csr_array) -> np.ndarray:
    """
    sum_k b_k H_k with H_0 = X, H_k = (1 - alpha) A H_(k-1) + alpha X and b_k ~ alpha (1 - alpha)^k, k = 0 .. 3, of sum
    1; A = D^(-1/2) counts D^(-1/2). X are the vectors less their mean, which is added again: the sum of a row of A says
    how often an item is consumed, and would scale what is common to all.

    An item without neighbours keeps its vector, and so does a new one.

    Args:
        vectors: (N, D); a row of zeros is missing, and stands at the mean.
        counts: (N, N), symmetric, zero diagonal: how often two items stand close in the training sequences.

    Returns:
        (N, D) float32

    Raises:
        ValueError: no two items that co-occur.
    """
    if not counts.nnz:
        raise ValueError("no two items co-occur in the training sequences; use vectors: text")
    degree = np.asarray(counts.sum(axis=1)).ravel()
    root = np.divide(1.0, np.sqrt(degree), out=np.zeros(len(degree)), where=degree > 0)
    adjacency = scipy.sparse.diags_array(root) @ counts @ scipy.sparse.diags_array(root)
    present = (vectors != 0).any(axis=1)
    mean = vectors[present].mean(axis=0, dtype=np.float64)
    own = np.where(present[:, None], vectors - mean, 0.0)
    weights = OWN_SHARE * (1 - OWN_SHARE) ** np.arange(STEPS + 1)
    weights /= weights.sum()
    step, total = own, weights[0] * own
    for weight in weights[1:]:
        step = (1 - OWN_SHARE) * (adjacency @ step) + OWN_SHARE * own
        total = total + weight * step
    return np.where(degree[:, None] > 0, total + mean, vectors).astype(np.float32)
