"""
Two processes on one machine train what one process trains: each method, with each loss that looks at the whole batch.

A pair of processes trains all runs, one after the other.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from several_runs import LAUNCHERS, POST_TRAINED, RUNS, gaps, prepare_all, pretrain, train_all

pytestmark = [pytest.mark.slow, pytest.mark.libraries]


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    configs = prepare_all(tmp_path_factory.mktemp("several"))
    pretrain(configs)
    return configs


@pytest.fixture(scope="module")
def alone(configs, tmp_path_factory):
    return train_all("alone", configs, tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="module")
def together(configs, tmp_path_factory):
    return train_all("DDP", configs, tmp_path_factory.mktemp("together"))


@pytest.mark.parametrize("name", [*RUNS, *POST_TRAINED])
def test_two_processes_train_what_one_trains(alone, together, name):
    assert (alone[name][0]["processes"], together[name][0]["processes"]) == (1, 2)
    assert alone[name][0]["steps"] >= 5
    found = gaps(alone[name], together[name])
    assert found["loss"] < 1e-4
    assert found["weight"] < 1e-4
    assert found["evaluation"] < 1e-9  # every user once


def test_sharded_by_torch(configs, tmp_path):
    """FSDP2 without accelerate, which does not shard on processors: losses of two processes, and the whole model."""
    program = Path(__file__).with_name("train_sharded.py")
    lines = []
    for launcher in (LAUNCHERS["alone"], LAUNCHERS["DDP"]):
        finished = subprocess.run(
            [sys.executable, *launcher, program, *map(str, configs.values())],
            capture_output=True,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        assert finished.returncode == 0, finished.stderr[-5000:]
        lines.append([line for line in finished.stdout.splitlines() if line.startswith("sharded")])
    assert len(lines[0]) == len(configs) - 1
    for alone, together in zip(*lines, strict=True):
        for ours, theirs in zip(alone.split()[2:], together.split()[2:], strict=True):
            assert float(theirs) == pytest.approx(float(ours), rel=1e-4), (alone, together)
