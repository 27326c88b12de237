"""`hf-genrec evaluate MODEL --data DATA`: a model on data that it was not trained with."""

import json

import numpy as np
import pyarrow as pa
import pytest
from conftest import exit_code, make_model, make_processor, run_command

from hf_genrec.data.prepared import PreparedData
from hf_genrec.trainers.evaluate_model import in_rows_of, prepared_folder

SETTINGS = {"tie_seed": 0, "source": "tabular", "source_path": "log.csv", "tie_order": "file", "split": "leave_one_out"}


def prepared(item_ids, sequences) -> PreparedData:
    ones = np.ones(len(sequences), dtype=np.int64)
    users, items = [f"u{place}" for place in range(len(sequences))], pa.table({"item_id": list(item_ids)})
    return PreparedData(users, list(item_ids), items, sequences, ones, ones, {"settings": SETTINGS})


def random_data(item_ids, num_users=60, seed=0) -> PreparedData:
    rng = np.random.default_rng(seed)
    return prepared(item_ids, [rng.integers(0, len(item_ids), rng.integers(3, 12)) for _ in range(num_users)])


@pytest.fixture
def saved(tmp_path):
    model = make_model(make_processor())
    model.save_pretrained(tmp_path / "stranger")
    return model, tmp_path / "stranger"


def recall(model, data, k=10) -> float:
    """By hand, from lists as long as the longest evaluated ones; what the model does not know is never a hit."""
    split, known = data.split("test"), set(model.processor.item_ids)
    hits = []
    for history, target in zip(split.histories, split.targets, strict=True):
        ids = [data.item_ids[row] for row in history if data.item_ids[row] in known]
        hits.append(data.item_ids[target[0]] in model.recommend(ids, k=20)[0][:k])
    return float(np.mean(hits))


def test_the_same_items_in_another_order(saved, tmp_path, monkeypatch, capsys, caplog):
    model, folder = saved
    item_ids = model.processor.item_ids[::-1]
    data = random_data(item_ids)
    data.save(tmp_path / "run/data")
    with caplog.at_level("INFO"):
        run_command(
            monkeypatch, capsys, "evaluate", folder, "--data", tmp_path / "run", "--output", tmp_path / "o.json"
        )
    records = json.loads((tmp_path / "o.json").read_text())
    assert list(records) == ["CARE", "most popular", "item-kNN"]
    record = records["CARE"]
    assert record["metrics"]["recall@10"]["value"] == pytest.approx(recall(model, data))
    assert 0 < record["metrics"]["recall@10"]["value"] < 1
    assert record["token_bias_amplification"] is not None
    assert record["seed"] is None
    assert record["trained_on_these_data"] is None
    assert record["catalogue"]["items_unknown_to_the_model"] == record["catalogue"]["items_not_in_the_data"] == 0
    assert "does not say what it was trained on" in caplog.text
    assert "the catalogues differ" not in caplog.text
    assert {path.name for path in folder.iterdir()} & {"results", "README.md"} == set()  # nothing of it is changed


def test_catalogues_that_differ_are_said_and_counted(saved, tmp_path, monkeypatch, capsys, caplog):
    model, folder = saved
    item_ids = ["new-1", *model.processor.item_ids[5:], "new-2", "new-3"]
    data = random_data(item_ids)
    data.save(tmp_path / "data")
    with caplog.at_level("WARNING"):
        run_command(
            monkeypatch, capsys, "evaluate", folder, "--data", tmp_path / "data", "--output", tmp_path / "o.json"
        )
    record = json.loads((tmp_path / "o.json").read_text())["CARE"]
    assert record["metrics"]["recall@10"]["value"] == pytest.approx(recall(model, data))
    assert record["num_items"] == 43
    split, new = data.split("test"), {0, 36, 37}
    unknown_targets = sum(int(target[0]) in new for target in split.targets)
    shortened = sum(bool(new & set(history.tolist())) for history in split.histories)
    assert record["catalogue"] == {
        "items_of_the_model": 40,
        "items_of_the_data": 38,
        "items_unknown_to_the_model": 3,
        "items_not_in_the_data": 5,
        "histories_shortened": shortened,
        "targets": 60,
        "targets_unknown_to_the_model": unknown_targets,
    }
    assert shortened > 0
    assert unknown_targets > 0
    assert (
        f"does not know 3 of the 38 items of {tmp_path / 'data'} (for instance 'new-1'), which are left out of "
        f"{shortened} histories, and {unknown_targets} of 60 targets are among them and count as missed; 5 of its 40 "
        "items are not in the data" in caplog.text
    )


def test_no_item_in_common(saved, tmp_path, capsys):
    _, folder = saved
    random_data(["x", "y", "z"]).save(tmp_path / "data")
    assert exit_code("evaluate", folder, "--data", tmp_path / "data") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("(items are named 'x' here and 'item-0' there): evaluate it on data with the same ids")


def test_what_is_no_data_and_no_model(saved, tmp_path, capsys):
    _, folder = saved
    (tmp_path / "empty").mkdir()
    for options, message in {
        (folder, "--data", tmp_path / "empty"): "empty holds no prepared data",
        (folder, "--output", "o.json"): "--output needs --data",
        (tmp_path / "empty", "--data", folder): "holds no prepared data",
    }.items():
        assert exit_code("evaluate", *options) == 2
        assert message in capsys.readouterr().err
    random_data(["x"]).save(tmp_path / "run/data")
    assert prepared_folder(str(tmp_path / "run")) == prepared_folder(str(tmp_path / "run/data"))


def test_rows_behind_the_models_own():
    data = prepared(["b", "new", "a"], [np.array([0, 1, 2, 1])])
    aligned, differences = in_rows_of(["a", "b"], data, "test")
    assert aligned.item_ids == ["a", "b", "new"]
    assert aligned.sequences[0].tolist() == [1, 2, 0, 2]
    assert differences["items_unknown_to_the_model"] == 1
