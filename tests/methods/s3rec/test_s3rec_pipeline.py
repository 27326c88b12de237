"""S3-Rec by the usual commands: from a log with categories to a recommendation; and trainings that end early."""

import json
import subprocess

import pytest
import torch
from conftest import ITEMS, USERS, config_beside, exit_code, run_command, run_pipeline
from finished_runs import check_a_strangers_list
from killed_trainings import check_a_killed_training
from safetensors.torch import load_file

from hf_genrec.method import load_method, load_model
from hf_genrec.methods.s3rec.modeling_s3rec import S3RecForNextItem, S3RecForPretraining
from hf_genrec.methods.s3rec.pretraining_s3rec import PretrainingTrainer
from hf_genrec.trainers import train
from hf_genrec.training.config import parse_config

pytestmark = pytest.mark.libraries

DATA_KEYS = ("source", "user_column", "item_column", "time_column", "title_column")


@pytest.fixture(scope="module")
def config(own_data):
    """The log of even and odd films, which here have genres."""
    films = [f'f{item:02d},Film number {item},"{("even", "odd")[item % 2]}, {item % 3}"' for item in range(ITEMS)]
    (own_data / "genres.csv").write_text("\n".join(["film,name,genres", *films]) + "\n")
    return config_beside(
        own_data,
        "s3rec.yaml",
        f"""
method: s3rec
item_path: {own_data}/genres.csv
categories_column: genres
max_history: 5
hidden_size: 16
intermediate_size: 32
hidden_dropout: 0.1
attention_dropout: 0.1
pretrain_epochs: 3
pretrain_batch_size: 16
pretrain_learning_rate: 0.003
output_dir: {own_data}/s3rec-run
num_train_epochs: 6
per_device_train_batch_size: 8
train_sampling_strategy: random
learning_rate: 0.005
weight_decay: 0.0
logging_steps: 1
use_cpu: true
""",
        DATA_KEYS,
    )


@pytest.fixture(scope="module")
def trained(config, own_data):
    run_pipeline(config)
    return own_data / "s3rec-run"


def copy_of(trained, folder, *parts):
    """A run folder that holds these parts of the trained one."""
    folder.mkdir()
    for part in ("data", *parts):
        subprocess.run(["cp", "-r", trained / part, folder / part], check=True)
    return folder


def test_the_run_folder(trained):
    assert {path.name for path in trained.iterdir()} == {"data", "checkpoints", "pretrained", "model", "results"}
    assert {path.suffix for path in (trained / "model").rglob("*")} == {".json", ".py", ".safetensors", ".md"}
    there = {path.name for path in (trained / "pretrained").iterdir() if path.suffix != ".py"}
    assert there == {"config.json", "model.safetensors", "lineage.json", "pretraining.json"}
    assert not (trained / "checkpoints/pretraining").exists()
    first = json.loads((trained / "pretrained/pretraining.json").read_text())
    assert (first["num_prefixes"], first["steps"], first["epochs"]) == (USERS, 9, 3)
    assert len(first["attributes"]) == 5
    assert {f"categories: {name}" for name in ("even", "odd", "0", "1", "2")} == set(first["attributes"])
    lines = [line for line in first["log"] if "loss" in line]
    assert len(lines) == 9
    for line in lines:
        weighted = 0.2 * line["loss_aap"] + line["loss_mip"] + line["loss_map"] + 0.5 * line["loss_sp"]
        assert line["loss"] == pytest.approx(weighted, abs=2e-3)
    second = json.loads((trained / "results/training.json").read_text())
    assert second["num_targets"] == USERS * 5  # of 8 items two are held out, and the first has none before it
    assert second["cpu_seconds"] > first["cpu_seconds"] > 0  # of both stages


def test_the_model_has_no_heads_and_starts_from_the_pretraining(trained, own_data, config):
    names = load_file(trained / "model/model.safetensors").keys()
    assert names == S3RecForNextItem(load_model(trained / "model").config).state_dict().keys()
    assert all(name.startswith("model.") for name in names)
    # A folder with heads opens without them.
    opened = S3RecForNextItem.from_pretrained(trained / "pretrained")
    whole = S3RecForPretraining.from_pretrained(trained / "pretrained").state_dict()
    assert {name.split(".")[0] for name in whole.keys() - opened.state_dict().keys()} == {
        "attribute_embeddings",
        "aap",
        "mip",
        "map",
        "sp",
    }
    for name, weight in opened.state_dict().items():
        assert torch.equal(weight, whole[name]), name
    # At a learning rate of next to nothing the fine-tuning ends where it began.
    folder = copy_of(trained, own_data / "s3rec-still", "pretrained")
    options = ["--output_dir", folder, "--learning_rate", "1e-12", "--num_train_epochs", "1"]
    assert exit_code("train", "--config", config, *options) == 0
    for name, weight in load_file(folder / "model/model.safetensors").items():
        torch.testing.assert_close(weight, whole[name], rtol=0, atol=1e-8)


def test_evaluate_recommend_and_card(trained, monkeypatch, capsys):
    run_command(monkeypatch, capsys, "evaluate", trained)
    record = json.loads((trained / "results/test.json").read_text())["S3-Rec"]
    assert record["metrics"]["recall@10"]["value"] > 10 / ITEMS
    card = (trained / "model/README.md").read_text()
    assert "| attributes of the pretraining | 5 |" in card
    check_a_strangers_list(monkeypatch, capsys, trained, "AutoModelForSequenceClassification", "score")


def test_a_killed_training_ends_with_the_same_weights(trained, config, own_data):
    check_a_killed_training(config, trained, own_data / "s3rec-killed")


class Ended(Exception):
    pass


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_pretraining_that_ended_is_resumed(trained, config, own_data, monkeypatch, epoch):
    """Behind the checkpoint of an epoch: the same pretrained weights, and the same model."""
    folder = copy_of(trained, own_data / f"s3rec-ended-{epoch}")
    options = ["--config", config, "--output_dir", folder]

    def end(trainer, *args, **kwargs):
        if trainer.state.epoch > epoch:
            raise Ended
        return step(trainer, *args, **kwargs)

    step = PretrainingTrainer.training_step
    with monkeypatch.context() as patch:
        patch.setattr(PretrainingTrainer, "training_step", end)
        with pytest.raises(Ended):
            train.main(parse_config(str(config), ["--output_dir", str(folder)]))
    assert not (folder / "pretrained").exists()
    assert [path.name for path in (folder / "checkpoints/pretraining").iterdir()] == [f"checkpoint-{3 * epoch}"]
    assert exit_code("train", *options) == 2  # not without being asked to
    assert exit_code("train", *options, "--resume_from_checkpoint", "last") == 0
    assert "checkpoint" in json.loads((folder / "pretrained/pretraining.json").read_text())["resumed_from"]
    for part in ("pretrained", "model"):
        expected = load_file(trained / part / "model.safetensors")
        for name, weight in load_file(folder / part / "model.safetensors").items():
            assert torch.equal(weight, expected[name]), (part, name)


def test_what_is_pretrained_otherwise_is_not_taken(trained, config, own_data, capsys):
    folder = copy_of(trained, own_data / "s3rec-otherwise", "pretrained")
    for options, part in (
        (["--pretrain_epochs", "4"], "(pretrain_epochs 4, was 3)"),
        (["--seed", "7"], "(seed 7, was 42)"),
        (["--hidden_dropout", "0.3"], "(hidden_dropout 0.3, was 0.1)"),
    ):
        assert exit_code("train", "--config", config, "--output_dir", folder, *options) == 2
        assert f"{folder}/pretrained was pretrained otherwise {part}: delete it" in capsys.readouterr().err
    lineage = json.loads((folder / "pretrained/lineage.json").read_text())
    lineage["made_from"]["data"] = "other"
    (folder / "pretrained/lineage.json").write_text(json.dumps(lineage))
    assert exit_code("train", "--config", config, "--output_dir", folder) == 2
    assert "was not pretrained on these data" in capsys.readouterr().err
    assert not (folder / "model").exists()


def test_softmax_a_row_per_target_and_no_pretraining(trained, config, own_data):
    folder = copy_of(trained, own_data / "s3rec-plain")
    options = ["--loss_type", "softmax", "--packing", "false", "--pretrain_epochs", "0", "--num_train_epochs", "1"]
    assert exit_code("train", "--config", config, "--output_dir", folder, *options) == 0
    assert not (folder / "pretrained").exists()
    assert load_model(folder / "model").config.loss_type == "softmax"


def test_the_order_of_the_stages_is_one_of_the_trainer(trained, config):
    """What builds a trainer to look at it, as `hf-genrec plan` does, pretrains nothing."""
    configuration = parse_config(str(config))
    before = sorted((trained / "pretrained").iterdir())
    trainer = load_method("s3rec").build_trainer(configuration)
    assert sorted((trained / "pretrained").iterdir()) == before
    assert trainer.pretraining.folder == trained / "pretrained"
