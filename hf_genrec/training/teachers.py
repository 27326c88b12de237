"""The key `teachers`: runs that a run learns from, by names which other keys call them by."""

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from hf_genrec.catalogue.json_files import naming, number, read_json
from hf_genrec.training.run_folder import RunFolder

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # a folder of its own, and no path

TEACHER_KEYS = {"teachers", "teachers_dir"}


def checked_teachers(teachers: Any) -> dict[str, str] | None:
    """
    What `teachers` says, from JSON where it is text.

    Raises:
        ValueError: if it is no mapping of names to lines.
    """
    if isinstance(teachers, str):
        try:
            teachers = json.loads(teachers)
        except ValueError:
            teachers = [teachers]  # what it is not, is said below
    if teachers is None or teachers == {}:
        return None
    example = 'give names and configurations with their options, for instance {"first": "some.yaml --seed 1"}'
    if not isinstance(teachers, dict):
        raise ValueError(f"teachers: no mapping: {example}")
    for name, line in teachers.items():
        if not isinstance(name, str) or NAME.fullmatch(name) is None:
            raise ValueError(f"teachers: the name {name!r}: use letters, digits, dots, dashes and underscores")
        if not isinstance(line, str) or not line.strip():
            raise ValueError(f"teachers: {name}: {line!r} names no configuration: {example}")
    return teachers


def name_teachers(arguments: Any, teachers: Mapping[str, str], folder: Path) -> None:
    """
    Put run folders where keys that name runs (`collaborative_run`, `soft_targets_run`, ...) call a teacher by name.

    Args:
        arguments: an object of one of the argument classes, changed in place.
        folder: of the teachers' runs.
    """
    for entry in fields(arguments):
        if entry.name.endswith("_run") and getattr(arguments, entry.name) in teachers:
            setattr(arguments, entry.name, str(folder / getattr(arguments, entry.name)))


def teachers_folder(run: RunFolder, teachers_dir: str | None) -> Path:
    """Where the runs of a run's teachers stand, by its key `teachers_dir`."""
    return run.teachers if teachers_dir is None else Path(teachers_dir)


def missing_teachers(teachers: Iterable[str], folder: Path) -> list[str]:
    """The names of teachers whose runs in `folder` hold no model."""
    return [name for name in teachers if not (RunFolder(folder / name).model / "config.json").is_file()]


def require_teachers(teachers: Iterable[str], folder: Path) -> None:
    """
    Raises:
        FileNotFoundError: if one is not trained.
    """
    for name in missing_teachers(teachers, folder):
        raise FileNotFoundError(f"{folder / name} holds no trained teacher: run `hf-genrec teachers` first")


def teacher_runs(run: RunFolder) -> dict[str, RunFolder]:
    """
    The runs that a trained model has learned from, as far as they are still there.

    Raises:
        ValueError: if the model's training_args.json is damaged.
    """
    path = run.model / "training_args.json"
    settings = read_json(path) if path.is_file() else {}
    with naming(path, "train again, or put it back"):
        teachers = checked_teachers(settings.get("teachers")) or {}
        folder = teachers_folder(run, settings.get("teachers_dir"))
    missing = missing_teachers(teachers, folder)
    return {name: RunFolder(folder / name) for name in teachers if name not in missing}


def teachers_cpu_seconds(teachers: Collection[str], folder: Path) -> dict[str, float]:
    """What the training of each teacher took, without that of others whose models it joins; 0 where it is not known."""
    found = {}
    places = {str(folder / name) for name in teachers}
    for name in teachers:
        path = folder / name / "results" / "training.json"
        record = read_json(path) if path.is_file() else {}
        with naming(path, "train the teacher again"):
            joined = {place: number(value) for place, value in record.get("members_cpu_seconds", {}).items()}
            counted = sum(value for place, value in joined.items() if place in places)
            found[name] = number(record.get("cpu_seconds", 0.0)) - counted
    return found
