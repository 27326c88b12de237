import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.retrieval import RetrievalMRR, RetrievalNormalizedDCG, RetrievalPrecision, RetrievalRecall

from hf_genrec.evaluation import metrics
from hf_genrec.evaluation.metrics import (
    bootstrap_interval,
    catalogue_coverage,
    diversity_ratio,
    gini,
    invalid_share,
    mrr_at_k,
    ndcg_at_k,
    over_recommendation_ratio,
    paired_bootstrap_difference,
    per_user_metrics,
    precision_at_k,
    recall_at_k,
    short_list_share,
    token_bias_amplification,
)

# the two users of the module's worked examples
RECOMMENDED = np.array([[3, 1, 7, 2], [4, 5, 0, -1]])
TARGETS = [np.array([3, 7]), np.array([5])]
LOG3 = math.log2(3)


def test_ranking_metrics_by_hand():
    np.testing.assert_allclose(recall_at_k(RECOMMENDED, TARGETS, 2), [0.5, 1.0])
    np.testing.assert_allclose(recall_at_k(RECOMMENDED, TARGETS, 1), [0.5, 0.0])
    np.testing.assert_allclose(precision_at_k(RECOMMENDED, TARGETS, 4), [0.5, 0.25])
    np.testing.assert_allclose(ndcg_at_k(RECOMMENDED, TARGETS, 3), [1.5 / (1 + 1 / LOG3), 1 / LOG3])
    np.testing.assert_allclose(ndcg_at_k(RECOMMENDED, TARGETS, 1), [1.0, 0.0])  # ideal over min(2, 1) targets
    np.testing.assert_allclose(mrr_at_k(RECOMMENDED, TARGETS, 4), [1.0, 0.5])


def test_repeated_items_count_once():
    recommended = np.array([[6, 6, 6]])
    np.testing.assert_allclose(recall_at_k(recommended, [np.array([6, 8, 8])], 3), [0.5])
    np.testing.assert_allclose(ndcg_at_k(recommended, [np.array([6])], 3), [1.0])


def test_padding_is_never_a_hit_of_a_neighbouring_user():
    # keys of (user, item) pairs must not let user 1's -1 be read as user 0's largest item
    recommended = np.array([[0, 1], [-1, -1]])
    np.testing.assert_array_equal(recall_at_k(recommended, [np.array([9]), np.array([0])], 2), [0.0, 0.0])


def brute_force(items: list[int], truth: set[int], k: int) -> dict[str, float]:
    hits = [rank for rank, item in enumerate(items[:k], start=1) if item in truth and item not in items[: rank - 1]]
    ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(len(truth), k) + 1))
    return {
        "recall": len(hits) / len(truth),
        "ndcg": sum(1 / math.log2(rank + 1) for rank in hits) / ideal,
        "mrr": 1 / hits[0] if hits else 0.0,
        "precision": len(hits) / k,
    }


LISTS = st.lists(
    st.tuples(st.lists(st.integers(0, 9), max_size=6), st.lists(st.integers(0, 9), min_size=1, max_size=8)),
    min_size=1,
    max_size=6,
)


@settings(max_examples=100, deadline=None)
@given(users=LISTS, k=st.integers(1, 6))
def test_ranking_metrics_equal_brute_force(users, k):
    recommended = np.array([items + [-1] * (6 - len(items)) for items, _ in users])
    values = per_user_metrics(recommended, [np.array(truth) for _, truth in users], [k])
    for row, (items, truth) in enumerate(users):
        for name, expected in brute_force(items, set(truth), k).items():
            assert values[f"{name}@{k}"][row] == pytest.approx(expected, abs=1e-12), name


@settings(max_examples=50, deadline=None)
@given(users=LISTS, k=st.integers(1, 6))
def test_catalogue_metrics_equal_brute_force(users, k):
    recommended = np.array([items + [-1] * (6 - len(items)) for items, _ in users])
    shown = [item for items, _ in users for item in items[:k]]
    counts = [shown.count(item) for item in range(10)]
    slots = k * len(users)
    assert diversity_ratio(recommended, k) == pytest.approx(len(set(shown)) / slots)
    assert over_recommendation_ratio(recommended, k, most=3) == pytest.approx(sum(sorted(counts)[-3:]) / slots)
    assert catalogue_coverage(recommended, k, 10) == pytest.approx(len(set(shown)) / 10)
    if shown:
        differences = sum(abs(a - b) for a in counts for b in counts)
        assert gini(recommended, k, 10) == pytest.approx(differences / (2 * 10 * len(shown)))
    else:
        assert math.isnan(gini(recommended, k, 10))


@pytest.mark.parametrize("k", [1, 5, 20])
def test_ranking_metrics_equal_torchmetrics(k):
    rng = np.random.default_rng(k)
    users, num_items = 30, 40
    scores = torch.rand(users, num_items, generator=torch.Generator().manual_seed(k))
    targets = [rng.choice(num_items, size=rng.integers(1, 8), replace=False) for _ in range(users)]
    truth = torch.zeros(users, num_items, dtype=torch.bool)
    for row, items in enumerate(targets):
        truth[row, torch.from_numpy(items)] = True
    users_column = torch.arange(users)[:, None].expand(users, num_items)
    ours = per_user_metrics(scores.argsort(dim=1, descending=True).numpy()[:, :20], targets, [k])
    oracles = {
        "recall": RetrievalRecall(top_k=k),
        "ndcg": RetrievalNormalizedDCG(top_k=k),
        "mrr": RetrievalMRR(top_k=k),
        "precision": RetrievalPrecision(top_k=k),
    }
    for name, oracle in oracles.items():
        expected = oracle(scores.flatten(), truth.flatten(), indexes=users_column.flatten())
        assert ours[f"{name}@{k}"].mean() == pytest.approx(float(expected), abs=1e-6), name


def test_catalogue_metrics_by_hand():
    assert diversity_ratio(RECOMMENDED, 4) == 7 / 8
    assert catalogue_coverage(RECOMMENDED, 4, num_items=10) == 0.7
    assert over_recommendation_ratio(np.array([[1, 2], [1, 3], [1, 4]]), 2, most=1) == 0.5
    assert over_recommendation_ratio(np.arange(20).reshape(1, 20), 20) == 0.5  # ten of twenty slots
    assert gini(np.array([[2, 3], [3, -1], [3, -1]]), 2, num_items=4) == 0.625
    assert short_list_share(RECOMMENDED) == 0.5


def test_gini_of_uniform_and_of_one_item():
    assert gini(np.arange(12).reshape(4, 3), 3, num_items=12) == 0.0
    assert gini(np.full((7, 1), 4), 1, num_items=12) == pytest.approx(11 / 12)


def test_invalid_share_leaves_padding_out():
    catalogue = np.array([True, True, False])
    assert invalid_share(np.array([[0, 2, 9], [1, -1, -1]]), catalogue) == 0.5
    assert invalid_share(np.array([[0, -2]]), catalogue) == 0.5
    assert invalid_share(np.full((2, 3), -1), catalogue) == 0.0


def test_token_bias_by_hand():
    amplification = token_bias_amplification(
        recommended_codes=np.array([[0], [0], [0], [1]]),
        target_codes=np.array([[0], [0], [1], [2]]),
        catalogue_codes=np.array([[0], [1], [2], [0]]),  # code 0 is held by two items, 2 + 1 interactions
        popularity=np.array([2, 2, 1, 1]),
        groups=2,
    )
    np.testing.assert_allclose(amplification, [[0.5, -0.5]])


def test_token_bias_is_zero_when_recommendations_mirror_targets_and_nan_without_targets():
    codes = np.array([[0, 1], [1, 0], [2, 2]])
    same = token_bias_amplification(codes, codes[::-1], codes, np.array([1, 1, 1]), groups=3)
    np.testing.assert_allclose(same, np.zeros((2, 3)))
    # every target is the frequent token 0: nothing to compare the rare tokens with
    rare = token_bias_amplification(np.array([[0], [1]]), np.array([[0]]), np.array([[0], [1]]), np.array([1, 1]), 2)
    np.testing.assert_array_equal(rare, [[-0.5, np.nan]])


def test_token_bias_counts_tokens_outside_the_catalogue_as_rare():
    amplification = token_bias_amplification(
        np.array([[7], [0]]), np.array([[0], [1]]), np.array([[0], [1]]), np.array([1, 1]), groups=2
    )
    np.testing.assert_allclose(amplification, [[0.0, 0.0]])


def test_bootstrap_interval_is_deterministic_and_near_the_normal_one():
    values = np.zeros(1000)
    values[:100] = 1.0
    low, high = bootstrap_interval(values)
    assert (low, high) == bootstrap_interval(values)
    assert (low, high) != bootstrap_interval(values, seed=1)
    half = 1.96 * math.sqrt(0.1 * 0.9 / 1000)
    assert low == pytest.approx(0.1 - half, abs=0.003)
    assert high == pytest.approx(0.1 + half, abs=0.003)
    narrow = bootstrap_interval(values, confidence=0.5)
    assert low < narrow[0] < 0.1 < narrow[1] < high


def test_bootstrap_interval_covers_the_true_mean():
    rng = np.random.default_rng(0)
    intervals = [bootstrap_interval(rng.random(200) < 0.2, samples=300) for _ in range(200)]
    covered = np.mean([low <= 0.2 <= high for low, high in intervals])
    assert 0.89 <= covered <= 0.99  # 95 % +- 4 standard errors of 200 trials


def test_bootstrap_chunks_do_not_change_the_interval(monkeypatch):
    values = np.random.default_rng(0).random(50)
    whole = bootstrap_interval(values, samples=101)
    monkeypatch.setattr(metrics, "BOOTSTRAP_CHUNK", 350)
    assert bootstrap_interval(values, samples=101) == whole


def test_paired_difference_sees_what_two_intervals_hide():
    second = np.random.default_rng(0).random(400)
    first = second + 0.02
    difference, low, high = paired_bootstrap_difference(first, second)
    assert (difference, low, high) == pytest.approx((0.02, 0.02, 0.02))
    assert bootstrap_interval(first)[0] < bootstrap_interval(second)[1]


@pytest.mark.parametrize(
    ("recommended", "targets", "k", "message"),
    [
        (RECOMMENDED, TARGETS, 5, "k=5 but the lists have 4 columns"),
        (RECOMMENDED, TARGETS, 0, "k=0"),
        (RECOMMENDED, TARGETS[:1], 4, "2 recommended lists but 1 arrays"),
        (RECOMMENDED, [TARGETS[0], np.array([], dtype=np.int64)], 4, "user row 1 has no target"),
        (RECOMMENDED, [TARGETS[0], np.array([-1])], 4, "user row 1 has the negative target -1"),
        (RECOMMENDED[0], TARGETS, 4, "must be"),
    ],
)
def test_bad_input_is_named(recommended, targets, k, message):
    with pytest.raises(ValueError, match=message):
        recall_at_k(recommended, targets, k)


def test_bad_bootstrap_and_popularity_are_named():
    with pytest.raises(ValueError, match="at least one user"):
        bootstrap_interval(np.array([]))
    with pytest.raises(ValueError, match="same users"):
        paired_bootstrap_difference(np.zeros(3), np.zeros(4))
    with pytest.raises(ValueError, match="popularity is 0"):
        token_bias_amplification(np.array([[0]]), np.array([[0]]), np.array([[0]]), np.array([0]))
