"""`hf-genrec compare`, on untrained runs of every method."""

import json

import numpy as np
import pyarrow as pa
import pytest
from conftest import exit_code, make_model, make_processor, run_command
from PIL import Image
from tiny_rearec import tiny_rearec
from tiny_reg4rec import make_reg4rec, make_set_processor

from hf_genrec.catalogue.processing_rows import ItemProcessor
from hf_genrec.data.prepared import PreparedData
from hf_genrec.evaluation.metrics import paired_bootstrap_difference, recall_at_k
from hf_genrec.files import write_json
from hf_genrec.hub import save_model
from hf_genrec.training.lineage import write_lineage

ITEMS, USERS = 30, 60


def make_data(seed=0) -> PreparedData:
    rng = np.random.default_rng(seed)
    ids = [f"item-{row}" for row in range(ITEMS)]
    one = np.ones(USERS, dtype=np.int64)
    titles = pa.array([None if row == 4 else f"Title {row}" for row in range(ITEMS)], pa.string())
    return PreparedData(
        user_ids=[f"u{user}" for user in range(USERS)],
        item_ids=ids,
        items=pa.table({"item_id": ids, "title": titles}),
        sequences=[rng.integers(0, ITEMS, rng.integers(3, 15)) for _ in range(USERS)],
        num_validation=one,
        num_test=one,
        report={"settings": {"source": "tabular", "source_path": "log.csv", "tie_order": "file", "tie_seed": 0}},
    )


def make_run(folder, model, data=None):
    data = make_data() if data is None else data
    data.save(folder / "data")
    save_model(model, folder / "model", None)
    write_json({"seed": 42}, folder / "model/training_args.json")
    write_lineage(folder / "model", {"made_from": {"data": data.fingerprint}, "model": {}, "training": {}})
    return folder


def by_scores(seed=0):
    model = tiny_rearec(seed=seed, num_items=ITEMS)
    model.processor = ItemProcessor(9).set_catalogue([f"item-{row}" for row in range(ITEMS)])
    return model


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    place = tmp_path_factory.mktemp("runs")
    models = {
        "trie": make_model(make_processor(num_items=ITEMS)),
        "sets": make_reg4rec(make_set_processor(num_items=ITEMS)),
        "scores": by_scores(),
        "other": by_scores(1),
    }
    return {name: make_run(place / name, model) for name, model in models.items()}


@pytest.fixture(scope="module")
def compared(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared")
    names = ("trie", "sets", "scores")
    assert exit_code("compare", *(runs[name] for name in names), "--output-dir", folder) == 0
    return folder


def test_the_files(compared):
    assert {path.name for path in compared.iterdir()} == {
        "compare.json", "table.md", "metrics.png", "differences.png", "history_length.png",
    }  # fmt: skip
    for path in compared.glob("*.png"):
        with Image.open(path) as image:
            colors = {tuple(color) for color in np.asarray(image.convert("RGB")).reshape(-1, 3)[::7]}
        assert {(31, 119, 180), (255, 127, 14), (44, 160, 44)} & colors, path


def test_figures_are_those_of_the_models_alone(compared, runs):
    record = json.loads((compared / "compare.json").read_text())
    assert [run["name"] for run in record["runs"]] == ["trie", "sets", "scores"]
    assert [run["method"] for run in record["runs"]] == ["CARE", "REG4Rec", "ReaRec"]
    assert (record["split"], record["num_users"], record["seen_items_removed"]) == ("test", USERS, False)
    split, recalls = make_data().split("test"), {}
    for name, model in {"trie": make_model(make_processor(num_items=ITEMS)), "scores": by_scores()}.items():
        rows, _ = model.recommend_rows(split.histories, 10)
        recalls[name] = recall_at_k(rows, split.targets, 10)
        of_run = next(run for run in record["runs"] if run["name"] == name)
        assert of_run["metrics"]["recall@10"]["value"] == pytest.approx(recalls[name].mean())
    pair = next(pair for pair in record["differences"] if (pair["of"], pair["to"]) == ("scores", "trie"))
    expected = paired_bootstrap_difference(recalls["scores"], recalls["trie"])
    assert tuple(pair["metrics"]["recall@10"][key] for key in ("difference", "low", "high")) == pytest.approx(expected)
    assert all(run["cost"][kind]["cpu_ms"] > 0 for run in record["runs"] for kind in ("many", "one"))


def test_the_same_ten_users_side_by_side(compared):
    record = json.loads((compared / "compare.json").read_text())
    data = make_data()
    assert len(record["users"]) == 10
    model, text = by_scores(), (compared / "table.md").read_text()
    for user in record["users"]:
        sequence = [data.item_ids[row] for row in data.sequences[data.user_ids.index(user["user"])]]
        assert (user["history"], user["targets"]) == (sequence[:-1], sequence[-1:])
        assert user["lists"]["scores"] == model.recommend(sequence[:-1], k=10)[0]
        assert f"### User {user['user']}\n" in text
    user = record["users"][0]
    section = text.split(f"### User {user['user']}\n")[1].split("### User")[0]
    lines = [line.split("|")[2:5] for line in section.splitlines() if line.startswith("| ")]
    assert [cell.strip() for cell in lines[0]] == ["trie", "sets", "scores"]
    for place, cells in enumerate(lines[1:]):
        shown = [f"Title {item.removeprefix('item-')}" for item in (user["lists"][n][place] for n in user["lists"])]
        wanted = [f"**{t}**" if f"item-{t.split()[1]}" in user["targets"] else t for t in shown]
        assert [cell.strip().replace("item-4", "Title 4") for cell in cells] == wanted


def test_options(runs, tmp_path, monkeypatch, capsys, caplog):
    monkeypatch.chdir(runs["scores"].parent)
    with caplog.at_level("INFO"):
        run_command(
            monkeypatch, capsys, "compare", "scores", "other", "--split", "validation", "--exclude-seen", "--users", "0"
        )
    folder = runs["scores"].parent / "compare-scores-other"
    record = json.loads((folder / "compare.json").read_text())
    assert (record["split"], record["seen_items_removed"], record["users"]) == ("validation", True, [])
    assert "other - scores" in caplog.text
    assert "seen items removed" in caplog.text


@pytest.mark.parametrize(
    ("file", "content"),
    [("model/training_args.json", content) for content in ("[]", "{}", '{"seed": "x"}', "[" * 100_000, "\udcff")]
    + [
        ("results/training.json", content) for content in ("[]", "{", "null", '{"cpu_seconds": "x"}', '{"epochs": [1]}')
    ],
)
def test_damaged_records_of_a_training_are_said_before_the_work(runs, tmp_path, capsys, monkeypatch, file, content):
    damaged = make_run(tmp_path / "damaged", by_scores())
    (damaged / "results").mkdir()
    (damaged / file).write_text(content, errors="surrogateescape")
    monkeypatch.setattr("hf_genrec.trainers.compare_runs.load_model", None)
    assert exit_code("compare", runs["scores"], damaged) == 2
    assert f"{damaged / file} is damaged (" in capsys.readouterr().err


def renamed_and_reordered() -> PreparedData:
    """The same log under other names, its users and items in another order."""
    data = make_data()
    users, items = np.arange(USERS)[::-1], np.roll(np.arange(ITEMS), 7)
    return PreparedData(
        user_ids=[data.user_ids[user] for user in users],
        item_ids=[data.item_ids[row] for row in items],
        items=pa.table({"item_id": [data.item_ids[row] for row in items], "name": ["x"] * ITEMS}),
        sequences=[np.argsort(items)[data.sequences[user]] for user in users],
        num_validation=data.num_validation,
        num_test=data.num_test,
        report={"settings": data.report["settings"] | {"source_path": "other.csv", "user_column": "member"}},
    )


def test_the_same_log_under_other_names_and_in_another_order(runs, tmp_path):
    data = renamed_and_reordered()
    model = by_scores()
    order = [int(item_id.removeprefix("item-")) for item_id in data.item_ids]
    table = model.model.items.embeddings.weight.data
    table[:ITEMS] = table[:ITEMS][order]
    model.processor = ItemProcessor(9).set_catalogue(data.item_ids)
    other = make_run(tmp_path / "renamed", model, data)
    assert exit_code("compare", runs["scores"], other, "--output-dir", tmp_path / "compared", "--users", USERS) == 0
    record = json.loads((tmp_path / "compared/compare.json").read_text())
    assert [pair["share"] for pair in record["overlap"]] == [1.0]
    for metric in record["differences"][0]["metrics"].values():
        assert metric["difference"] == 0
    assert all(user["lists"]["scores"] == user["lists"]["renamed"] for user in record["users"])


def test_what_cannot_be_compared(runs, tmp_path, capsys):
    other_data = make_run(tmp_path / "elsewhere", by_scores(), make_data(seed=1))
    changed = make_run(tmp_path / "changed", by_scores())
    make_data(seed=1).save(changed / "data")
    for arguments, line in [
        ([runs["trie"]], "one run alone cannot be compared"),
        ([runs["trie"], runs["trie"]], "is named twice"),
        ([runs["trie"], tmp_path], "holds no trained model"),
        ([runs["trie"], runs["sets"] / "model"], "is a saved model, and a run folder is asked for"),
        ([runs["trie"], other_data], "trie and elsewhere were not trained on the same data (another log)"),
        ([other_data, changed], "was trained on other data"),
        ([runs["trie"], runs["sets"], "--split", "train"], "--split train: use test or validation"),
        ([runs["trie"], runs["sets"], "--output-dir", runs["trie"] / "model/config.json"], "is a file: name a folder"),
    ]:
        assert exit_code("compare", *arguments) == 2
        errors = [text for text in capsys.readouterr().err.splitlines() if text.startswith("error: ")]
        assert len(errors) == 1
        assert line in errors[0]
    assert not list(runs["trie"].parent.glob("compare-trie*"))
