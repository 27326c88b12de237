"""Two processes on one machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.libraries

ZERO2 = Path(__file__).parents[2] / "configs/accelerate/zero2.yaml"


def train(launcher, config, name, *options, program="train"):
    run = config.parent / name
    command = [sys.executable, "-m", "hf_genrec.cli"]
    options = ["--config", str(config), "--output_dir", str(run), *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for step in ("prepare", "tokenize"):
        subprocess.run([*command, step, *options], check=True, capture_output=True, env=environment)
    finished = subprocess.run(
        [sys.executable, *launcher, "-m", f"hf_genrec.trainers.{program}", *options],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    record = json.loads((run / "results/training.json").read_text())
    return record, load_file(run / f"checkpoints/checkpoint-{record['steps']}/model.safetensors")


@pytest.mark.slow  # three programs, each loading torch
def test_two_processes_train_what_one_trains(own_data):
    same = ["--attention_dropout", "0", "--num_train_epochs", "1"]
    alone, weights = train([], own_data / "mine.yaml", "alone", *same, "--per_device_train_batch_size", "16")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    same += ["--use_cpu", "false"]  # which several processes on a machine without an accelerator set themselves
    two, shared = train(launcher, own_data / "mine.yaml", "ddp", *same, "--per_device_train_batch_size", "8")
    assert (alone["num_processes"], two["num_processes"]) == (1, 2)
    assert two["steps"] == alone["steps"]
    for name in weights:
        torch.testing.assert_close(shared[name], weights[name], atol=1e-4, rtol=1e-3)
    for ours, theirs in zip(alone["log"], two["log"], strict=True):
        if "eval_recall@10" in ours:
            assert theirs["eval_recall@10"] == pytest.approx(ours["eval_recall@10"])


@pytest.mark.slow  # three programs, each loading torch
def test_two_processes_train_what_one_trains_of_rearec(rearec_config):
    same = ["--num_train_epochs", "2", "--reasoning", "erl", "--hidden_dropout", "0", "--attention_dropout", "0"]
    same += ["--embedding_dropout", "0"]
    alone, weights = train([], rearec_config, "rearec-alone", *same, program="train")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    half = ["--per_device_train_batch_size", "4"]
    two, shared = train(launcher, rearec_config, "rearec-ddp", *same, *half, program="train")
    assert (alone["num_processes"], two["num_processes"]) == (1, 2)
    assert two["steps"] == alone["steps"]
    for name in weights:
        torch.testing.assert_close(shared[name], weights[name], atol=1e-4, rtol=1e-3)
    for ours, theirs in zip(alone["log"], two["log"], strict=True):
        for name in ("loss", "loss_ce", "loss_kl"):
            if name in ours:
                assert theirs[name] == pytest.approx(ours[name], rel=1e-3)


@pytest.mark.slow  # builds DeepSpeed's CPU operators on first use
def test_zero2_configuration_launches_two_processes(own_data):
    pytest.importorskip("deepspeed", reason="the extra `deepspeed` is not installed")
    launcher = ["-m", "accelerate.commands.launch", "--config_file", str(ZERO2)]
    record, weights = train(launcher, own_data / "mine.yaml", "zero2", "--num_train_epochs", "1")
    assert record["num_processes"] == 2
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())
