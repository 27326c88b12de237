"""From somebody's own CSV to a recommendation, by the commands; and a training that is killed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import USERS, exit_code, run_command, run_pipeline
from killed_trainings import check_a_killed_training
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from hf_genrec import cli

pytestmark = pytest.mark.libraries


@pytest.fixture(scope="module")
def folder(own_data):
    return own_data


@pytest.fixture(scope="module")
def trained(folder):
    run_pipeline(folder / "mine.yaml")
    return folder / "run"


def test_the_run_folder(trained):
    assert {path.name for path in trained.iterdir()} == {"data", "semantic_ids", "checkpoints", "model", "results"}
    assert {path.suffix for path in (trained / "model").rglob("*") if path.is_file()} == {
        ".json", ".py", ".safetensors", ".md"
    }  # fmt: skip
    health = json.loads((trained / "semantic_ids/health.json").read_text())
    assert health["collisions"]["after"]["items"] == 0
    assert (trained / "semantic_ids/health.png").stat().st_size > 1000
    assert json.loads((trained / "model/training_args.json").read_text())["learning_rate"] == 0.003


def test_the_best_checkpoint_is_the_model(trained):
    record = json.loads((trained / "results/training.json").read_text())
    by_step = {entry["step"]: entry["eval_ndcg@10"] for entry in record["log"] if "eval_ndcg@10" in entry}
    assert record["best_validation_ndcg@10"] == max(by_step.values()) == by_step[record["best_step"]]
    best = load_file(trained / f"checkpoints/checkpoint-{record['best_step']}/model.safetensors")
    saved = load_file(trained / "model/model.safetensors")
    assert best.keys() == saved.keys()
    assert all(torch.equal(best[name], saved[name]) for name in best)


def test_evaluate_writes_figures_and_a_card(trained, monkeypatch, capsys, caplog):
    with caplog.at_level("INFO"):
        run_command(monkeypatch, capsys, "evaluate", trained, "--split", "validation")
    records = json.loads((trained / "results/validation.json").read_text())
    assert list(records) == ["CARE", "most popular", "item-kNN"]
    for record in records.values():
        assert record["num_users"] == USERS
        assert record["tie_order"] == "file"
        assert record["metrics"]["invalid_share"]["value"] == 0
        assert 0 <= record["metrics"]["recall@5"]["low"] <= record["metrics"]["recall@5"]["value"] <= 1
    # by the trainer's own evaluations of the best checkpoint: nobody here has a film twice
    training = json.loads((trained / "results/training.json").read_text())
    figures = training["seen_items"]["ndcg@10"]
    assert records["CARE"]["seen_items_removed"]
    assert records["CARE"]["metrics"]["ndcg@10"]["value"] == pytest.approx(figures["history_left_out"])
    run_command(monkeypatch, capsys, "evaluate", trained, "--split", "validation", "--no-exclude-seen")
    seen = json.loads((trained / "results/validation-seen.json").read_text())["CARE"]
    assert seen["metrics"]["ndcg@10"]["value"] == pytest.approx(training["best_validation_ndcg@10"])
    assert figures["history_in_lists"] == training["best_validation_ndcg@10"]
    assert "item-kNN" in caplog.text
    card = (trained / "model/README.md").read_text()
    assert f"{records['CARE']['metrics']['ndcg@10']['value']:.4f}" in card
    assert "library_name: transformers" in card


def test_recommend_prints_titles(trained, monkeypatch, capsys):
    out = run_command(monkeypatch, capsys, "recommend", trained, "--user", "u00", "-k", "5", "--stranger")
    assert "history: 8 items" in out
    assert "cannot import hf_genrec: the same items and scores" in out
    assert out.count("Film number") == 3 + 5
    model = AutoModelForCausalLM.from_pretrained(trained / "model")
    best = model.recommend(["f01", "f03"], k=1)[0][0]
    command = [sys.executable, "-m", "hf_genrec.cli", "recommend", trained, "--history", "f01, f03", "-k", "1"]
    out = subprocess.run(command, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout
    assert f"  1. Film number {int(best[1:])}  (item {best}, log-probability" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["recommend", "{run}", "--user", "nobody"], "user 'nobody' is not in"),
        (["recommend", "{run}", "--history", "f99"], "Item 'f99' in the history is not in the catalogue"),
        (["recommend", "{run}"], "either --user or --history"),
        (["recommend", "{folder}", "--user", "u00"], "holds no trained model: run `hf-genrec train` first"),
        (["train", "--config", "{folder}/mine.yaml"], "holds checkpoints of an earlier training"),
        (["train", "--config", "{folder}/mine.yaml", "--output_dir", "{folder}/new"], "run `hf-genrec prepare` first"),
        (["prepare", "--config", "{folder}/mine.yaml", "--item_column", "movie"], "movie"),
        (["prepare", "--config", "{folder}/mine.yaml", "--hiden_size", "3"], "did you mean 'hidden_size'"),
        (["prepare", "--config", "nothing.yaml"], "no file and no shipped configuration 'nothing.yaml'"),
    ],
)
def test_mistakes_are_one_line(trained, folder, monkeypatch, capsys, arguments, message):
    arguments = [argument.format(run=trained, folder=folder) for argument in arguments]
    monkeypatch.setattr(sys, "argv", ["hf-genrec", *arguments])
    with pytest.raises(SystemExit) as finished:
        cli.main()
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert finished.value.code == 2
    assert len(lines) == 1
    assert message in lines[0]


def test_shipped_configurations_are_listed_and_copied(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert "care/ml-100k" in run_command(monkeypatch, capsys, "configs")
    run_command(monkeypatch, capsys, "configs", "care/ml-100k")
    assert (tmp_path / "ml-100k.yaml").read_text().startswith("# hf-genrec prepare --config care/ml-100k")


def test_a_killed_training_ends_with_the_same_weights(trained, folder):
    check_a_killed_training(folder / "mine.yaml", trained, folder / "killed")


def test_every_run_writes_whole_files(trained):
    assert not [
        path for path in Path(trained).rglob("*") if path.name.endswith(".tmp") or path.name.startswith(".model")
    ]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "no item has a title, and its id stands for it: name the column by title_column (columns: name, kind)"),
        (["--title_column", "name"], "the items' columns kind are kept, and not part of their text"),
        (["--title_column", "name", "--text_columns", "title", "kind"], None),
    ],
)
def test_prepare_says_which_columns_of_the_items_are_no_text(tmp_path, caplog, options, said):
    log = [f"u{user},f{item},{1_600_000_000 + 100 * item}" for user in range(4) for item in range(5)]
    (tmp_path / "log.csv").write_text("\n".join(["user_id,item_id,timestamp", *log]) + "\n")
    (tmp_path / "items.csv").write_text("item_id,name,kind\n" + "".join(f"f{item},Film,red\n" for item in range(5)))
    paths = [
        "--source_path",
        tmp_path / "log.csv",
        "--item_path",
        tmp_path / "items.csv",
        "--output_dir",
        tmp_path / "run",
    ]
    with caplog.at_level("INFO", "hf_genrec"):
        assert exit_code("prepare", "--source", "tabular", *paths, *options) == 0
    lines = [line for line in caplog.messages if "title_column" in line or "part of their text" in line]
    assert len(lines) == (said is not None)
    assert said is None or lines[0].startswith(said)
