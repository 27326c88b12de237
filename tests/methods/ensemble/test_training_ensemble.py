"""Runs of an ensemble: from finished runs to a stranger's process."""

import json

import numpy as np
import pytest
import torch
from conftest import exit_code, run_command, run_pipeline

import hf_genrec
from hf_genrec.data.prepared import PreparedData
from hf_genrec.evaluation.metrics import ndcg_at_k
from hf_genrec.hub import code_files, model_fingerprint, require_pushable
from hf_genrec.methods.ensemble.choose_weights import GRID
from hf_genrec.refresh import refresh

HISTORIES = [["f00", "f02", "f04"], [], ["f07"]]


def text_of(config, **changes) -> str:
    lines = [line for line in config.read_text().splitlines() if line.split(":")[0] not in changes]
    return "\n".join([*lines, *(f"{key}: {value}" for key, value in changes.items())]) + "\n"


@pytest.fixture(scope="module")
def runs(own_data, rearec_config, tmp_path_factory):
    """A recommender that scores all items, a model of codes that becomes one with it, and the two added up by hand."""
    folder = tmp_path_factory.mktemp("ensemble")
    configs = {
        "scores": text_of(rearec_config, output_dir=folder / "scores", num_train_epochs=2),
        "codes": text_of(own_data / "mine.yaml", output_dir=folder / "codes", num_train_epochs=2),
        "both": text_of(own_data / "mine.yaml", output_dir=folder / "both", num_train_epochs=2)
        + f"dense_run: {folder}/scores\n",
        "sum": text_of(own_data / "mine.yaml", output_dir=folder / "sum", method="ensemble").split("vectors:")[0]
        + f"output_dir: {folder}/sum\nmethod: ensemble\nuse_cpu: true\n"
        + f"members_runs: [{folder}/codes, {folder}/scores]\n",
    }
    for name, text in configs.items():
        (folder / f"{name}.yaml").write_text(text)
        if name in ("scores", "sum"):
            for command in ("prepare", "train"):
                assert exit_code(command, "--config", folder / f"{name}.yaml") == 0
        else:
            run_pipeline(folder / f"{name}.yaml")
    return folder


def training(folder) -> dict:
    return json.loads((folder / "results/training.json").read_text())


def test_the_weight_is_the_best_of_the_grid(runs):
    model = hf_genrec.load(runs / "both")
    chosen, split = model.config.weights, PreparedData.load(runs / "both/data").split("validation")
    figures = {}
    for leave_out in (False, True):
        for weight in GRID:
            model.set_weights([1.0, weight])
            rows, _ = model.recommend_rows(split.histories, 10, exclude_seen=leave_out)
            figures[leave_out, weight] = float(ndcg_at_k(rows, split.targets, 10).mean())
    leave_out, best = max(figures, key=figures.get)
    assert chosen == [1.0, best]
    assert model.processor.exclude_seen is leave_out
    record = training(runs / "both")
    tried = {(line["exclude_seen"], line["weights"][1]): line["ndcg@10"] for line in record["dense"]["tried"]}
    assert tried == pytest.approx(figures, abs=1e-12)
    assert record["best_validation_ndcg@10"] == pytest.approx(figures[False, best])
    both = {"history_in_lists": figures[False, best], "history_left_out": figures[True, best]}
    assert record["seen_items"]["ndcg@10"] == pytest.approx(both)
    # The codes did not change the model that they are of: same seed, same training.
    codes = hf_genrec.load(runs / "codes")
    assert all(map(torch.equal, codes.parameters(), model.members[0].parameters()))


def test_both_ways_to_an_ensemble_give_the_same_one(runs):
    one, other = (hf_genrec.load(runs / name) for name in ("both", "sum"))
    assert one.config.weights == other.config.weights
    assert one.recommend(HISTORIES, k=5) == other.recommend(HISTORIES, k=5)


def test_all_parts_are_counted(runs):
    parts = [training(runs / name)["cpu_seconds"] for name in ("codes", "scores")]
    assert training(runs / "sum")["cpu_seconds"] > sum(parts)
    record = training(runs / "both")
    choosing = record["cpu_seconds"] - sum(record["dense"]["cpu_seconds"].values())
    assert 0 <= choosing < 1  # whether lists leave the history out
    assert record["dense"]["cpu_seconds"]["dense"] == parts[1]
    lineage = json.loads((runs / "both/model/lineage.json").read_text())
    assert lineage["made_from"]["dense_run"] == model_fingerprint(runs / "scores/model")


def test_the_code_of_both_members_is_there(runs):
    folder = runs / "both/model"
    assert {"modeling_ensemble.py", "modeling_care.py", "modeling_rearec.py"} <= code_files(folder)
    require_pushable(folder, "me/both")


def test_evaluate_recommend_refresh_and_card(runs, monkeypatch, capsys):
    run_command(monkeypatch, capsys, "evaluate", runs / "both")
    record = json.loads((runs / "both/results/test.json").read_text())
    assert next(iter(record)) == "Ensemble"
    card = (runs / "both/model/README.md").read_text()
    weight = hf_genrec.load(runs / "both").config.weights[1]
    assert f"| members | 1 x CARE + {weight:g} x ReaRec |" in card
    assert "| Ensemble |" in card
    printed = run_command(monkeypatch, capsys, "recommend", runs / "both", "--user", "u01", "-k", "3")
    assert printed.splitlines()[-1].startswith("  3. Film number")
    before = hf_genrec.load(runs / "both").recommend(HISTORIES, k=3)
    fingerprint = model_fingerprint(runs / "both/model")
    refresh(runs / "both/model")
    assert hf_genrec.load(runs / "both").recommend(HISTORIES, k=3) == before
    assert model_fingerprint(runs / "both/model") == fingerprint


def test_the_fingerprint_is_of_the_members_too(runs, tmp_path):
    import shutil

    shutil.copytree(runs / "both/model", tmp_path / "model")
    path = tmp_path / "model/member_2/model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert model_fingerprint(tmp_path / "model") != model_fingerprint(runs / "both/model")


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        ("codes", ["--dense_run", "nowhere"], "nowhere holds no trained model"),
        ("codes", ["--dense_run", "codes"], "writes codes: name one that scores every item"),
        ("codes", ["--dense_run_weight", "2"], "dense_run_weight 2.0: give a number from 0, and dense_run"),
        ("scores", ["--dense_run", "scores"], "belongs to method: care"),
        ("sum", ["--members_runs", "scores"], "name two runs or more"),
        ("sum", ["--member_weights", "1"], "member_weights are 1 numbers for 2 members_runs"),
        ("sum", ["--member_weights", "0", "0"], "one above 0 among them"),
    ],
)
def test_what_does_not_fit_is_said(runs, config, options, message, monkeypatch, capsys):
    monkeypatch.chdir(runs)
    assert exit_code("train", "--config", f"{config}.yaml", *options) == 2
    assert message in capsys.readouterr().err


def test_given_weights_are_taken(runs):
    for name, options in {"sum": ["--member_weights", "0.5", "1.5"]}.items():
        folder = runs / f"{name}-given"
        options = ["--config", runs / f"{name}.yaml", "--output_dir", folder, *options]
        assert exit_code("prepare", *options) == 0
        assert exit_code("train", *options) == 0
        assert hf_genrec.load(folder).config.weights == [0.5, 1.5]
    rows, _ = hf_genrec.load(folder).recommend_rows([np.array([0, 2])], 3)
    assert (rows >= 0).all()


def test_a_finished_training_that_is_started_again_changes_nothing(runs):
    before, model = training(runs / "both"), model_fingerprint(runs / "both/model")
    assert exit_code("train", "--config", runs / "both.yaml", "--resume_from_checkpoint", "last") == 0
    after = training(runs / "both")
    assert model_fingerprint(runs / "both/model") == model
    for name in ("cpu_seconds", "dense", "seen_items", "num_weights", "best_validation_ndcg@10"):
        assert after[name] == before[name]
