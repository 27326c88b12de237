import json
import logging
import math
import time
from types import SimpleNamespace

import numpy as np
import pytest

from hf_genrec.evaluation.evaluator import evaluate_recommender
from hf_genrec.evaluation.report import render_table, result_record
from hf_genrec.files import write_json

HISTORIES = [np.array([0, 1]), np.array([2]), np.array([], dtype=np.int64)]
SPLIT = SimpleNamespace(
    name="test",
    user_ids=["a", "b", "c"],
    histories=HISTORIES,
    targets=[np.array([2]), np.array([3, 4]), np.array([5])],
)


def fixed(lists):
    """A recommender which answers each batch with the next rows of `lists`."""
    rows = iter(lists)
    return lambda histories, k: np.array([next(rows) for _ in histories])


LISTS = [[2, 3, 4], [0, 3, 1], [3, 2, 4]]


def evaluate(lists, **options):
    options = {"num_items": 6, "ks": (1, 3), "batch_size": 2, "progress": False} | options
    return evaluate_recommender(fixed(lists), SPLIT, **options)


def test_metrics_by_hand():
    result = evaluate(LISTS)
    assert result.metrics["recall@3"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert result.metrics["recall@1"] == pytest.approx(1 / 3)
    assert result.metrics["mrr@3"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert result.metrics["precision@3"] == pytest.approx(2 / 9)
    assert result.metrics["div_ratio@3"] == pytest.approx(5 / 9)
    assert result.metrics["coverage@3"] == pytest.approx(5 / 6)
    assert result.metrics["or_ratio@3"] == 1.0
    assert result.metrics["invalid_share"] == 0.0
    assert result.metrics["short_list_share"] == 0.0
    np.testing.assert_allclose(result.per_user["recall@3"], [1, 0.5, 0])
    assert set(result.intervals) == set(result.per_user)
    low, high = result.intervals["recall@3"]
    assert 0 <= low < result.metrics["recall@3"] < high <= 1
    assert result.users_per_second == pytest.approx(3 / result.seconds)


def test_batches_do_not_change_the_result_and_ask_for_the_largest_k():
    asked = []

    def recommend(histories, k):
        asked.append((len(histories), k))
        return np.array([[len(history), 3, 4] for history in histories])

    results = [
        evaluate_recommender(recommend, SPLIT, 6, ks=(3, 1), batch_size=size, progress=False) for size in (1, 2, 3)
    ]
    assert asked == [(1, 3)] * 3 + [(2, 3), (1, 3)] + [(3, 3)]
    assert results[0].metrics == results[1].metrics == results[2].metrics


def test_cost_is_the_time_in_the_recommender_over_all_batches():
    def recommend(histories, k):
        time.sleep(0.02)
        return np.zeros((len(histories), 1), dtype=np.int64)

    result = evaluate_recommender(recommend, SPLIT, 6, batch_size=1, progress=False)
    assert result.seconds >= 0.06
    assert result.cpu_seconds < result.seconds  # asleep


def test_invalid_and_short_lists_are_counted_and_never_hit():
    result = evaluate([[2, 6, -7], [3, -1, -1], [6, 7, 8]])
    assert result.metrics["invalid_share"] == pytest.approx(5 / 7)
    assert result.metrics["short_list_share"] == pytest.approx(1 / 3)
    assert result.metrics["recall@3"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert result.metrics["coverage@3"] == pytest.approx(2 / 6)
    assert result.metrics["div_ratio@3"] == pytest.approx(2 / 9)


def test_fewer_columns_than_asked_are_short_lists():
    result = evaluate([[2], [3], [0]])
    assert result.metrics["short_list_share"] == 1.0
    assert result.metrics["recall@3"] == pytest.approx(0.5)


def test_token_bias_reads_the_codes_of_lists_and_targets():
    codes = np.arange(6)[:, None]
    result = evaluate([[2, 3, 4], [2, 3, 4], [2, 3, 5]], codes=codes, popularity=np.array([0, 0, 1, 1, 1, 1]), ks=(3,))
    # tokens 2, 3, 4, 5 of equal mass lie in the groups 0, 1, 3, 4 of 5; shares 3/9, 3/9, 2/9, 1/9 against 1/4 each
    np.testing.assert_allclose(result.token_bias, [[1 / 3, 1 / 3, np.nan, -1 / 9, -5 / 9]])


def test_seen_items_are_checked():
    unseen = [[2, 3, 4], [0, 3, 1], [3, 2, 4]]
    assert evaluate(unseen, exclude_seen=True).exclude_seen
    with pytest.raises(ValueError, match="user row 1 was recommended item 2 of its history"):
        evaluate([[2, 3, 4], [0, 2, 1], [3, 2, 4]], exclude_seen=True)


def test_repeated_items_are_reported(caplog):
    with caplog.at_level(logging.WARNING):
        evaluate([[2, 2, 2], [3, -1, -1], [1, 2, 3]])
    assert "2 of 9 list entries repeat" in caplog.text


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ([[2, -1, 4], [0, 3, 1], [3, 2, 4]], "user row 0 has -1 before its end"),
        ([[2, 3, 4, 5]] * 3, r"shape \(2, 4\) for 2 histories and k=3"),
        ([[2.0, 3.0]] * 3, "float64"),
    ],
)
def test_bad_answers_are_named(lists, message):
    with pytest.raises(ValueError, match=message):
        evaluate(lists)


def test_a_tuple_answer_and_bad_arguments_are_named():
    with pytest.raises(ValueError, match="one integer array"):
        evaluate_recommender(lambda h, k: (np.zeros((len(h), k)), np.zeros((len(h), k))), SPLIT, 6, progress=False)
    with pytest.raises(ValueError, match="0 users"):
        evaluate_recommender(fixed([]), SimpleNamespace(name="test", histories=[], targets=[]), 6)
    with pytest.raises(ValueError, match="codes need popularity"):
        evaluate(LISTS, codes=np.zeros((6, 1), dtype=np.int64))


def test_record_survives_the_file(tmp_path):
    result = evaluate(LISTS, codes=np.arange(6)[:, None], popularity=np.array([9, 0, 0, 1, 1, 1]))
    assert np.isnan(result.token_bias).any()
    record = result_record(
        result, system="CARE", data_set="ml-100k", seed=3, tie_order="file", command=["hf-genrec", "evaluate", "my run"]
    )
    path = tmp_path / "new" / "result.json"
    write_json(record, path)
    loaded = json.loads(path.read_text())
    assert loaded == record
    assert loaded["command"] == "hf-genrec evaluate 'my run'"
    assert loaded["metrics"]["recall@3"]["value"] == result.metrics["recall@3"]
    assert loaded["metrics"]["recall@3"]["low"] == result.intervals["recall@3"][0]
    assert (loaded["split"], loaded["seed"], loaded["tie_order"], loaded["seen_items_removed"]) == (
        "test",
        3,
        "file",
        False,
    )
    assert set(loaded["versions"]) == {"python", "torch", "transformers", "hf_genrec"}
    assert loaded["token_bias_amplification"][0][0] is None  # no target holds the frequent token
    assert loaded["cost"]["seconds"] == result.seconds


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "result.json"
    write_json({"value": 1}, path)
    with pytest.raises(ValueError, match="JSON"):
        write_json({"value": math.nan}, path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        write_json({"value": 2}, tmp_path / "folder")
    assert json.loads(path.read_text()) == {"value": 1}
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["folder", "result.json"]


def test_table_shows_every_system_within_100_columns():
    rng = np.random.default_rng(0)
    split = SimpleNamespace(name="test", histories=[np.array([0])] * 50, targets=[np.array([1])] * 50)

    def recommend(histories, k):
        return np.stack([rng.permutation(30)[:k] for _ in histories])

    results = {
        name: evaluate_recommender(recommend, split, 30, progress=False)
        for name in ("CARE", "most popular", "item-kNN")
    }
    table = render_table(results)
    assert max(len(line) for line in table.splitlines()) <= 100
    assert table.startswith("test split, 50 users, 30 items, seen items not removed")
    accuracy, catalogue = (part.splitlines() for part in table.split("\n\n")[1:])
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in accuracy]
    assert cells[0] == ["", "Recall@5", "Recall@10", "Recall@20", "NDCG@5", "NDCG@10", "NDCG@20"]
    assert [row[0] for row in cells[2:]] == ["CARE", "95 % interval", "most popular", "item-kNN"]
    assert cells[2][2] == f"{results['CARE'].metrics['recall@10']:.4f}"
    low, high = results["CARE"].intervals["recall@10"]
    assert cells[3][2] == f"{low:.3f}-{high:.3f}".replace("0.", ".")
    assert [line.split("|")[1].strip() for line in catalogue[2:]] == ["CARE", "most popular", "item-kNN"]


def test_table_refuses_results_which_do_not_compare():
    with pytest.raises(ValueError, match="no results"):
        render_table({})
    with pytest.raises(ValueError, match="'other' was evaluated on another"):
        render_table({"first": evaluate(LISTS), "other": evaluate(LISTS, ks=(1, 2, 3))})


def test_metrics_of_popularity_where_the_training_is_given():
    train = [np.array([0, 1]), np.array([2]), np.array([2, 3])]
    plain, result = evaluate(LISTS), evaluate(LISTS, train=train)
    names = ("novelty", "serendipity", "debiased_recall", "debiased_ndcg")
    added = {f"{name}@{k}" for name in names for k in (1, 3)}
    assert result.metrics.keys() - plain.metrics.keys() == added
    assert added <= result.intervals.keys()
    assert all(plain.metrics[name] == result.metrics[name] for name in plain.metrics)
    # Log2 of three users over those who have the item: item 2 has two of them, the others one or none.
    assert result.per_user["novelty@1"] == pytest.approx([np.log2(1.5), np.log2(3), np.log2(3)])
    record = result_record(result, system="a", data_set="b", seed=0, tie_order="file")
    assert record["metrics"]["novelty@1"].keys() == {"value", "low", "high"}
    table = render_table({"a": result, "b": result})
    assert max(len(line) for line in table.splitlines()) <= 100
    assert "| Novelty@3 | Serendipity@3 | Debiased Recall@3 | Debiased NDCG@3 |" in table
    assert "Novelty" not in render_table({"a": result, "b": plain})
