"""`hf-genrec tune` on somebody's own log."""

import json
import shutil
import sys

import pytest
import yaml
from conftest import exit_code, run_command

from hf_genrec.method import load_model
from hf_genrec.semantic_ids.ids import read_table
from hf_genrec.trainers import trial_runs
from hf_genrec.training.config import parse_config
from hf_genrec.training.trainer import DivergedTraining

optuna = pytest.importorskip("optuna")


def record_of(base) -> dict:
    return json.loads((base / "results/tune.json").read_text())


def error_of(capsys, *arguments) -> str:
    assert exit_code("tune", *arguments) == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.fixture
def options(rearec_config, tmp_path):
    return ["--config", rearec_config, "--num_train_epochs", "1", "--output_dir", tmp_path / "run"]


@pytest.fixture
def without_training(monkeypatch):
    """Trials whose NDCG@10 follows from their learning rate, at no cost; the runs that were trained."""
    trained = []

    def train_and_evaluate(run, callbacks=()):
        trained.append(run)
        if run.training.learning_rate > 0.05:
            raise DivergedTraining("the training diverged")
        low = high = value = run.training.learning_rate
        figures = {name: {"value": value, "low": low, "high": high} for name in trial_runs.FIGURES}
        for part, content in (
            ("model/training_args", {"seed": 1}),
            ("results/training", {"epochs": 1, "cpu_seconds": 1, "best_step": 1}),
            ("results/validation", {"A model": {"metrics": figures}}),
        ):
            (run.run.path / part).parent.mkdir(exist_ok=True)
            (run.run.path / f"{part}.json").write_text(json.dumps(content))

    monkeypatch.setattr("hf_genrec.trainers.tune.train_and_evaluate", train_and_evaluate)
    return trained


def test_a_search(options, tmp_path, monkeypatch, capsys, caplog):
    space = ["--space", "learning_rate=1e-4..1e-2:log", "hidden_size=8,16"]
    with caplog.at_level("INFO"):
        run_command(monkeypatch, capsys, "tune", *options, *space, "--trials", "2", "--exclude_seen", "false")
    base = tmp_path / "run"
    record = record_of(base)
    assert [line["outcome"] for line in record["trials"]] == ["finished"] * 2
    assert record["best"]["ndcg@10"]["value"] == max(line["ndcg@10"]["value"] for line in record["trials"])
    for line in record["trials"]:
        folder = base / "tune" / f"{line['trial']:04d}"
        evaluated = json.loads((folder / "results/validation.json").read_text())["ReaRec"]["metrics"]
        assert line["ndcg@10"] == evaluated["ndcg@10"]
        assert line["intermediate_ndcg@10"] == [pytest.approx(line["ndcg@10"]["value"])]
        assert not (folder / "results/test.json").exists()
        assert not (folder / "checkpoints").exists()
        assert load_model(folder / "model").config.hidden_size == int(line["values"]["hidden_size"])
        settings = json.loads((folder / "model/training_args.json").read_text())
        assert settings["learning_rate"] == line["values"]["learning_rate"]
        assert 1e-4 <= settings["learning_rate"] <= 1e-2
        assert (folder / "data/prepare.json").read_bytes() == (base / "data/prepare.json").read_bytes()
    assert (base / "results/tune.png").read_bytes().startswith(b"\x89PNG")
    best = parse_config(str(base / "tune/best.yaml"))
    assert str(best.run.path) == record["best"]["run"]
    assert best.training.learning_rate == record["best"]["values"]["learning_rate"]
    assert best.model.hidden_size == int(record["best"]["values"]["hidden_size"])
    assert best.training.num_train_epochs == 1
    assert "| trial | learning_rate | hidden_size | NDCG@10 |" in caplog.text


def test_more_trials_and_other_settings(options, tmp_path, monkeypatch, capsys, without_training):
    space = ["--space", "learning_rate=1e-4..1e-2:log"]
    run_command(monkeypatch, capsys, "tune", *options, *space, "--trials", "4")
    assert len(without_training) == 4
    run_command(monkeypatch, capsys, "tune", *options, *space, "--trials", "5")
    assert len(without_training) == 5
    run_command(monkeypatch, capsys, "tune", *options, *space, "--trials", "2")
    assert len(without_training) == 5
    at_once = tmp_path / "at-once"
    run_command(monkeypatch, capsys, "tune", *options[:-1], at_once, *space, "--trials", "5")
    values = [line["values"] for line in record_of(tmp_path / "run")["trials"]]
    assert len({line["learning_rate"] for line in values}) == 5
    assert values == [line["values"] for line in record_of(at_once)["trials"]]

    made = f"{tmp_path}/run/tune was made with other settings"
    wider = ["--space", "learning_rate=1e-4..1e-1:log"]
    assert f"{made} (space: learning_rate)" in error_of(capsys, *options, *wider, "--trials", "6")
    more = [*space, "hidden_size=8,16"]
    assert f"{made} (space: hidden_size)" in error_of(capsys, *options, *more, "--trials", "6")
    other = [*space, "--weight_decay", "0.1"]
    assert f"{made} (training: weight_decay)" in error_of(capsys, *options, *other, "--trials", "6")


def test_an_interrupted_search_goes_on_with_the_same_trial(options, tmp_path, monkeypatch, capsys, without_training):
    space = ["--space", "learning_rate=1e-4..1e-2:log", "weight_decay=0..0.1"]
    make = sys.modules["hf_genrec.trainers.tune"].train_and_evaluate
    interrupted = []

    def lights_out(run, callbacks=()):
        if len(without_training) == 2 and not interrupted:
            interrupted.append(run)
            raise OSError("the lights went out")
        make(run, callbacks)

    monkeypatch.setattr("hf_genrec.trainers.tune.train_and_evaluate", lights_out)
    assert "the lights went out" in error_of(capsys, *options, *space, "--trials", "4")
    assert not (tmp_path / "run/results/tune.json").exists()
    run_command(monkeypatch, capsys, "tune", *options, *space, "--trials", "4")
    record = record_of(tmp_path / "run")
    assert [line["outcome"] for line in record["trials"]] == ["finished"] * 4
    again = without_training[2]
    assert again.run.path == interrupted[0].run.path == tmp_path / "run/tune/0002"
    assert again.training.learning_rate == interrupted[0].training.learning_rate
    assert again.training.resume_from_checkpoint == "last"
    run_command(monkeypatch, capsys, "tune", *options[:-1], tmp_path / "whole", *space, "--trials", "4")
    whole = record_of(tmp_path / "whole")
    assert [line["values"] for line in whole["trials"]] == [line["values"] for line in record["trials"]]


def test_trials_that_are_refused_or_diverge(options, tmp_path, monkeypatch, capsys, caplog, without_training):
    space = ["--space", "learning_rate=0.001,0.1", "hidden_size=16,31"]  # 31 does not divide into two heads
    with caplog.at_level("INFO"):
        run_command(monkeypatch, capsys, "tune", *options, *space, "--trials", "8")
    trials = record_of(tmp_path / "run")["trials"]
    for line in trials:
        refused, diverged = line["values"]["hidden_size"] == "31", line["values"]["learning_rate"] == "0.1"
        assert line["outcome"] == ("refused" if refused else "diverged" if diverged else "finished")
        assert (line["reason"] is None) == (line["outcome"] == "finished")
    assert {line["outcome"] for line in trials} == {"refused", "diverged", "finished"}
    assert "not finished: " in caplog.text
    options[-1] = tmp_path / "none"
    error = error_of(capsys, *options, "--space", "hidden_size=31", "--trials", "2")
    assert "no trial could be finished; the first one was refused" in error
    assert "hidden_size=31 does not divide into 2 heads" in error


def test_trials_that_are_worse_than_most_are_pruned(options, tmp_path, monkeypatch, capsys):
    class Second(optuna.pruners.BasePruner):
        def prune(self, study, trial):
            assert trial.intermediate_values.keys() == {1}
            return trial.number == 1

    monkeypatch.setattr(optuna.pruners, "MedianPruner", lambda **kwargs: Second())
    space = ["--space", "learning_rate=1e-4..1e-2:log", "--trials", "2"]
    run_command(monkeypatch, capsys, "tune", *options, *space)
    record = record_of(tmp_path / "run")
    assert [line["outcome"] for line in record["trials"]] == ["finished", "pruned"]
    assert "after 1 evaluations is below the median" in record["trials"][1]["reason"]
    assert len(record["trials"][1]["intermediate_ndcg@10"]) == 1
    assert not (tmp_path / "run/tune/0001/model").exists()
    assert not (tmp_path / "run/tune/0001/checkpoints").exists()
    assert record["best"]["trial"] == 0


def test_codes_that_are_varied_are_made_in_each_trial(own_data, tmp_path, monkeypatch, capsys, without_training):
    options = ["--config", own_data / "mine.yaml", "--output_dir", tmp_path / "run", "--trials", "2"]
    run_command(monkeypatch, capsys, "tune", *options, "--space", "codebook_sizes=4 4 4,3 3 3 3", "--seed", "1")
    assert not (tmp_path / "run/semantic_ids").exists()
    for run in without_training:
        assert (
            read_table(run.run.semantic_ids)["report"]["made_from"]["settings"]["codebook_sizes"]
            == run.tokenizer.codebook_sizes
        )
    best = yaml.safe_load((tmp_path / "run/tune/best.yaml").read_text())
    assert best["codebook_sizes"] in ([4, 4, 4], [3, 3, 3, 3])
    # In common otherwise.
    options[3] = tmp_path / "other"
    run_command(monkeypatch, capsys, "tune", *options, "--space", "learning_rate=0.001,0.002")
    for run in without_training[2:]:
        mine, shared = run.run.semantic_ids, tmp_path / "other/semantic_ids"
        assert (mine / "semantic_ids.json").read_bytes() == (shared / "semantic_ids.json").read_bytes()


def test_searches_that_make_no_sense(options, tmp_path, capsys, without_training):
    for space, message in (
        (["min_rating=1..3"], "'min_rating' is no option of the model"),
        (["output_dir=a,b"], "'output_dir' is no option"),
        (["method=care,rearec"], "'method' is no option"),
        (["num_queries=1,2"], "'num_queries' is no option"),
        (["learning_rate=1..0"], "the first number must be below the second"),
        (["num_train_epochs=1,2"], "--num_train_epochs: the search varies it: leave the option out"),
    ):
        assert message in error_of(capsys, *options, "--space", *space, "--trials", "2")
    assert "--trials 0: give 1 or more" in error_of(capsys, *options, "--space", "temperature=1,2", "--trials", "0")
    assert not (tmp_path / "run").exists()
    assert not without_training


def test_a_damaged_study_is_said(options, tmp_path, monkeypatch, capsys, without_training):
    space = ["--space", "learning_rate=1e-4..1e-2:log", "--trials", "1"]
    run_command(monkeypatch, capsys, "tune", *options, *space)
    study = tmp_path / "run/tune/study.db"
    study.write_bytes(b"no database" * 1000)
    assert f"{study} is no storage of optuna" in error_of(capsys, *options, *space)
    study.unlink()
    shutil.rmtree(tmp_path / "run/tune/0000")
    run_command(monkeypatch, capsys, "tune", *options, *space)
    assert len(without_training) == 2


def test_without_optuna(options, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "optuna", None)
    error = error_of(capsys, *options, "--space", "temperature=1,2", "--trials", "1")
    assert error.endswith('tune needs optuna: pip install "hf_genrec[tune]"')
