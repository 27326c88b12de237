import json
from pathlib import Path

import numpy as np
import pytest
from rectools_values import ITEMS, K, case

from hf_genrec.evaluation.metrics import ndcg_at_k, recall_at_k
from hf_genrec.evaluation.popularity_metrics import (
    debiased_at_k,
    novelty_at_k,
    popularity_metrics,
    serendipity_at_k,
)

TRAIN = [np.array([0, 1]), np.array([0, 2]), np.array([0])]
RECOMMENDED = np.array([[2, 0], [3, -1]])
TARGETS = [np.array([2]), np.array([3])]


def test_the_worked_examples():
    assert novelty_at_k(RECOMMENDED, TRAIN, 4, 2) == pytest.approx([np.log2(3) / 2, np.log2(3)])
    assert serendipity_at_k(RECOMMENDED, TARGETS, np.array([3, 1, 1, 0]), 2) == pytest.approx([0.125, 1.0])
    popularity = np.array([3, 1, 4, 1])
    assert debiased_at_k(RECOMMENDED, TARGETS, popularity, 1)["debiased_recall"] == pytest.approx([1.0, 1.0])
    missed = debiased_at_k(np.array([[0], [3]]), TARGETS, popularity, 1)
    assert missed["debiased_recall"].mean() == pytest.approx(1 / 1.5)
    assert missed["debiased_ndcg"].mean() == pytest.approx(1 / 1.5)


def test_values_of_rectools():
    """Made by rectools_values.py."""
    expected = json.loads((Path(__file__).parent / "rectools_values.json").read_text())
    train, lists, targets = case()
    recommended = np.full((len(lists), K), -1)
    for row, items in enumerate(lists):
        recommended[row, : len(items)] = items
    arrays = ([np.array(row) for row in targets], [np.array(row) for row in train])
    found = popularity_metrics(recommended, *arrays, ITEMS, (1, 3, K))
    assert {name for name in found if not name.startswith("debiased")} == expected.keys()
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, abs=1e-12), name
    assert sum(map(sum, (expected[name] for name in expected if "serendipity" in name))) > 1


def test_repeats_of_a_training_user_count_once_for_novelty():
    repeated = [np.array([0, 1, 1, 1]), np.array([0, 2]), np.array([0]), np.array([], dtype=int)]
    assert novelty_at_k(RECOMMENDED, repeated, 4, 2) == pytest.approx(novelty_at_k(RECOMMENDED, TRAIN, 4, 2))
    assert novelty_at_k(np.array([[-1, -1]]), TRAIN, 4, 2).tolist() == [0.0]
    with pytest.raises(ValueError, match="no training interactions"):
        novelty_at_k(RECOMMENDED, [np.array([], dtype=int)], 4, 2)


@pytest.fixture
def random_lists():
    rng = np.random.default_rng(1)
    recommended = np.stack([rng.permutation(30)[:10] for _ in range(200)])
    return recommended, [rng.integers(0, 30, rng.integers(1, 5)) for _ in range(200)], rng.integers(0, 50, 30)


def test_equally_popular_targets_have_the_plain_metrics(random_lists):
    recommended, targets, _ = random_lists
    found = debiased_at_k(recommended, targets, np.full(30, 9), 5)
    assert found["debiased_recall"] == pytest.approx(recall_at_k(recommended, targets, 5))
    assert found["debiased_ndcg"] == pytest.approx(ndcg_at_k(recommended, targets, 5))


def test_single_targets_are_weighed_by_their_propensity(random_lists):
    recommended, targets, popularity = random_lists
    targets = [target[:1] for target in targets]
    weights = np.maximum(popularity[np.concatenate(targets)], 1) ** -0.5
    found = debiased_at_k(recommended, targets, popularity, 5)
    for name, metric in (("debiased_recall", recall_at_k), ("debiased_ndcg", ndcg_at_k)):
        plain = metric(recommended, targets, 5)
        assert found[name].mean() == pytest.approx((weights * plain).sum() / weights.sum())
        assert found[name].mean() != pytest.approx(plain.mean(), rel=1e-3)
    everything = np.tile(np.arange(30), (200, 1))
    assert debiased_at_k(everything, targets, popularity, 30)["debiased_recall"] == pytest.approx(np.ones(200))


def test_a_debiased_ndcg_is_1_where_the_rarest_targets_come_first():
    popularity = np.array([100, 1, 25])
    targets = [np.array([0, 1, 2])]
    assert debiased_at_k(np.array([[1, 2, 0]]), targets, popularity, 3)["debiased_ndcg"] == pytest.approx([1.0])
    assert debiased_at_k(np.array([[0, 2, 1]]), targets, popularity, 3)["debiased_ndcg"][0] < 0.7
    assert debiased_at_k(np.array([[1, 2, 0]]), targets, popularity, 1)["debiased_ndcg"] == pytest.approx([1.0])
    # Gains 1, 0.2 and 0.1 of the items 1, 2 and 0.
    assert debiased_at_k(np.array([[0, 1]]), targets, popularity, 1)["debiased_recall"] == pytest.approx([0.1 / 1.3])
