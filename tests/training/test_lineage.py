"""A run knows what it was made from: every stage refuses what another setting, log or code made."""

import json
import logging
import os
import shutil

import pytest
from conftest import exit_code

from hf_genrec.data.prepared import PreparedData
from hf_genrec.files import write_json
from hf_genrec.hub import write_model_card
from hf_genrec.semantic_ids.ids import SemanticIds
from hf_genrec.training.lineage import read_lineage


@pytest.fixture(scope="module")
def made(own_data, tmp_path_factory):
    """A trained run of an epoch, and what it is made with."""
    folder = tmp_path_factory.mktemp("lineage")
    for name in ("log.csv", "films.csv"):
        shutil.copy(own_data / name, folder / name)
    settings = (own_data / "mine.yaml").read_text().replace(f"{own_data}/", f"{folder}/")
    settings = settings.replace("num_train_epochs: 4", "num_train_epochs: 2\nsplit: leave_one_out\ndisable_tqdm: true")
    (folder / "mine.yaml").write_text(settings)
    for command in ("prepare", "tokenize", "train"):
        assert exit_code(command, "--config", folder / "mine.yaml") == 0
    return folder


class Run:
    """A copy of the run for one test, and its commands."""

    def __init__(self, folder, capsys):
        self.folder, self.capsys, self.run = folder, capsys, folder / "run"

    def does(self, command, *options):
        self.capsys.readouterr()
        place = [self.run] if command == "evaluate" else ["--config", self.folder / "mine.yaml"]
        code = exit_code(command, *place, *options)
        errors = [line for line in self.capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert (code, len(errors)) in ((0, 0), (2, 1))
        return errors[0] if errors else ""

    def change(self, old, new):
        path = self.folder / "mine.yaml"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))


@pytest.fixture
def run(made, tmp_path, capsys):
    shutil.copytree(made, tmp_path / "copy")
    text = (made / "mine.yaml").read_text().replace(f"{made}/", f"{tmp_path}/copy/")
    (tmp_path / "copy/mine.yaml").write_text(text)
    return Run(tmp_path / "copy", capsys)


RESUME = ("--resume_from_checkpoint", "last")
GLOBAL = ("--split", "global_time", "--validation_time", "1600004500000", "--test_time", "1600006500000")


def test_the_same_again_is_accepted(run):
    """Fingerprints are of content: what is made anew, and equal, is as good; so is a run in another place."""
    for command in ("prepare", "tokenize"):
        assert run.does(command) == ""
    assert run.does("train", *RESUME) == ""
    assert run.does("evaluate") == ""
    run.run.rename(run.folder / "elsewhere")
    run.run = run.folder / "elsewhere"
    assert run.does("evaluate") == ""
    assert run.does("train", "--output_dir", run.run, *RESUME) == ""


def test_another_split(run):
    run.change("split: leave_one_out\n", "")
    assert run.does("prepare", *GLOBAL) == ""
    shutil.rmtree(run.run / "checkpoints")
    assert "semantic_ids was made of other data" in run.does("train")
    assert "was trained on other data" in run.does("evaluate")
    assert run.does("tokenize") == ""
    assert run.does("train") == ""
    assert run.does("evaluate") == ""


def test_another_setting_in_the_configuration(run):
    shutil.rmtree(run.run / "checkpoints")
    assert "data was prepared with user_core: 0" in run.does("train", "--user_core", "3")
    run.change("split: leave_one_out", f"split: global_time\nvalidation_time: {GLOBAL[3]}\ntest_time: {GLOBAL[5]}")
    for command in ("tokenize", "train"):
        assert "data was prepared with split: leave_one_out, the configuration says global_time" in run.does(command)


def test_another_setting_of_the_codes(run):
    shutil.rmtree(run.run / "checkpoints")
    assert "semantic_ids was made with collisions: resolve" in run.does("train", "--collisions", "keep")
    assert "semantic_ids was made with codebook_sizes: [4, 4, 4]" in run.does(
        "train", "--codebook_sizes", "4", "4", "8"
    )
    codes = SemanticIds.load(run.run / "semantic_ids")
    published = {item: row.tolist() for item, row in zip(codes.item_ids, codes.codes, strict=True)}
    (run.folder / "codes.json").write_text(json.dumps(published))
    assert "was made with codes_path: None" in run.does("train", "--codes_path", run.folder / "codes.json")
    # An option of an earlier stage alone need not be repeated.
    assert run.does("tokenize", "--tokenizer_seed", "5") == ""
    assert run.does("train") == ""


def test_a_changed_log(run, caplog):
    """Of equal size and time, it is read anew; a run of the old one says that there is a newer one."""
    assert run.does("prepare") == ""
    log, before = run.folder / "log.csv", os.stat(run.folder / "log.csv")
    old = PreparedData.load(run.run / "data")
    lines = log.read_text().splitlines()
    lines[1], lines[9] = (
        f"{member},{rest}" for member, rest in zip(("u01", "u00"), ("f00,1600000000",) * 2, strict=True)
    )
    text = "\n".join(lines) + "\n"
    log.write_text(text.ljust(before.st_size, "\n")[: before.st_size])
    os.utime(log, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert os.stat(log).st_size == before.st_size
    with caplog.at_level(logging.WARNING):
        assert run.does("tokenize") == ""
    assert "log.csv has changed since" in caplog.text
    assert run.does("prepare") == ""
    assert PreparedData.load(run.run / "data").fingerprint != old.fingerprint
    assert "was trained on other data" in run.does("evaluate")
    shutil.copy(run.folder / "films.csv", run.folder / "other.csv")
    assert run.does("tokenize", "--item_path", run.folder / "other.csv") == ""  # another name of the same
    assert "not prepared from source_path" in run.does("tokenize", "--source_path", run.folder / "other.csv")


def test_files_of_two_runs(run, made):
    """A file of another preparation, other codes or another item tokenizer in its place."""
    shutil.rmtree(run.run / "checkpoints")
    other = run.folder / "other"
    assert run.does("prepare", "--output_dir", other, "--user_core", "8", "--source_path", run.folder / "log.csv") == ""
    run.change("split: leave_one_out\n", "")
    assert run.does("prepare", "--output_dir", other, *GLOBAL) == ""
    assert run.does("tokenize", "--output_dir", other, "--tokenizer_seed", "1") == ""
    for part, name, message in (
        ("data", "sequences.parquet", "not of one `hf-genrec prepare`"),
        ("data", "prepare.json", "made of other data|not of one"),
        ("semantic_ids", "semantic_ids.safetensors", "not of one save"),
        ("semantic_ids", "item_tokenizer/model.safetensors", "did not make the codes"),
        ("semantic_ids", "semantic_ids.json", "other data|not of one save"),
    ):
        path = run.run / part / name
        kept = path.read_bytes()
        shutil.copy(other / part / name, path)
        error = run.does("train")
        assert any(choice in error for choice in message.split("|")), (name, error)
        path.write_bytes(kept)
    assert not (run.run / "checkpoints").exists()


def test_other_codes_on_resume(run):
    before = (run.run / "model/model.safetensors").read_bytes()
    assert run.does("tokenize", "--tokenizer_seed", "7", "--vectors", "both") == ""
    error = run.does("train", *RESUME)
    assert "was trained on another state of the semantic IDs" in error or "vectors" in error
    run.change("vectors: collaborative\n", "")
    assert "another state of the semantic IDs than is there now: delete" in run.does("train", *RESUME)
    assert (run.run / "model/model.safetensors").read_bytes() == before
    assert run.does("evaluate") == ""  # the model has its own codes


def test_other_settings_on_resume(run, caplog):
    assert "model with other settings (hidden_size 64, was 32)" in run.does("train", *RESUME, "--hidden_size", "64")
    with caplog.at_level(logging.WARNING):
        assert run.does("train", *RESUME, "--learning_rate", "0.5", "--seed", "9", "--num_train_epochs", "3") == ""
    (said,) = [message for message in caplog.messages if "resumed with other settings" in message]
    for change in ("learning_rate 0.5, was 0.003", "seed 9, was 42", "num_train_epochs 3.0, was 2"):
        assert change in said
    caplog.clear()
    assert run.does("train", *RESUME, "--num_train_epochs", "4", "--learning_rate", "0.5", "--seed", "9") == ""
    assert "num_train_epochs 4.0, was 3.0" in caplog.text
    assert "learning_rate" not in caplog.text


def test_checkpoints_of_another_method(run):
    """One line that names both methods, not the settings in which they differ."""
    run.change("method: care", "method: rearec")
    run.change("vectors: collaborative\ncollaborative_dim: 8\ncodebook_sizes: [4, 4, 4]\n", "")
    for options in ((), RESUME):
        error = run.does("train", *options)
        assert "of a training of method: care, and this is a training of method: rearec: use another output" in error
        assert "hidden_size" not in error


def test_a_finished_run_that_is_started_again_is_not_changed(run):
    def record():
        return {name: (run.run / name).read_bytes() for name in ("results/training.json", "model/training_args.json")}

    before = record()
    weights = (run.run / "model/model.safetensors").read_bytes()
    assert (
        "is finished, so that nothing is done with other settings (targets last, was all): set them back"
        in run.does("train", *RESUME, "--targets", "last")
    )
    assert record() == before
    assert run.does("train", *RESUME) == ""
    assert record()["results/training.json"] == before["results/training.json"]
    assert (run.run / "model/model.safetensors").read_bytes() == weights
    (run.run / "results/training.json").unlink()  # as if it had been killed before
    assert run.does("train", *RESUME) == ""
    assert json.loads((run.run / "results/training.json").read_text())["steps"] == 2


def test_fewer_beams_than_evaluation_needs(run):
    error = run.does("evaluate", "--num-beams", "3")
    assert "--num-beams 3: evaluation looks at lists of 20 items (Recall@20), which need as many beams" in error


@pytest.mark.parametrize("command", ["prepare", "tokenize", "train", "evaluate"])
def test_a_place_that_cannot_be_written_is_said_first(run, command, monkeypatch):
    """Before the log, the data or the model are read."""

    def read(*arguments, **options):
        raise AssertionError("work has begun")

    for place in (
        "prepare_data.load_source",
        "tokenize_items.tokenized_from",
        "train.lineage_of",
        "evaluate_run.load_model",
    ):
        monkeypatch.setattr(f"hf_genrec.trainers.{place}", read)
    if command == "evaluate":
        (run.run / "results").rename(run.folder / "kept")
        (run.run / "results").write_text("a file in its place")
        assert "results cannot be written (Not a directory)" in run.does(command)
        return
    (run.folder / "file").write_text("")
    monkeypatch.setattr("hf_genrec.data.prepared.require_files", lambda folder: None)
    assert "run cannot be written" in run.does(command, "--output_dir", run.folder / "file/run")


def test_folders_of_earlier_versions_are_refused(run):
    """What does not say where it comes from is not used, and never deleted."""
    checkpoints = sorted((run.run / "checkpoints").iterdir())
    for checkpoint in checkpoints:
        (checkpoint / "lineage.json").unlink()
    assert "does not say what it was made from" in run.does("train", *RESUME)
    assert all(checkpoint.is_dir() for checkpoint in checkpoints)
    (run.run / "model/lineage.json").unlink()
    assert "does not say what it was trained on" in run.does("evaluate")
    report = json.loads((run.run / "data/prepare.json").read_text())
    write_json({name: value for name, value in report.items() if name != "fingerprint"}, run.run / "data/prepare.json")
    assert "does not say what the data are known by: run prepare again" in run.does("tokenize")


def test_a_card_has_no_figures_of_an_earlier_model(run):
    assert run.does("evaluate") == ""
    card = run.run / "model/README.md"
    assert "Results on the test split" in card.read_text()
    shutil.rmtree(run.run / "checkpoints")
    assert run.does("train", "--seed", "3") == ""
    assert "Results on the test split" not in card.read_text()
    assert run.does("evaluate") == ""
    assert "Results on the test split" in card.read_text()
    write_model_card(run.run / "model", run.run / "results")
    assert "Results on the test split" in card.read_text()


def test_what_a_model_says_of_itself(made):
    run = made / "run"
    lineage = read_lineage(run / "model")
    assert lineage["made_from"] == {
        "data": PreparedData.load(run / "data").fingerprint,
        "semantic_ids": SemanticIds.load(run / "semantic_ids").fingerprint,
        "item_tokenizer": json.loads((run / "semantic_ids/semantic_ids.json").read_text())["report"]["made_from"][
            "item_tokenizer"
        ],
    }
    assert lineage["model"]["hidden_size"] == 32
    assert lineage["training"]["learning_rate"] == 0.003
