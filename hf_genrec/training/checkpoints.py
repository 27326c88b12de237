"""Which checkpoint a training goes on from."""

import logging
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hf_genrec.catalogue.json_files import read_json
from hf_genrec.files import fingerprint, spelled_out, write_json
from hf_genrec.training.lineage import read_lineage, require_same_lineage, trained_by
from hf_genrec.training.processes import by_main_process
from hf_genrec.training.trainer_state import read_state

logger = logging.getLogger(__name__)

COMPLETE_FILE = "complete.json"
OPENED = {".bin", ".pt", ".pth", ".safetensors", ".json"}  # of what a resumed training reads, also by unpickling


def checkpoint_to_resume(folder: Path, resume: str | None, lineage: Mapping[str, Any]) -> str | None:
    """
    The checkpoint to go on from, or `None` to start.

    Args:
        folder: the run's `checkpoints/`.
        resume: `None` to start anew, `"last"` for the newest complete checkpoint (a start, where there is none), or a
            path. Incomplete checkpoints, left by a killed process, are removed, by the first of several processes.
        lineage: what the training is made from, see `hf_genrec.training.lineage`.

    Raises:
        ValueError: if checkpoints of an earlier training stand where a new one would write, what stands there is no
            checkpoint, the checkpoint was made from something else, or the best one so far is missing.
        FileNotFoundError: if the checkpoint named is not a complete one.
    """
    return by_main_process(lambda: _checkpoint_to_resume(folder, resume, lineage))


def _checkpoint_to_resume(folder: Path, resume: str | None, lineage: Mapping[str, Any]) -> str | None:
    steps = {path: re.fullmatch(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)", path.name) for path in folder.glob("*")}
    for path, number in steps.items():
        if path.name.startswith(f"{PREFIX_CHECKPOINT_DIR}-") and number is None:
            # Trainer would take it for an old one of its own, and delete it.
            raise ValueError(f"{path} is no checkpoint of a training, but is named like one: move it elsewhere")
    numbered = {path: int(number[1]) for path, number in steps.items() if number is not None}
    if resume is None:
        if numbered:
            found = read_lineage(max(numbered, key=lambda path: numbered[path]))
            same = found is not None and found["made_from"] == lineage["made_from"]
            remedy = "go on with --resume_from_checkpoint last, or delete it" if same else "on other data: delete it"
            if found is not None and trained_by(found) != trained_by(lineage):
                raise ValueError(
                    f"{folder} holds checkpoints of {trained_by(found)}, and this is {trained_by(lineage)}: use "
                    f"another output_dir, or delete {folder}"
                )
            raise ValueError(f"{folder} holds checkpoints of an earlier training{': ' if same else ' '}{remedy}")
        return None
    if resume != "last":
        fault = fault_of(Path(resume))
        if fault is not None:
            raise FileNotFoundError(f"{resume} is no complete checkpoint ({fault}): name one of {folder}, or 'last'")
        return _checked(Path(resume), lineage)
    for checkpoint in sorted(numbered, key=lambda path: numbered[path], reverse=True):
        fault = fault_of(checkpoint)
        if fault is None:
            return _checked(checkpoint, lineage)
        logger.warning("%s is incomplete or damaged (%s) and is removed", checkpoint, fault)
        shutil.rmtree(checkpoint, ignore_errors=True)
    return None


def mark_complete(checkpoint: Path) -> None:
    """Write down what the files of a checkpoint are known by, when all of them are there."""
    files = _files_of(checkpoint)
    write_json({name: fingerprint([files[name]]) for name in sorted(files)}, checkpoint / COMPLETE_FILE)


def fault_of(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint; `None` if it was saved to the end and nothing in it has changed since."""
    if not checkpoint.is_dir():
        return "there is no such folder"
    if not (checkpoint / TRAINER_STATE_NAME).is_file():
        return f"{TRAINER_STATE_NAME} is missing"
    if read_lineage(checkpoint) is None:
        return None  # of an earlier version: refused, and not removed
    try:
        known = read_json(checkpoint / COMPLETE_FILE)
        there = _files_of(checkpoint)
        for name in sorted(known.keys() | there.keys()):
            if name not in there:
                return f"{name} is missing"
            if name not in known:
                if there[name].suffix in OPENED:
                    return f"{name} was put there later"
                continue  # somebody's notes
            if fingerprint([there[name]]) != known[name]:
                return f"{name} is not as it was saved"
    except (OSError, ValueError) as error:
        return " ".join(str(error).split())
    return None


def _files_of(checkpoint: Path) -> dict[str, Path]:
    """The files of a checkpoint by their names in it, hidden ones left out."""
    files = (path for path in checkpoint.rglob("*") if path.is_file() and path.name != COMPLETE_FILE)
    return {path.relative_to(checkpoint).as_posix(): path for path in files if path.name[0] != "."}


def _checked(checkpoint: Path, lineage: Mapping[str, Any]) -> str:
    """The checkpoint, whose best predecessor its state names by where it stands now."""
    require_same_lineage(checkpoint, lineage)
    state = read_state(checkpoint)
    if state["best_model_checkpoint"] is not None:
        # As it was written, from another working directory perhaps, or before the run was moved.
        best = checkpoint.parent / Path(state["best_model_checkpoint"]).name
        fault = fault_of(best)
        if fault is not None:
            raise ValueError(
                f"{best}, the best of the checkpoints so far, is missing or damaged ({fault}): put it back, or delete "
                f"{checkpoint.parent} and train anew"
            )
        state["best_model_checkpoint"] = str(best)
        write_json(spelled_out(state), checkpoint / TRAINER_STATE_NAME)
        mark_complete(checkpoint)
    return str(checkpoint)
