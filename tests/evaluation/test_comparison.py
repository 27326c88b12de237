"""Paired comparison of systems: its numbers by hand, and what it refuses."""

import itertools
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from hf_genrec.data.prepared import PreparedData
from hf_genrec.evaluation.comparison import by_history_length, differences, overlap, render, require_same_data
from hf_genrec.evaluation.evaluator import evaluate_recommender
from hf_genrec.evaluation.metrics import bootstrap_interval
from hf_genrec.training.run_folder import run_names

SPLIT = SimpleNamespace(
    name="test",
    user_ids=["a", "b", "c", "d"],
    histories=[np.arange(length) for length in (1, 2, 3, 9)],
    targets=[np.array([item]) for item in (2, 3, 4, 5)],
)
LISTS = {
    "one": np.array([[2, 0, 1], [0, 3, 1], [0, 1, 2], [5, 1, 2]]),
    "two": np.array([[0, 2, 1], [3, 0, 1], [4, 1, 2], [5, 2, -1]]),
    "three": np.array([[2, 3, 4], [3, 4, 5], [4, 5, 0], [5, 0, 1]]),
}


def evaluated(lists):
    return evaluate_recommender(lambda histories, k: lists, SPLIT, num_items=6, ks=(1, 3), progress=False)


@pytest.fixture(scope="module")
def results():
    return {name: evaluated(lists) for name, lists in LISTS.items()}


def test_differences_are_of_the_same_users(results):
    pairs = {(pair["of"], pair["to"]): pair["metrics"] for pair in differences(results)}
    assert list(pairs) == [("two", "one"), ("three", "one"), ("three", "two")]
    recall = pairs["two", "one"]["recall@1"]
    # user by user -1, 1, 1, 0
    assert recall["difference"] == pytest.approx(1 / 4)
    assert (recall["better"], recall["worse"]) == (0.5, 0.25)
    assert (recall["low"], recall["high"]) == bootstrap_interval(np.array([-1.0, 1.0, 1.0, 0.0]))
    mrr = pairs["three", "one"]["mrr@3"]
    assert mrr["difference"] == pytest.approx((0 + 0.5 + 1 + 0) / 4)
    assert pairs["three", "two"]["recall@3"]["difference"] == 0


def test_a_pair_is_more_certain_than_two_intervals(results):
    """A system that is a little better for everybody: the intervals overlap, the paired one leaves out 0."""
    rng = np.random.default_rng(0)
    before = SimpleNamespace(per_user={"ndcg@10": rng.random(200)})
    after = SimpleNamespace(per_user={"ndcg@10": before.per_user["ndcg@10"] + 0.02})
    (pair,) = differences({"before": before, "after": after})
    assert pair["metrics"]["ndcg@10"]["low"] == pytest.approx(0.02)
    assert pair["metrics"]["ndcg@10"]["better"] == 1
    assert bootstrap_interval(before.per_user["ndcg@10"])[1] > bootstrap_interval(after.per_user["ndcg@10"])[0]


def test_overlap_counts_items_of_both_lists():
    found = {(pair["of"], pair["and"]): pair["share"] for pair in overlap(LISTS, 3)}
    assert found["one", "two"] == pytest.approx((3 + 3 + 2 + 2) / 12)  # two's last list ends with nothing
    assert found["two", "three"] == pytest.approx((1 + 1 + 1 + 1) / 12)
    assert overlap(LISTS, 1)[0]["share"] == pytest.approx(1 / 4)


def test_groups_of_history_length_hold_every_user_once(results):
    groups = by_history_length(results, np.array([1, 2, 3, 9]), "recall@1")
    assert sum(group["users"] for group in groups) == 4
    assert (groups[0]["from"], groups[-1]["to"]) == (1, 9)
    assert all(first["to"] < second["from"] for first, second in itertools.pairwise(groups))
    mean = sum(group["users"] * group["recall@1"]["two"]["value"] for group in groups) / 4
    assert mean == pytest.approx(results["two"].metrics["recall@1"])


@pytest.mark.parametrize(
    ("lengths", "spans"),
    [
        ([5, 5, 5, 5], [(5, 5)]),
        ([0, 0, 0, 7], [(0, 0), (7, 7)]),
        ([1, 1, 9, 9], [(1, 1), (9, 9)]),
        ([1, 2, 3, 4], [(1, 1), (2, 2), (3, 3), (4, 4)]),
    ],
)
def test_few_different_lengths_are_few_groups(results, lengths, spans):
    groups = by_history_length(results, np.array(lengths), "recall@1")
    assert [(group["from"], group["to"]) for group in groups] == spans
    assert sum(group["users"] for group in groups) == 4


def test_the_table_marks_what_differs_and_whatever_titles_hold(results):
    cost = {"many": {"cpu_ms": 1.5}, "one": {"cpu_ms": 3.0}}
    record = {
        "runs": [
            {"name": name, "method": "M", "num_weights": 1234, "training_cpu_seconds": None, "cost": cost}
            for name in results
        ],
        "differences": differences(results),
        "list_k": 3,
        "overlap": overlap(LISTS, 3),
        "users": [{"user": "a|b", "history": [], "targets": ["x"], "lists": {"one": ["x", "y"], "two": ["y"]}}],
    }
    record["differences"][0]["metrics"]["ndcg@3"] |= {"low": 0.01, "high": 0.02}
    text = render(record, results, {"x": "A | B\n<b>", "y": "Y*"})
    (marked,) = (line for line in text.splitlines() if "**+0.0100 to +0.0200**" in line)
    assert marked.startswith("| two - one ")
    assert "### User a\\|b" in text
    assert "history: 0 items\n" in text
    assert "| **A \\| B\\n&lt;b>** | Y\\* |" in " ".join(text.split()).replace("  ", " ")
    table = text[text.index("wanted:") :].splitlines()[2:]
    assert [line.replace("\\|", "").count("|") for line in table] == [4, 4, 4, 4]


def test_runs_of_other_data_are_refused(tmp_path):
    def prepared(name, sequences, **settings):
        one = np.ones(len(sequences), dtype=np.int64)
        data = PreparedData(
            user_ids=list(sequences),
            item_ids=["x", "y", "z"],
            items=pa.table({"item_id": ["x", "y", "z"], **settings.pop("text", {})}),
            sequences=[np.array(["xyz".index(item) for item in items]) for items in sequences.values()],
            num_validation=one,
            num_test=one,
            report={"settings": {"split": "leave_one_out", "user_core": 0, "item_path": name} | settings},
        )
        data.save(tmp_path / name)
        return tmp_path / name

    same, other = {"u": "xyz", "v": "zyx"}, {"u": "xyz", "v": "zzx"}
    folders = {"a": prepared("a", same), "b": prepared("b", same, user_core=5), "c": prepared("c", other, user_core=5)}
    folders["names"] = prepared("names", same, user_column="member", text={"name": ["X", "Y", "Z"]})
    folders["order"] = prepared("order", {"v": "zyx", "u": "xyz"})
    # the same users and items, however they were found, called and ordered
    require_same_data({name: folders[name] for name in ("a", "b", "names", "order")})
    with pytest.raises(ValueError, match=r"a and c were not trained on the same data \(user_core 0 and 5\)"):
        require_same_data(folders)
    folders["d"] = prepared("d", {"u": "xyz", "w": "zyx"}, item_column="film")
    with pytest.raises(ValueError, match=r"a and d were not trained on the same data \(another log\)"):
        require_same_data({name: folders[name] for name in "ad"})
    with pytest.raises(FileNotFoundError, match="run `hf-genrec prepare` first"):
        require_same_data(folders | {"e": tmp_path / "nothing"})


def test_names_of_runs():
    assert run_names(["runs/a", "runs/b/"]) == {"a": "runs/a", "b": "runs/b/"}
    assert run_names(["x/a", "y/a"]) == {"x/a": "x/a", "y/a": "y/a"}
    with pytest.raises(ValueError, match="name two run folders or more"):
        run_names(["runs/a"])
    with pytest.raises(ValueError, match=r"runs/\./a is named twice|runs/a is named twice"):
        run_names(["runs/a", "runs/./a"])
