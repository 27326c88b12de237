"""The state of a training in a checkpoint: its shape is checked before anything goes on from it."""

import math
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hf_genrec.catalogue.json_files import naming, number, read_json

KNOWN = {field.name for field in fields(TrainerState)}
COUNTS = ("global_step", "max_steps", "num_train_epochs")
MAYBE_COUNTS = ("best_global_step", "train_batch_size")
MAYBE_NUMBERS = ("logging_steps", "eval_steps", "save_steps", "num_input_tokens_seen", "total_flos")
TRUTHS = ("is_local_process_zero", "is_world_process_zero", "is_hyper_param_search")


def read_state(checkpoint: Path) -> dict[str, Any]:
    """
    The trainer_state.json of a checkpoint.

    Raises:
        ValueError: if it holds what no training writes; names the key.
        OSError: if there is no such file.
    """
    path, remedy = checkpoint / TRAINER_STATE_NAME, f"delete {checkpoint.parent} and train anew"
    state = read_json(path, remedy=remedy, finite=False)
    with naming(path, remedy):
        _check(state)
        step = re.fullmatch(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)", checkpoint.name)
        if step is not None and int(step[1]) != state["global_step"]:
            raise ValueError(f"global_step is {state['global_step']}, in {checkpoint.name}")
    return state


def _check(state: dict[str, Any]) -> None:
    for name in sorted(state.keys() - KNOWN):
        raise ValueError(f"it holds {name[:80]!r}, which is no part of a training's state")
    for name in COUNTS:
        _count(name, state[name])
    for name in MAYBE_COUNTS:
        if state[name] is not None:
            _count(name, state[name])
    if (state["best_global_step"] or 0) > state["global_step"]:
        raise ValueError(f"best_global_step is {state['best_global_step']}, after global_step")
    _finite("epoch", state["epoch"])
    if state["best_metric"] is not None:
        _finite("best_metric", state["best_metric"])
    for name in MAYBE_NUMBERS:
        if state.get(name) is not None:
            _finite(name, state[name])
    for name in TRUTHS:
        if not isinstance(state.get(name, True), bool):
            raise ValueError(f"{name} is neither true nor false")
    if not isinstance(state["best_model_checkpoint"], str | None):
        raise ValueError("best_model_checkpoint names no folder")
    if not isinstance(state["log_history"], list):
        raise ValueError("log_history is no list")
    for place, line in enumerate(state["log_history"]):
        if not isinstance(line, dict):
            raise ValueError(f"log_history[{place}] is no object")
        for name, value in line.items():
            if name in ("step", "epoch", "cpu_seconds") or name.startswith("eval_"):
                _finite(f"log_history[{place}].{name}", value)
    callbacks = state["stateful_callbacks"]
    if not isinstance(callbacks, dict):
        raise ValueError("stateful_callbacks is no object")
    for name, states in callbacks.items():
        for entry in states if isinstance(states, list) else [states]:
            if not isinstance(entry, dict) or not all(isinstance(entry.get(of), dict) for of in ("args", "attributes")):
                raise ValueError(f"stateful_callbacks.{name[:80]} is no state of a callback (args, attributes)")


def _count(name: str, value: Any) -> None:
    if type(value) is not int or value < 0:
        raise ValueError(f"{name} is {str(value)[:80]!r}, no count")


def _finite(name: str, value: Any) -> None:
    try:
        is_finite = math.isfinite(number(value))
    except (ValueError, OverflowError):
        is_finite = False
    if not is_finite:
        raise ValueError(f"{name} is {str(value)[:80]!r}, no number")
