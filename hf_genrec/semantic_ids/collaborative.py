"""Training sequences -> one vector per item, from which items it is consumed with, or from a trained recommender."""

from pathlib import Path

import numpy as np
import scipy.sparse

from hf_genrec.method import load_model, recommender_folder


def cooccurrence_counts(sequences: list[np.ndarray], num_items: int, window: int) -> scipy.sparse.csr_array:
    """How often two different items stand at most `window` positions apart in a sequence.

    Args:
        sequences: item indices per user, oldest first.

    Returns:
        (num_items, num_items) symmetric, float64, zero diagonal

    Raises:
        ValueError: an item index outside 0..num_items - 1.
    """
    flat = np.concatenate([np.asarray(sequence, dtype=np.int64) for sequence in sequences] or [np.zeros(0, np.int64)])
    user = np.repeat(np.arange(len(sequences)), [len(sequence) for sequence in sequences])
    outside = (flat < 0) | (flat >= num_items)
    if outside.any():
        place = int(outside.argmax())
        raise ValueError(f"training sequence {user[place]} holds item index {flat[place]}, not in 0..{num_items - 1}")
    rows, columns = [], []
    for offset in range(1, window + 1):
        first, second = flat[:-offset], flat[offset:]
        pair = (user[:-offset] == user[offset:]) & (first != second)
        rows.append(first[pair])
        columns.append(second[pair])
    row, column = np.concatenate(rows), np.concatenate(columns)
    ones = np.ones(len(row))
    counts = scipy.sparse.coo_array((ones, (row, column)), shape=(num_items, num_items)).tocsr()
    return counts + counts.T


def positive_pmi(counts: scipy.sparse.csr_array) -> scipy.sparse.csr_array:
    """max(0, log(n_ij n / (n_i n_j))) of symmetric co-occurrence counts, n_i the row sums and n their sum
    (Levy and Goldberg, 2014, equation 10)."""
    counts = counts.tocoo()
    total_of = np.asarray(counts.sum(axis=1)).ravel()
    row, column = counts.coords
    information = np.log(counts.data * total_of.sum() / (total_of[row] * total_of[column]))
    matrix = scipy.sparse.coo_array((np.maximum(information, 0.0), (row, column)), shape=counts.shape).tocsr()
    matrix.eliminate_zeros()
    return matrix


def collaborative_vectors(
    sequences: list[np.ndarray], num_items: int, dim: int = 64, window: int = 5, seed: int = 0
) -> np.ndarray:
    """Rows of U sqrt(S) of the truncated singular value decomposition of the items' positive PMI in the training
    sequences, scaled to length 1: the direction says with whom an item is consumed, the length would say how often.

    An item without an informative neighbour in training has a row of zeros, which the tokenizer takes for a missing
    vector. With `dim` above the number of items the further columns are zero.

    Returns:
        (num_items, dim) float32, deterministic: seeded, and the largest entry of each column of U is positive

    Raises:
        ValueError: an item index outside the catalogue, or no two items that co-occur.
    """
    from sklearn.utils.extmath import randomized_svd

    matrix = positive_pmi(cooccurrence_counts(sequences, num_items, window))
    if not matrix.nnz:
        raise ValueError(
            "no two items co-occur in the training sequences; use vectors: text (and for letter alignment_weight: 0)"
        )
    rank = min(dim, num_items)
    left, singular, _ = randomized_svd(
        matrix, n_components=rank, random_state=seed
    )  # left's signs are fixed by sklearn
    vectors = np.zeros((num_items, dim), dtype=np.float32)
    vectors[:, :rank] = left * np.sqrt(singular)
    vectors[np.diff(matrix.indptr) == 0] = 0.0
    return _unit_length(vectors)


def recommender_vectors(run_folder: str | Path, item_ids: list[str], train_sequences: list[np.ndarray]) -> np.ndarray:
    """The item vectors of a trained recommender, scaled to length 1.

    An item that training never saw has a row of zeros, which the tokenizer takes for a missing vector.

    Args:
        run_folder: the run whose `model/` is read.
        item_ids: of the catalogue, in its order.
        train_sequences: item indices per user. The model must have been trained on as many interactions of each item:
            another split would let validation and test items into the codes.

    Returns:
        (num_items, hidden_size) float32

    Raises:
        ValueError: no model with item vectors there, another catalogue, or other training interactions.
    """
    folder = recommender_folder(run_folder, "collaborative_run", with_vectors=True)
    model = load_model(folder)
    if model.processor.item_ids != item_ids:
        raise ValueError(f"collaborative_run: {folder} was trained on another catalogue; train it on the same data")
    counts = np.bincount(np.concatenate([np.zeros(0, np.int64), *train_sequences]), minlength=len(item_ids))
    if not np.array_equal(counts, model.processor.popularity):
        raise ValueError(
            f"collaborative_run: {folder} was trained on other interactions than these; prepare both with one split"
        )
    vectors = model.item_vectors()[:-1].detach().float().cpu().numpy()
    return _unit_length(np.where(counts[:, None] > 0, vectors, 0.0).astype(np.float32))


def _unit_length(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
