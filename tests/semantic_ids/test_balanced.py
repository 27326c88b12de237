"""Balanced clusters: the cheapest assignment there is, sizes within their bounds."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_genrec.semantic_ids.balanced import balanced_assignment, balanced_centroids, balanced_labels, cluster_bounds


@st.composite
def problems(draw, rows=6, clusters=3):
    clusters = draw(st.integers(1, clusters))
    rows = draw(st.integers(1, rows))
    number = st.one_of(st.integers(-3, 3), st.floats(-1e3, 1e3))  # whole numbers: many assignments cost the same
    costs = draw(st.lists(st.lists(number, min_size=clusters, max_size=clusters), min_size=rows, max_size=rows))
    smallest = draw(st.integers(0, rows // clusters))
    return np.array(costs, dtype=float), smallest, draw(st.integers(-(-rows // clusters), rows))


@settings(deadline=None, max_examples=200)
@given(problems())
def test_no_assignment_within_the_bounds_costs_less(problem):
    costs, smallest, largest = problem
    rows, clusters = costs.shape
    labels = balanced_assignment(costs, smallest, largest)
    sizes = np.bincount(labels, minlength=clusters)
    assert smallest <= sizes.min()
    assert sizes.max() <= largest
    allowed = (
        each
        for each in product(range(clusters), repeat=rows)
        if all(smallest <= each.count(cluster) <= largest for cluster in range(clusters))
    )
    best = min(costs[np.arange(rows), list(each)].sum() for each in allowed)
    assert costs[np.arange(rows), labels].sum() == pytest.approx(best, rel=1e-9, abs=1e-7)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(2, 12))
def test_every_cluster_of_many_rows_keeps_the_bounds(seed, clusters):
    """Most rows are near one centre, so nearly all of them must move."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(120, 3)).astype(np.float32) * rng.choice([0.01, 5.0], size=(120, 1), p=[0.8, 0.2])
    smallest, largest = cluster_bounds(120, clusters)
    centroids = balanced_centroids(vectors, vectors[:clusters], smallest, largest)
    sizes = np.bincount(balanced_labels(vectors, centroids, smallest, largest), minlength=clusters)
    assert smallest <= sizes.min()
    assert sizes.max() <= largest


def test_clusters_without_bounds_are_the_nearest_ones():
    vectors, centroids = np.random.default_rng(0).normal(size=(2, 50, 4))
    labels = balanced_labels(vectors, centroids[:7], 0, 50)
    assert np.array_equal(labels, np.square(vectors[:, None] - centroids[:7]).sum(2).argmin(1))


def test_bounds_that_cannot_be_kept_are_refused():
    with pytest.raises(ValueError, match="5 rows cannot make 2 clusters of 3 to 4 rows each"):
        balanced_assignment(np.zeros((5, 2)), 3, 4)
    with pytest.raises(ValueError, match="5 rows cannot make 2 clusters of 0 to 2"):
        balanced_assignment(np.zeros((5, 2)), 0, 2)


@pytest.mark.parametrize(("rows", "clusters", "bounds"), [(600, 256, (1, 4)), (12101, 256, (23, 92)), (9, 8, (0, 2))])
def test_the_bounds_are_the_published_ones_where_those_can_be_kept(rows, clusters, bounds):
    assert cluster_bounds(rows, clusters) == bounds


@pytest.mark.parametrize("rows", [1, 8, 255, 30_000, 100_000])
def test_there_are_always_bounds_that_can_be_kept(rows):
    smallest, largest = cluster_bounds(rows, 8)
    assert 8 * smallest <= rows <= 8 * largest
