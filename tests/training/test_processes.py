"""What would run as one process, or as several that each do all the work, is refused with the right command."""

import logging
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from conftest import exit_code

from hf_genrec.post_training.grpo_arguments import parse_grpo_config
from hf_genrec.training.arguments import use_one_gpu
from hf_genrec.training.config import parse_config
from hf_genrec.training.processes import (
    processes_started,
    require_as_many_as_asked_for,
    require_gpus_to_shard,
    require_one_process,
)

# What `accelerate launch --cpu --num_processes 2` gives the one process that it starts.
ASKED_FOR_TWO = {"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
TORCHRUN = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


def test_fewer_processes_than_asked_for():
    with pytest.raises(ValueError, match=r"started one.*torchrun --standalone --nproc_per_node 2 -m hf_genrec"):
        require_as_many_as_asked_for(ASKED_FOR_TWO)
    for right in (
        {},
        TORCHRUN,
        ASKED_FOR_TWO | {"PMI_SIZE": "2"},
        {"ACCELERATE_USE_CPU": "True"},
        {"MASTER_ADDR": "a"},
    ):
        require_as_many_as_asked_for(right)


def test_training_is_refused(own_data, monkeypatch):
    for name, value in ASKED_FOR_TWO.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(ValueError, match="accelerate launch was asked for several processes"):
        parse_config(str(own_data / "mine.yaml"))
    with pytest.raises(ValueError, match="accelerate launch was asked for several processes"):
        parse_grpo_config(None, ["--pretrained", str(own_data), "--output_dir", str(own_data / "grpo")])


def test_processes_started():
    assert [processes_started(environment) for environment in ({}, TORCHRUN, {"WORLD_SIZE": "4"})] == [1, 2, 1]


@pytest.mark.parametrize(
    "command", [["prepare", "--config", "x"], ["evaluate", "x"], ["recommend", "x", "--user", "1"], ["serve", "x"]]
)
def test_the_work_of_one_process(command, monkeypatch, capsys):
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    assert exit_code(*command) == 2
    line = f"hf-genrec {command[0]} is the work of one process, and 2 were started: start it without torchrun"
    assert line in capsys.readouterr().err


def test_help_needs_no_process_of_its_own(monkeypatch):
    require_one_process("anything")
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    assert exit_code("--version") == 0


def test_sharding_on_processors():
    with pytest.raises(ValueError, match="fsdp shards weights between GPUs, and there is none"):
        require_gpus_to_shard(fsdp=True, has_accelerator=False)
    require_gpus_to_shard(fsdp=True, has_accelerator=True)
    require_gpus_to_shard(fsdp=False, has_accelerator=False)


def test_several_gpus_and_one_process(caplog):
    arguments = SimpleNamespace(n_gpu=4, _n_gpu=4)
    with caplog.at_level(logging.WARNING):
        use_one_gpu(arguments)
    assert arguments._n_gpu == 1
    assert "4 GPUs are visible, and this one process uses the first: torchrun" in caplog.text
    one = SimpleNamespace(n_gpu=1)
    use_one_gpu(one)
    assert vars(one) == {"n_gpu": 1}


@pytest.mark.slow  # loads torch twice
def test_accelerate_itself(own_data):
    assert exit_code("prepare", "--config", own_data / "mine.yaml", "--output_dir", own_data / "accelerated") == 0
    assert exit_code("tokenize", "--config", own_data / "mine.yaml", "--output_dir", own_data / "accelerated") == 0
    launcher = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1"]
    options = ["--config", own_data / "mine.yaml", "--output_dir", own_data / "accelerated"]
    finished = subprocess.run(
        [sys.executable, *launcher, "-m", "hf_genrec.trainers.train", *options],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert finished.returncode != 0
    assert "asked for several processes and has started one" in finished.stderr
    assert not (own_data / "accelerated/model").exists()
