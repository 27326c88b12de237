"""What the programs on a trained ReaRec run begin with: its model and data, and what a record of it says."""

import json
import platform
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hf_genrec.data.prepared import PreparedData
from hf_genrec.evaluation.report import _version
from hf_genrec.hub import METHOD_NAMES, load_model
from hf_genrec.models.modeling_rearec import ReaRecForNextItem
from hf_genrec.training.config import RunFolder


def open_reasoning_run(run_folder: str) -> tuple[RunFolder, ReaRecForNextItem, PreparedData]:
    """
    The run, its model and its prepared data.

    Raises:
        FileNotFoundError: if there is no trained model.
        ValueError: for a model of another method or without reasoning, or of another catalogue than the data.
    """
    run = RunFolder(Path(run_folder))
    model = load_model(run.require_model())
    if not isinstance(model, ReaRecForNextItem):
        method = METHOD_NAMES[model.config.model_type]
        raise ValueError(f"{run.model} is a {method} model: reasoning steps are analysed of ReaRec runs only")
    if not model.config.steps:
        raise ValueError(f"{run.model} takes no reasoning steps (reasoning: none), so there is nothing to analyse")
    prepared = PreparedData.load(run.data)
    if model.processor.item_ids != prepared.item_ids:
        raise ValueError(f"{run.model} was trained on another catalogue than {run.data} holds: prepare and train again")
    return run, model, prepared


def record_header(model_folder: Path, prepared: PreparedData) -> dict[str, Any]:
    """Data set, seed of the model's training, order of ties, command, date and versions."""
    settings = prepared.report["settings"]
    training = json.loads((model_folder / "training_args.json").read_text(encoding="utf-8"))
    return {
        "data_set": settings["source_path"] or settings["source"],
        "seed": training["seed"],
        "tie_order": settings["tie_order"]
        if settings["tie_order"] == "file"
        else f"shuffle, seed {settings['tie_seed']}",
        "seen_items_removed": False,
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version()}
        | {package: _version(package) for package in ("torch", "transformers", "hf_genrec")},
    }
