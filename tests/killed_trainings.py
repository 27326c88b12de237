"""
A training that is ended by SIGKILL behind its first checkpoint. It runs in a process of its own, which begins as a copy
of one that has imported what trains and done nothing else: a new one would take longer to import it than to train.
"""

import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import torch
from conftest import exit_code
from safetensors.torch import load_file
from transformers import TrainerCallback

from hf_genrec.trainers import train
from hf_genrec.training.checkpoints import fault_of
from hf_genrec.training.config import parse_config

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["hf_genrec.trainers.train", "hf_genrec.training.trainer"])


class KilledBehindACheckpoint(TrainerCallback):
    """Ends its process in the step after a checkpoint."""

    saved = False

    def on_save(self, args, state, control, **kwargs):
        self.saved = True

    def on_step_begin(self, args, state, control, **kwargs):
        if self.saved:
            os.kill(os.getpid(), signal.SIGKILL)


def check_a_killed_training(config: Path, whole: Path, killed: Path) -> None:
    """One in the run folder `killed` is resumed: its weights are those of the run `whole`, which was let be."""
    killed.mkdir()
    for part in ("data", "semantic_ids"):
        if (whole / part).is_dir():
            shutil.copytree(whole / part, killed / part)
    parsed = parse_config(str(config), ["--output_dir", str(killed), "--disable_tqdm", "true"])
    process = PROCESSES.Process(target=train.main, args=(parsed, [KilledBehindACheckpoint()]))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    (checkpoint,) = (killed / "checkpoints").glob("checkpoint-*")
    assert fault_of(checkpoint) is None
    assert not (killed / "model").exists()

    options = ["--output_dir", killed, "--resume_from_checkpoint", "last"]
    assert exit_code("train", "--config", config, *options) == 0
    record = json.loads((killed / "results/training.json").read_text())
    assert record["resumed_from"] is not None
    last = f"checkpoints/checkpoint-{record['steps']}/model.safetensors"
    resumed, expected = load_file(killed / last), load_file(whole / last)
    assert resumed.keys() == expected.keys()
    for name in expected:
        assert torch.equal(resumed[name], expected[name]), name
