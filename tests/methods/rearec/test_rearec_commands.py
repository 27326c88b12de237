"""`analyze`, `calibrate-depth` and `sweep` on a run of somebody's own data, and what a stranger makes of its model."""

import json
import re
import shutil
import sys

import numpy as np
import pytest
import torch
from conftest import ITEMS, USERS, exit_code, run_command
from safetensors.torch import load_file
from tiny_rearec import tiny_rearec

from hf_genrec import cli
from hf_genrec.data.prepared import PreparedData
from hf_genrec.hub import recommend_as_stranger
from hf_genrec.method import load_model
from hf_genrec.methods.rearec import calibrate_depth_run
from hf_genrec.methods.rearec.calibrate_depth_run import save_in_place
from hf_genrec.methods.rearec.configuration_rearec import DEPTH_RULES
from hf_genrec.methods.rearec.reasoning_analysis import chosen_depths
from hf_genrec.methods.rearec.reasoning_report import TABLE_METRICS
from hf_genrec.trainers import train
from hf_genrec.training.lineage import read_lineage, write_lineage


def fails(monkeypatch, capsys, *arguments) -> str:
    monkeypatch.setattr(sys, "argv", ["hf-genrec", *map(str, arguments)])
    with pytest.raises(SystemExit) as finished:
        cli.main()
    assert finished.value.code == 2
    return capsys.readouterr().err


@pytest.fixture(scope="module")
def run(rearec_config, own_data):
    folder = own_data / "analysed-run"
    with pytest.MonkeyPatch.context() as patch:
        # Few rounds of timing.
        patch.setattr(calibrate_depth_run, "ROUNDS", 1)
        for command in (["prepare"], ["train", "--num_reasoning_steps", "3", "--num_train_epochs", "2"]):
            assert exit_code(*command, "--config", rearec_config, "--output_dir", folder) == 0
        yield folder


def test_analyze(run, monkeypatch, capsys, caplog):
    with caplog.at_level("INFO"):
        run_command(monkeypatch, capsys, "analyze", run, "--split", "validation")
    record = json.loads((run / "results/reasoning-validation.json").read_text())
    training = json.loads((run / "results/training.json").read_text())
    assert record["depths"][3]["metrics"]["ndcg@10"] == pytest.approx(training["best_validation_ndcg@10"])
    assert (record["num_users"], record["num_items"], record["num_reasoning_steps"]) == (USERS, ITEMS, 3)
    assert record["command"] == f"hf-genrec analyze {run} --split validation"
    assert record["seed"] == 42
    assert len(list((run / "results").glob("reasoning-validation-*.png"))) == 6
    line = next(line for line in caplog.text.splitlines() if line.startswith("| depth 3 "))
    assert [float(cell) for cell in line.split("|")[2:-1]] == [
        pytest.approx(record["depths"][3]["metrics"][name], abs=5e-5) for name in TABLE_METRICS
    ]


def test_why_the_first_item_is_recommended(run, monkeypatch, capsys):
    """The list of every step; the last one's first item is what is recommended."""
    user = PreparedData.load(run / "data").user_ids[3]
    plain = run_command(monkeypatch, capsys, "recommend", run, "--user", user, "-k", "3")
    explained = run_command(monkeypatch, capsys, "recommend", run, "--user", user, "-k", "3", "--explain")
    assert explained.startswith(plain)
    why = explained[len(plain) :].strip().splitlines()
    assert why[0] == "The ranking after each thinking step"
    assert [line.split(":")[0] for line in why[2:]] == ["  step 0", "  step 1", "  step 2", "  step 3, recommended"]
    listed = [line.split(". ", 1)[1].split("  (item")[0] for line in plain.splitlines() if re.match(r" +\d+\. ", line)]
    assert (
        why[-1]
        == "  step 3, recommended: "
        + "; ".join(f"{rank}. {title}" for rank, title in enumerate(listed, 1))
        + " (this item is no. 1)"
    )
    assert "--stranger or --explain" in fails(monkeypatch, capsys, "recommend", run, "--all-users", "--explain")


def test_a_split_without_targets_is_one_line(run, tmp_path, monkeypatch, capsys):
    shutil.copytree(run, tmp_path / "run")
    prepared = PreparedData.load(run / "data")
    prepared.num_test = np.zeros_like(prepared.num_test)
    prepared.save(tmp_path / "run/data")
    lineage = read_lineage(run / "model")
    write_lineage(tmp_path / "run/model", lineage | {"made_from": {"data": prepared.fingerprint}})
    for command in ("evaluate", "analyze", "calibrate-depth"):
        error = fails(monkeypatch, capsys, command, tmp_path / "run")
        assert error.startswith("error: the test split has no targets, so nothing can be evaluated: only users with 3")
        assert len(error.splitlines()) == 1


def test_calibrate_all_changes_nothing_but_the_results(run, monkeypatch, capsys, caplog):
    before = {path.name: path.read_bytes() for path in (run / "model").iterdir() if path.is_file()}
    with caplog.at_level("INFO"):
        run_command(monkeypatch, capsys, "calibrate-depth", run)
    assert {path.name: path.read_bytes() for path in (run / "model").iterdir() if path.is_file()} == before
    record = json.loads((run / "results/adaptive-depth.json").read_text())
    systems = [*(f"depth {depth}" for depth in range(4)), *DEPTH_RULES, "oracle"]
    for split in ("validation", "test"):
        figures = record["splits"][split]
        assert list(figures) == systems
        best = figures[f"depth {record['best_fixed_depth']}"]
        headroom = figures["oracle"]["ndcg@10"] - best["ndcg@10"]
        for name, line in figures.items():
            assert figures["oracle"]["ndcg@10"] >= line["ndcg@10"]
            assert sum(line["share_of_depths"]) == pytest.approx(1)
            assert line["mean_steps"] == pytest.approx(np.arange(4) @ line["share_of_depths"])
            assert line["steps_saved"] == pytest.approx(1 - line["mean_steps"] / 3)
            assert line["less_best_fixed"]["value"] == pytest.approx(line["ndcg@10"] - best["ndcg@10"])
            assert line["headroom_kept"] == pytest.approx((line["ndcg@10"] - best["ndcg@10"]) / headroom)
            assert name == "oracle" or line["cpu_seconds_per_user"] > 0
    validation = [record["splits"]["validation"][f"depth {depth}"]["ndcg@10"] for depth in range(4)]
    assert record["best_fixed_depth"] == int(np.argmax(validation))
    assert "best fixed" in caplog.text


@pytest.mark.parametrize("rule", DEPTH_RULES)
def test_a_calibrated_rule_is_in_the_model(run, rule, monkeypatch, capsys):
    weights = load_file(run / "model/model.safetensors")
    run_command(monkeypatch, capsys, "calibrate-depth", run, "--rule", rule)
    assert sorted(path.name for path in run.iterdir()) == ["checkpoints", "data", "model", "results"]
    assert not list((run / "model").glob(".*"))
    model, prepared = load_model(run / "model"), PreparedData.load(run / "data")
    assert model.config.depth_rule == rule
    assert (run / "model/training_args.json").is_file()
    for name, tensor in weights.items():
        if not name.startswith("depth."):
            assert torch.equal(dict(model.state_dict())[name], tensor)
    figures = json.loads((run / "results/adaptive-depth.json").read_text())["splits"]["test"][rule]
    split = prepared.split("test")
    assert chosen_depths(model, split.histories).mean() == pytest.approx(figures["mean_steps"])
    run_command(monkeypatch, capsys, "evaluate", run, "--no-exclude-seen")
    evaluated = json.loads((run / "results/test-seen.json").read_text())["ReaRec"]["metrics"]
    for name in ("ndcg@10", "recall@10"):
        assert evaluated[name]["value"] == pytest.approx(figures[name])

    if rule == "halting":
        _check_stranger(run, model, [prepared.item_ids[row] for row in split.histories[0]])


def _check_stranger(run, model, history):
    other_ids, other_scores = recommend_as_stranger(run / "model", history, k=ITEMS)
    item_ids, scores = model.recommend(history, k=ITEMS)
    assert other_ids == item_ids
    assert other_scores == pytest.approx(scores, abs=1e-4)


def test_back_to_a_fixed_depth(run, monkeypatch, capsys):
    split = PreparedData.load(run / "data").split("test")
    model = load_model(run / "model")
    if model.config.depth_rule is None:
        model.set_depth_rule("kl", 1.0)
        save_in_place(model, run / "model")
    run_command(monkeypatch, capsys, "calibrate-depth", run, "--rule", "fixed")
    model = load_model(run / "model")
    assert model.config.depth_rule is None
    assert not [name for name in load_file(run / "model/model.safetensors") if name.startswith("depth.")]
    assert set(chosen_depths(model, split.histories)) == {3}


def test_a_failed_export_leaves_the_old_model(run, monkeypatch, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(run / "model", folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    model = load_model(folder)

    def broken(place, **kwargs):
        (place / "config.json").write_text("{")
        raise OSError("no space left")

    monkeypatch.setattr(model, "save_pretrained", broken)
    with pytest.raises(OSError, match="no space left"):
        save_in_place(model, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_what_cannot_be_analysed(run, own_data, monkeypatch, capsys, tmp_path):
    assert "--rule patience: use one of all, fixed, kl" in fails(
        monkeypatch, capsys, "calibrate-depth", run, "--rule", "patience"
    )
    assert "split 'train' is not one of validation, test" in fails(
        monkeypatch, capsys, "analyze", run, "--split", "train"
    )
    assert "holds no trained model" in fails(monkeypatch, capsys, "analyze", tmp_path)
    tiny_rearec("none").save_pretrained(tmp_path / "model")
    for command in ("analyze", "calibrate-depth"):
        assert "takes no reasoning steps (reasoning: none)" in fails(monkeypatch, capsys, command, tmp_path)


def test_a_run_of_another_method(model, tmp_path, monkeypatch, capsys):
    model.save_pretrained(tmp_path / "model")
    error = fails(monkeypatch, capsys, "analyze", tmp_path)
    assert "is a CARE model: reasoning steps are analysed of ReaRec runs only" in error


# ---- sweep ----


def test_sweep(rearec_config, own_data, monkeypatch, capsys, caplog):
    base = own_data / "swept"
    options = ["--config", rearec_config, "--output_dir", base, "--num_train_epochs", "1", "--key", "temperature"]
    run_command(monkeypatch, capsys, "sweep", *options, "--values", "0.2,1")
    assert sorted(path.name for path in base.iterdir()) == ["data", "results"]
    record = json.loads((base / "results/sweep-temperature.json").read_text())
    assert [line["value"] for line in record["values"]] == ["0.2", "1"]
    for value, line in zip(("0.2", "1"), record["values"], strict=True):
        folder = own_data / f"swept-temperature-{value}"
        assert load_model(folder / "model").config.temperature == float(value)
        evaluated = json.loads((folder / "results/validation.json").read_text())["ReaRec"]["metrics"]
        assert line["ndcg@10"] == evaluated["ndcg@10"]
        assert not (folder / "results/test.json").exists()
    assert record["best"] == max(record["values"], key=lambda line: line["ndcg@10"]["value"])["value"]
    assert (base / "results/sweep-temperature.png").read_bytes().startswith(b"\x89PNG")

    # Another value is added: the others are not trained again.
    trained = []
    original = train.main
    monkeypatch.setattr(
        train, "main", lambda config, *more: trained.append(config.model.temperature) or original(config)
    )
    with caplog.at_level("INFO"):
        run_command(monkeypatch, capsys, "sweep", *options, "--values", "1,0.5,0.2")
    assert trained == [0.5]
    assert f"{base}-temperature-1 is finished" in caplog.text
    record = json.loads((base / "results/sweep-temperature.json").read_text())
    assert [line["value"] for line in record["values"]] == ["1", "0.5", "0.2"]
    assert "| 0.5         |" in caplog.text

    options[options.index("1")] = "2"
    error = fails(monkeypatch, capsys, "sweep", *options, "--values", "1")
    assert "swept-temperature-1 was made with other settings (training: num_train_epochs): delete it" in error
    assert trained == [0.5]


def test_an_interrupted_sweep_goes_on(rearec_config, own_data, monkeypatch, capsys):
    base = own_data / "broken-sweep"
    options = ["--config", rearec_config, "--output_dir", base, "--num_train_epochs", "2", "--key", "kl_weight"]
    options += ["--reasoning", "erl", "--values", "0.1"]
    original = train.train_and_save

    def interrupted(trainer, run, resume, lineage, *rest):
        trainer.lineage = lineage
        trainer.args.num_train_epochs = 1
        trainer.train(resume_from_checkpoint=resume)
        raise OSError("the lights went out")

    monkeypatch.setattr(train, "train_and_save", interrupted)
    assert "the lights went out" in fails(monkeypatch, capsys, "sweep", *options)
    monkeypatch.setattr(train, "train_and_save", original)
    run_command(monkeypatch, capsys, "sweep", *options)
    training = json.loads((own_data / "broken-sweep-kl_weight-0.1/results/training.json").read_text())
    assert training["resumed_from"] is not None
    assert training["epochs"] == 2


def test_sweeps_that_make_no_sense(rearec_config, own_data, monkeypatch, capsys):
    options = ["sweep", "--config", rearec_config, "--output_dir", own_data / "never"]
    for key, values, message in (
        ("min_rating", "3,4", "--key min_rating: name an option of the model, its training or its semantic IDs"),
        ("output_dir", "a,b", "--key output_dir: name an option"),
        ("temperature", "1,1", "--values 1,1: give different values"),
        ("temperature", "1,-1", "temperature=-1"),
    ):
        assert message in fails(monkeypatch, capsys, *options, "--key", key, "--values", values)
    assert not (own_data / "never").exists()


def test_a_sweep_of_a_method_with_codes(own_data, monkeypatch, capsys):
    """Data and codes are made once, and every run has a copy."""
    base = own_data / "swept-codes"
    options = ["--config", own_data / "mine.yaml", "--output_dir", base, "--num_train_epochs", "1"]
    run_command(monkeypatch, capsys, "sweep", *options, "--key", "learning_rate", "--values", "0.001,0.002")
    assert sorted(path.name for path in base.iterdir()) == ["data", "results", "semantic_ids"]
    record = json.loads((base / "results/sweep-learning_rate.json").read_text())
    assert [line["value"] for line in record["values"]] == ["0.001", "0.002"]
    codes = [(own_data / f"swept-codes-learning_rate-{value}/semantic_ids") for value in ("0.001", "0.002")]
    files = [{path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} for folder in codes]
    assert files[0] == files[1]


def test_a_sweep_of_the_codes_gives_each_run_its_own(own_data, monkeypatch, capsys):
    base = own_data / "swept-sizes"
    options = ["--config", own_data / "mine.yaml", "--output_dir", base, "--num_train_epochs", "1"]
    options += ["--key", "codebook_sizes", "--values", "6 6,6 4 2"]
    run_command(monkeypatch, capsys, "sweep", *options)
    assert sorted(path.name for path in base.iterdir()) == ["data", "results"]
    record = json.loads((base / "results/sweep-codebook_sizes.json").read_text())
    assert [line["value"] for line in record["values"]] == ["6 6", "6 4 2"]
    runs = [own_data / "swept-sizes-codebook_sizes-6-6", own_data / "swept-sizes-codebook_sizes-6-4-2"]
    for run, sizes in zip(runs, ([6, 6], [6, 4, 2]), strict=True):
        assert json.loads((run / "semantic_ids/item_tokenizer/config.json").read_text())["codebook_sizes"] == sizes
