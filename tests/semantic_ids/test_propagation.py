"""Vectors carried along the co-occurrence graph, against the formula written out."""

import numpy as np
import pytest
import scipy.sparse

from hf_genrec.semantic_ids.collaborative import cooccurrence_counts
from hf_genrec.semantic_ids.propagation import propagate


def test_by_the_formula():
    rng = np.random.default_rng(0)
    counts = np.triu(rng.integers(0, 3, size=(8, 8)), 1)
    counts[:, 7] = 0
    counts = (counts + counts.T).astype(float)
    vectors = rng.normal(size=(8, 5)).astype(np.float32) + 2
    degree = counts.sum(axis=1)
    adjacency = np.zeros((8, 8))
    for a in range(7):
        for b in range(7):
            adjacency[a, b] = counts[a, b] / np.sqrt(degree[a] * degree[b])
    mean = vectors.astype(float).mean(axis=0)
    own = vectors - mean
    first = 0.7 * adjacency @ own + 0.3 * own
    second = 0.7 * adjacency @ first + 0.3 * own
    third = 0.7 * adjacency @ second + 0.3 * own
    weights = np.array([1, 0.7, 0.49, 0.343]) / 2.533
    expected = mean + np.tensordot(weights, np.stack([own, first, second, third]), axes=1)
    expected[7] = vectors[7]  # without a neighbour
    found = propagate(vectors, scipy.sparse.csr_array(counts))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert np.array_equal(found[7], vectors[7])


def test_items_consumed_together_come_nearer_and_a_missing_vector_is_told_by_its_neighbours():
    vectors = np.eye(6, dtype=np.float32)
    vectors[5] = 0.0
    found = propagate(vectors, cooccurrence_counts([np.array([0, 1]), np.array([2, 5])], 6, window=5))
    assert np.linalg.norm(found[0] - found[1]) < 0.5 * np.sqrt(2)
    assert found[5].argmax() == 2
    assert np.array_equal(found[3:5], vectors[3:5])


def test_no_graph_is_refused():
    with pytest.raises(ValueError, match="no two items co-occur in the training sequences; use vectors: text"):
        propagate(np.eye(3, dtype=np.float32), cooccurrence_counts([], 3, window=5))
