"""DeepSpeed ZeRO-2 and ZeRO-3 in two processes on processors: what is trained, resumed and exported."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import exit_code
from safetensors.torch import load_file

from hf_genrec.method import load_model

pytest.importorskip("deepspeed", reason="the extra `deepspeed` is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.libraries]

ACCELERATE = Path(__file__).parents[2] / "configs/accelerate"
OPTIONS = ["--attention_dropout", "0", "--num_train_epochs", "2", "--per_device_train_batch_size", "8"]
OPTIONS += ["--report_to", "none", "--logging_steps", "1"]


@pytest.fixture(scope="module")
def start(own_data):
    """A run that is prepared and tokenized."""
    run = own_data / "zero-start"
    for command in ("prepare", "tokenize"):
        assert exit_code(command, "--config", own_data / "mine.yaml", "--output_dir", run) == 0
    return run


def launch(stage, config, run, *options):
    """Train by the shipped file of a stage of ZeRO; both processes must end well."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", ACCELERATE / f"zero{stage}.yaml"]
    command += ["-m", "hf_genrec.trainers.train", "--config", config, "--output_dir", run, "--use_cpu", "false"]
    finished = subprocess.run(
        [*command, *OPTIONS, *options], capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert finished.returncode == 0, finished.stderr[-5000:]


@pytest.fixture(scope="module")
def trained(start, own_data):
    """By stage, a run that two processes have trained."""
    runs = {}
    for stage in (2, 3):
        runs[stage] = own_data / f"zero{stage}"
        shutil.copytree(start, runs[stage])
        launch(stage, own_data / "mine.yaml", runs[stage])
    return runs


def weights(run):
    return load_file(run / "model/model.safetensors")


@pytest.mark.parametrize("stage", [2, 3])
def test_a_plain_folder_with_whole_weights(trained, start, own_data, stage):
    alone = own_data / "zero-alone"
    if not alone.exists():
        shutil.copytree(start, alone)
        batch = ["--per_device_train_batch_size", "16", "--use_cpu", "true"]
        assert exit_code("train", "--config", own_data / "mine.yaml", "--output_dir", alone, *OPTIONS, *batch) == 0
    found, expected = weights(trained[stage]), weights(alone)
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=1e-4, rtol=0)
    assert {path.suffix for path in (trained[stage] / "model").rglob("*") if path.is_file()} <= {
        ".json", ".md", ".py", ".safetensors", ".parquet",
    }  # fmt: skip
    model = load_model(trained[stage] / "model")
    assert len(model.recommend([model.processor.item_ids[:3]], k=5)[0][0]) == 5


@pytest.mark.parametrize("stage", [2, 3])
def test_a_checkpoint_is_resumed(trained, own_data, stage):
    resumed = own_data / f"zero{stage}-resumed"
    shutil.copytree(trained[stage], resumed)
    first, last = sorted((resumed / "checkpoints").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    shutil.rmtree(last)
    shutil.rmtree(resumed / "model")
    launch(stage, own_data / "mine.yaml", resumed, "--resume_from_checkpoint", "last")
    assert first.is_dir()
    found = load_file(last / "model.safetensors")
    expected = load_file(trained[stage] / "checkpoints" / last.name / "model.safetensors")
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=1e-6, rtol=0)
