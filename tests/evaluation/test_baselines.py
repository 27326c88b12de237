from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_genrec.evaluation import baselines
from hf_genrec.evaluation.baselines import ItemKNN, MostPopular
from hf_genrec.evaluation.metrics import ndcg_at_k, recall_at_k

ML_100K = Path(__file__).parents[3] / "shared" / "data" / "ml-100k" / "ml-100k.inter"


def sequences(*lists: list[int]) -> list[np.ndarray]:
    return [np.array(items, dtype=np.int64) for items in lists]


def test_most_popular_breaks_ties_by_index_and_pads():
    model = MostPopular(sequences([3, 1, 3], [1, 4]), num_items=5)  # counts 0, 2, 0, 2, 1
    items, scores = model.recommend(sequences([1], []), k=6)
    np.testing.assert_array_equal(items, [[1, 3, 4, 0, 2, -1]] * 2)
    np.testing.assert_array_equal(scores, [[2, 2, 1, 0, 0, -np.inf]] * 2)
    items, _ = model.recommend(sequences([1, 4, 1], [0, 1, 2, 3, 4]), k=3, exclude_seen=True)
    np.testing.assert_array_equal(items, [[3, 0, 2], [-1, -1, -1]])


def test_item_knn_by_hand():
    model = ItemKNN(sequences([0, 1], [0, 1], [0, 2]), num_items=4)
    items, scores = model.recommend(sequences([0], []), k=4)
    np.testing.assert_array_equal(items, [[1, 2, 0, 3], [0, 1, 2, 3]])  # the empty history: popularity
    np.testing.assert_allclose(scores, [[2 / 6**0.5, 1 / 3**0.5, 0, 0], [0, 0, 0, 0]])
    items, _ = model.recommend(sequences([0, 1, 1]), k=4, exclude_seen=True)
    np.testing.assert_array_equal(items, [[2, 3, -1, -1]])


def test_item_knn_weights_the_newest_most_and_forgets_the_oldest():
    train = sequences([0, 1], [2, 3], [4, 5])
    _, scores = ItemKNN(train, 6, history=2, decay=0.5).recommend(sequences([0, 2, 4]), k=3)
    np.testing.assert_allclose(scores, [[1.0, 0.5, 0.0]])  # 5 by 4, 3 by 2, nothing by 0


def test_item_knn_learns_the_checkerboard():
    # even users like even items, odd users odd ones
    train = [np.array([item for item in range(20) if item % 2 == user % 2 and item != user]) for user in range(20)]
    items, _ = ItemKNN(train, 20).recommend(train, k=1, exclude_seen=True)
    np.testing.assert_array_equal(items[:, 0], np.arange(20))


def dense_knn(train, histories, num_items, num_neighbours, history, decay):
    """Scores (users, items) with dense matrices and loops, and the popularity."""
    users = [set(items.tolist()) for items in train]
    popularity = np.bincount(np.concatenate([*train, np.empty(0, dtype=np.int64)]), minlength=num_items)
    similarity = np.zeros((num_items, num_items))
    for i in range(num_items):
        for j in range(num_items):
            both = sum(i in items and j in items for items in users)
            if i != j and both:
                similarity[i, j] = both / np.sqrt(
                    sum(i in items for items in users) * sum(j in items for items in users)
                )
        ranked = sorted(range(num_items), key=lambda j: (-similarity[i, j], -popularity[j], j))
        similarity[i, ranked[num_neighbours:]] = 0.0
    scores = np.zeros((len(histories), num_items))
    for row, items in enumerate(histories):
        for age, item in enumerate(items[::-1][:history]):
            scores[row] += decay**age * similarity[item]
    return scores, popularity


SEQUENCES = st.lists(st.lists(st.integers(0, 7), max_size=6), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(
    train=SEQUENCES,
    histories=SEQUENCES,
    num_neighbours=st.integers(1, 8),
    history=st.integers(1, 6),
    exclude_seen=st.booleans(),
)
def test_item_knn_equals_a_dense_oracle(train, histories, num_neighbours, history, exclude_seen):
    # a decay of 0.5 keeps equal sums equal in floating point, so that ties are the same ties on both sides
    train, histories = sequences(*train), sequences(*histories)
    model = ItemKNN(train, 8, num_neighbours=num_neighbours, history=history, decay=0.5)
    expected, popularity = dense_knn(train, histories, 8, num_neighbours, history, 0.5)
    items, scores = model.recommend(histories, k=5, exclude_seen=exclude_seen)
    for row, seen in enumerate(histories):
        allowed = [item for item in range(8) if not (exclude_seen and item in seen)]
        best = sorted(allowed, key=lambda item: (-round(expected[row, item], 9), -popularity[item], item))[:5]
        filled = items[row, : len(best)]
        assert (items[row, len(best) :] == -1).all()
        np.testing.assert_allclose(scores[row, : len(best)], expected[row, best], atol=1e-9)
        np.testing.assert_allclose(expected[row, filled], expected[row, best], atol=1e-9)
        assert len(set(filled)) == len(best)
        if len(seen) == 1:  # one summand: no rounding, so the tie order must be exact
            np.testing.assert_array_equal(filled, best)


@pytest.mark.parametrize("exclude_seen", [False, True])
def test_item_knn_does_not_depend_on_the_chunks(monkeypatch, exclude_seen):
    rng = np.random.default_rng(0)
    train = [rng.integers(0, 30, size=rng.integers(1, 12)) for _ in range(40)]
    whole = ItemKNN(train, 30, num_neighbours=5).recommend(train, 10, exclude_seen)
    monkeypatch.setattr(baselines, "CHUNK_CELLS", 100)  # three rows at a time
    chunked = ItemKNN(train, 30, num_neighbours=5).recommend(train, 10, exclude_seen)
    np.testing.assert_array_equal(whole[0], chunked[0])
    np.testing.assert_array_equal(whole[1], chunked[1])


def test_an_index_outside_the_catalogue_is_named():
    for model in (MostPopular, ItemKNN):
        with pytest.raises(ValueError, match=r"sequence 1 holds an item index outside 0\.\.3"):
            model(sequences([0], [4]), 4)
    with pytest.raises(ValueError, match="sequence 0 holds"):
        ItemKNN(sequences([0]), 4).recommend(sequences([-1]), 2)


@pytest.mark.slow
@pytest.mark.skipif(not ML_100K.exists(), reason="needs MovieLens 100K in ../shared/data")
def test_baselines_on_movielens():
    rows = [line.split("\t") for line in ML_100K.read_text().splitlines()[1:]]
    by_user: dict[str, list[int]] = {}
    for user, item, _, _ in sorted(rows, key=lambda row: float(row[3])):  # stable: ties stay in file order
        by_user.setdefault(user, []).append(int(item) - 1)
    users = sequences(*by_user.values())
    train, targets = [items[:-2] for items in users], [items[-1:] for items in users]
    popular, _ = MostPopular(train, 1682).recommend(users, 10)
    assert recall_at_k(popular, targets, 10).mean() == pytest.approx(0.0498, abs=1e-4)
    neighbours, _ = ItemKNN(train, 1682).recommend([items[:-1] for items in users], 10)
    assert recall_at_k(neighbours, targets, 10).mean() == pytest.approx(0.1156, abs=1e-3)
    assert ndcg_at_k(neighbours, targets, 10).mean() == pytest.approx(0.0621, abs=1e-3)
