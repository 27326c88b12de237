"""`hf_genrec.fit` on tables in memory, and the run it returns."""

import json
import re
from pathlib import Path

import numpy as np
import pandas
import polars
import pyarrow as pa
import pytest
import yaml
from conftest import ITEMS, USERS, exit_code

import hf_genrec
from hf_genrec import fitting
from hf_genrec.data.prepared import PreparedData

pytestmark = pytest.mark.libraries

SETTINGS = {
    "method": "rearec",
    "max_history": 4,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_train_epochs": 2,
    "per_device_train_batch_size": np.int64(16),
    "learning_rate": 0.003,
    "use_cpu": True,
    "disable_tqdm": True,
    "time_unit": "s",
}


@pytest.fixture(scope="module")
def log(own_data) -> pandas.DataFrame:
    """Users and items are numbers: u07 is 7, f07 is 107."""
    log = pandas.read_csv(own_data / "log.csv").rename(columns={"member": "user", "film": "item", "seen_at": "time"})
    return log.assign(user=log["user"].str[1:].astype(int), item=100 + log["item"].str[1:].astype(int))


@pytest.fixture(scope="module")
def items() -> pandas.DataFrame:
    return pandas.DataFrame({"item": range(100, 100 + ITEMS), "title": [f"Film number {row}" for row in range(ITEMS)]})


@pytest.fixture(scope="module")
def run(log, items, tmp_path_factory) -> hf_genrec.Run:
    return hf_genrec.fit(
        log, items, output_dir=tmp_path_factory.mktemp("fit") / "run", evaluate="validation", **SETTINGS
    )


@pytest.fixture
def prepare_only(monkeypatch):
    """`fit` stops behind `prepare` and returns the prepared data."""
    monkeypatch.setattr("hf_genrec.trainers.train.main", lambda config: None)
    monkeypatch.setattr("hf_genrec.trainers.tokenize_items.main", lambda config: None)
    monkeypatch.setattr(fitting, "Run", lambda folder: PreparedData.load(folder / "data"))


def test_the_run_folder_is_that_of_the_commands(run, log, items, tmp_path):
    """The same files, and the same weights as by `prepare` and `train` on CSV."""
    assert {path.name for path in run.folder.iterdir()} == {
        "source", "config.yaml", "data", "checkpoints", "model", "results",
    }  # fmt: skip
    log.to_csv(tmp_path / "log.csv", index=False)
    items.to_csv(tmp_path / "items.csv", index=False)
    config = yaml.safe_load((run.folder / "config.yaml").read_text())
    config |= {"source_path": str(tmp_path / "log.csv"), "item_path": str(tmp_path / "items.csv")}
    config["output_dir"] = str(tmp_path / "run")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    for command in ("prepare", "train"):
        assert exit_code(command, "--config", tmp_path / "config.yaml") == 0
    weights = "model/model.safetensors"
    assert (run.folder / weights).read_bytes() == (tmp_path / "run" / weights).read_bytes()


def test_the_commands_go_on_with_its_configuration(run, capsys):
    config = run.folder / "config.yaml"
    assert exit_code("train", "--config", config) == 2
    assert "holds checkpoints of an earlier training: go on with" in capsys.readouterr().err
    assert exit_code("recommend", run.folder, "--user", "7") == 0
    assert "Film number" in capsys.readouterr().out


def test_recommend_as_a_frame_has_the_ids_of_the_log(run, log):
    frame = run.recommend([7, 3], k=5, as_frame=True)
    assert list(frame.columns) == ["user", "item", "rank", "score", "title"]
    assert frame["user"].tolist() == [7] * 5 + [3] * 5
    assert frame["item"].dtype == frame["user"].dtype == "int64"
    assert set(frame["item"]) <= set(log["item"])
    assert (frame["title"] == [f"Film number {item - 100}" for item in frame["item"]]).all()
    history = [str(item) for item in log[log["user"] == 3].sort_values("time")["item"]]
    item_ids, scores = run.model.recommend(history, k=5)
    assert frame["item"].tolist()[5:] == list(map(int, item_ids))
    assert frame["score"].tolist()[5:] == pytest.approx(scores, abs=1e-4)


@pytest.mark.parametrize(
    "users", [[7, 3], ["7", "3"], np.array([7, 3]), pandas.Series([7, 3]), polars.Series([7, 3]), [7.0, np.int8(3)]]
)
def test_users_are_numbers_or_text(run, users):
    expected = run.recommend(["7", "3"], k=2)
    assert run.recommend(users, k=2) == expected
    item_ids, scores = run.recommend(users[0], k=2)
    assert item_ids == expected[0][0]
    assert all(isinstance(item, str) for item in item_ids)
    assert scores == pytest.approx(expected[1][0], abs=1e-4)


def test_without_users_it_is_everybody(run):
    frame = run.recommend(k=3, as_frame=True)
    assert len(frame) == 3 * USERS
    assert frame["user"].tolist()[::3] == list(map(int, run.data.user_ids))
    assert run.recommend([], k=3) == ([], [])
    assert run.recommend([], as_frame=True).empty


def test_histories_of_anybody(run):
    expected = run.model.recommend([["102", "104"], ["101"]], k=2)
    assert run.recommend(histories=[[102, 104], [np.int64(101)]], k=2) == expected
    frame = run.recommend(histories={"ann": [102, 104], "bob": ["101"]}, k=2, as_frame=True)
    assert frame["user"].tolist() == ["ann", "ann", "bob", "bob"]
    assert frame["item"].tolist() == [int(item) for line in expected[0] for item in line]
    assert run.recommend(histories=[102, 104], k=2)[0] == expected[0][0]
    assert run.recommend(histories=[102, 104], k=2, as_frame=True)["user"].tolist() == [0, 0]
    assert run.recommend(histories={}) == ([], [])
    allowed = run.recommend(histories=[102], candidates={104, 106}, exclude_seen=True)[0]
    assert sorted(allowed) == ["104", "106"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"users": [7, 99]}, "user '99' is not in .*data, whose users are"),
        ({"users": [7], "histories": [[102]]}, "give either users or histories"),
        ({"users": [True]}, r"users: True \(position 1, from 1\) is no id"),
        ({"users": [pandas.NA]}, r"users: a NAType \(position 1, from 1\) is no id"),
        ({"users": ["7" * 500]}, r"user '7{56}\.\.\. is not in"),
        ({"users": [7.5]}, r"users: 7.5 \(position 1, from 1\) is no id"),
        ({"histories": [[102], [102, None]]}, r"history 2: None \(position 2, from 1\) is no id"),
        ({"histories": {"ann": "102"}}, "history of 'ann': '102' is no list of item ids"),
        ({"histories": [[999]]}, "Item '999' in history 1 is not in the catalogue"),
        ({"users": [7], "candidates": [999]}, "Item '999' in candidates"),
        ({"users": [7], "as_frame": 1}, "as_frame=1: use True or False"),
    ],
)
def test_wrong_requests(run, arguments, line):
    with pytest.raises(ValueError, match=line):
        run.recommend(**arguments)


def test_similar_items_with_the_ids_of_the_log(run):
    item_ids, scores = run.similar_items(103, k=2)
    assert (item_ids, scores) == run.model.similar_items("103", k=2)
    assert run.similar_items(["103", 104], k=2)[0] == run.model.similar_items(["103", "104"], k=2)[0]
    frame = run.similar_items([103, 104], k=2, as_frame=True)
    assert list(frame.columns) == ["of", "item", "rank", "score", "title"]
    assert frame["of"].tolist() == [103, 103, 104, 104]
    assert frame["item"].tolist()[:2] == list(map(int, item_ids))
    assert run.similar_items(103, k=2, as_frame=True)["of"].tolist() == [103, 103]


def test_new_items_keep_their_own_names(run):
    assert run._item("103") == 103
    assert run._item("new") == "new"
    assert run._item("0103") == "0103"


def test_figures_and_evaluate(run):
    assert set(run.figures) == {"training", "validation"}
    frame = run.evaluate("validation")
    assert frame.index.tolist() == ["ReaRec", "most popular", "item-kNN"]
    of_model = run.figures["validation"]["ReaRec"]["metrics"]
    assert frame.loc["ReaRec", "ndcg@10"] == of_model["ndcg@10"]["value"]


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "{"])
def test_a_damaged_file_of_figures_is_named(run, text):
    path = run.folder / "results/damaged.json"
    path.write_text(text)
    try:
        with pytest.raises(ValueError, match=f"{path} is damaged .*delete it") as error:
            _ = run.figures
        assert "\n" not in str(error.value)
    finally:
        path.unlink()


def test_a_finished_run_is_opened_by_its_folder(run):
    opened = hf_genrec.Run(str(run.folder))
    assert opened.recommend([7], k=3) == run.recommend([7], k=3)
    assert repr(opened) == f"Run('{run.folder}')"
    with pytest.raises(FileNotFoundError, match="is a saved model, and a run folder is asked for"):
        hf_genrec.Run(run.folder / "model")
    with pytest.raises(FileNotFoundError, match="holds no trained model"):
        hf_genrec.Run(run.folder / "data")


def test_a_run_that_was_moved_still_knows_its_ids(run, tmp_path):
    moved = tmp_path / "moved"
    moved.mkdir()
    for part in ("source", "data", "model"):
        (moved / part).symlink_to(run.folder / part)
    assert hf_genrec.Run(moved).recommend([7], k=1, as_frame=True)["item"].dtype == "int64"
    (moved / "source").unlink()
    path = run.folder / "source/interactions.parquet"
    path.rename(path.with_suffix(".away"))
    try:  # nothing tells any more: text
        assert hf_genrec.Run(moved).recommend([7], k=1, as_frame=True)["user"].tolist() == ["7"]
    finally:
        path.with_suffix(".away").rename(path)


def test_a_run_that_is_there_is_not_overwritten_unasked(run, log, items):
    before = (run.folder / "data/prepare.json").read_bytes()
    with pytest.raises(ValueError, match=r"holds a run already: hf_genrec.Run\(.*overwrite=True trains anew"):
        hf_genrec.fit(log.iloc[:-1], items, output_dir=run.folder, **SETTINGS)
    assert (run.folder / "data/prepare.json").read_bytes() == before


@pytest.mark.slow
def test_overwrite_and_resume(run, log, items, tmp_path):
    settings = SETTINGS | {"output_dir": tmp_path / "run", "verbose": False}
    first = hf_genrec.fit(log, items, **settings | {"num_train_epochs": 1})
    (first.folder / "notes.txt").write_text("mine")
    weights = (first.folder / "model/model.safetensors").read_bytes()
    resumed = hf_genrec.fit(log, items, **settings, resume_from_checkpoint="last")
    assert resumed.figures["training"]["resumed_from"] is not None
    anew = hf_genrec.fit(log, items, overwrite=True, **settings | {"num_train_epochs": 1})
    assert anew.figures["training"]["resumed_from"] is None
    assert (anew.folder / "model/model.safetensors").read_bytes() == weights
    assert (anew.folder / "notes.txt").read_text() == "mine"


def test_overwrite_leaves_a_folder_that_is_no_run_alone(log, items, tmp_path, prepare_only):
    (tmp_path / "results").mkdir()
    (tmp_path / "results/mine.txt").write_text("mine")
    hf_genrec.fit(log, items, output_dir=tmp_path, overwrite=True, **SETTINGS)
    assert (tmp_path / "results/mine.txt").read_text() == "mine"


def test_every_kind_of_table_is_the_same_data(log, items, tmp_path, prepare_only, run):
    log.to_csv(tmp_path / "log.csv", index=False)
    items.to_parquet(tmp_path / "items.parquet")
    numbers = {"user": float, "item": "category"}
    times = log.assign(time=pandas.to_datetime(log["time"], unit="s"))
    for number, tables in enumerate(
        [
            (polars.from_pandas(log), polars.from_pandas(items).lazy()),
            (pa.Table.from_pandas(log), items),
            (tmp_path / "log.csv", str(tmp_path / "items.parquet")),
            (log.astype(str).astype({"time": int}), items.astype(str)),
            (log.astype(numbers), items.astype({"item": float})),
            (times, items),
            (log.rename(columns={"user": "user_id", "item": "item_id", "time": "timestamp"}),
             items.rename(columns={"item": "item_id"})),
        ]
    ):  # fmt: skip
        data = hf_genrec.fit(*tables, output_dir=tmp_path / str(number), **SETTINGS)
        assert data.fingerprint == run.data.fingerprint, number
        assert (tmp_path / str(number) / "source").exists() == (number != 2)


def test_what_numbers_become_is_said(log, items, tmp_path, prepare_only, caplog):
    with caplog.at_level("INFO"):
        hf_genrec.fit(log.astype({"user": str}), items, output_dir=tmp_path / "run", **SETTINGS)
    assert "ids in 'item' are numbers: text in the library, numbers again in DataFrames" in caplog.text
    assert "ids in 'user'" not in caplog.text


@pytest.mark.parametrize(
    ("change", "arguments", "line"),
    [
        ({"user": "who"}, {}, r"interactions: no column 'user_id' \(user_column\); columns found: who, item, time"),
        ({"time": "when"}, {}, "interactions: no column 'timestamp' .* time_column=, None if the rows are in order"),
        ({}, {"user_column": "who"}, r"interactions: no column 'who' \(user_column\)"),
        ({"item": "item_id"}, {}, r"items: no column 'item_id' \(item_column\)"),
        ({}, {"hiden_size": 3}, "fit: unknown setting 'hiden_size', did you mean 'hidden_size'"),
        ({}, {"hidden_size": "big"}, "fit: hidden_size: 'big' is not a whole number"),
        ({}, {"codebook_sizes": [4]}, "fit: setting 'codebook_sizes' belongs to method"),
        ({}, {"hidden_size": {16}}, "setting 'hidden_size' is a set"),
        ({}, {"source": "movielens"}, "source follows from the other arguments"),
        ({}, {"method": "nothing"}, "method: 'nothing' is not one of"),
        ({}, {"evaluate": "train"}, "evaluate='train': use 'test' or 'validation'"),
    ],
)
def test_mistakes_are_said_before_anything_is_written(log, items, tmp_path, change, arguments, line):
    with pytest.raises(ValueError, match=line):
        hf_genrec.fit(log.rename(columns=change), items, output_dir=tmp_path / "run", **SETTINGS | arguments)
    assert not (tmp_path / "run").exists()


def test_paths_that_are_none(log, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing.csv is not a file: correct interactions"):
        hf_genrec.fit(tmp_path / "nothing.csv", output_dir=tmp_path / "run")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="is a file: name a folder as output_dir"):
        hf_genrec.fit(log, output_dir=tmp_path / "file", **SETTINGS)


def test_bad_rows_are_named(log, tmp_path):
    users = log["user"].astype("Int64").mask(log.index == 5)
    with pytest.raises(ValueError, match=r"^interactions, row 6: no id in column 'user' \(1 bad row"):
        hf_genrec.fit(log.assign(user=users), output_dir=tmp_path / "run", **SETTINGS)
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"interactions.parquet", "config.yaml"}


def test_the_order_of_the_rows_takes_the_place_of_times(log, items, tmp_path, prepare_only):
    shuffled = log.sample(frac=1, random_state=0).sort_values("time", kind="stable").drop(columns="time")
    data = hf_genrec.fit(shuffled, items, output_dir=tmp_path / "run", time_column=None, **SETTINGS)
    assert data.report["order"]["by"] == "row"
    first = data.user_ids.index("7")
    found = [int(data.item_ids[row]) for row in data.sequences[first]]
    assert found == log[log["user"] == 7].sort_values("time")["item"].tolist()


def test_the_folder_of_the_method_by_default(log, items, tmp_path, prepare_only, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hf_genrec.fit(log, items, **SETTINGS)
    assert Path("runs/rearec/data").is_dir()
    record = json.loads(Path("runs/rearec/data/prepare.json").read_text())
    assert record["settings"]["source_path"] == "runs/rearec/source/interactions.parquet"


@pytest.mark.slow
def test_the_page(own_data, tmp_path, monkeypatch):
    """The code of docs/frames.md, as it stands there, with a small model."""
    page = (Path(__file__).parents[1] / "docs/frames.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    small = {"vectors": "collaborative", "collaborative_dim": 8, "codebook_sizes": [4, 4, 4], "max_history": 8}
    small |= {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "use_cpu": True, "max_steps": 2}
    assert "num_train_epochs=20)" in code
    code = code.replace("num_train_epochs=20)", f"num_train_epochs=1, disable_tqdm=True, **{small})")
    columns = {"member": "user", "film": "item", "seen_at": "time", "name": "title"}
    for name in ("log.csv", "films.csv"):
        pandas.read_csv(own_data / name).rename(columns=columns).to_csv(tmp_path / name, index=False)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    *lines, last = code.strip().splitlines()
    exec("\n".join(lines), names)
    assert eval(last, names).index[0] == "CARE"
    frame = names["run"].recommend(histories={"new user": ["f01", "f03"]}, k=10, as_frame=True)
    assert frame["user"].unique().tolist() == ["new user"]
    assert all(isinstance(item, str) for item in frame["item"])


def test_a_configuration_with_teachers(log, items, tmp_path):
    """The shipped recipe, at a toy's size: what is given here stands above it."""
    small = {"codebook_sizes": [4] * 3, "hidden_size": 16, "intermediate_size": 16, "num_train_epochs": 1}
    teacher = "rearec/tabular --num_train_epochs 1 --hidden_size 16 --intermediate_size 16"
    small["teachers"] = {
        "sasrec-1": teacher,
        "sasrec-2": f"{teacher} --seed 2",
        "together": "ensemble --members_runs sasrec-1 sasrec-2",
    }
    run = hf_genrec.fit(log, items, config="codetree/tabular", output_dir=tmp_path / "run", use_cpu=True, **small)
    found = yaml.safe_load((run.folder / "config.yaml").read_text())
    assert found["method"] == "codetree"
    assert (found["soft_targets_run"], found["soft_targets_weight"]) == ("together", 0.5)
    assert (found["hidden_size"], found["user_column"]) == (16, "user")
    assert sorted(path.name for path in (run.folder / "teachers").iterdir()) == ["sasrec-1", "sasrec-2", "together"]
    assert len(run.recommend([0], k=3)[0][0]) == 3


def test_a_configuration_of_another_method(log):
    with pytest.raises(ValueError, match="method='care', and codetree/tabular is of method codetree"):
        hf_genrec.fit(log, method="care", config="codetree/tabular")
