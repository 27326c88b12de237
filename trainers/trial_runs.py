"""Runs of one configuration with some settings varied, a folder each, compared on the validation split."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from hf_genrec.catalogue.json_files import naming, number, read_json
from hf_genrec.data.prepared import REPORT_FILE, PreparedData
from hf_genrec.files import copy_folder, restore_folder
from hf_genrec.method import load_method
from hf_genrec.semantic_ids.ids import read_table
from hf_genrec.trainers import evaluate_run, prepare_data, tokenize_items, train, train_teachers
from hf_genrec.training.config import RunConfig, parse_config
from hf_genrec.training.lineage import require_prepared
from hf_genrec.training.teachers import missing_teachers

SETTINGS_FILE = "settings.json"
SPLIT = "validation"
FIGURES = ("ndcg@10", "recall@10")


def varied(
    base: RunConfig, config: str | None, overrides: Sequence[str], folder: Path, values: dict[str, str]
) -> RunConfig:
    """
    The configuration of a run in `folder`, which goes on where it was interrupted.

    Args:
        base: that of all runs, `config` with `overrides`, whose teachers they have in common.
        values: as they would be written behind `--<key>`; those of a list with spaces between.

    Raises:
        ValueError: as [`parse_config`].
    """
    own = ["--output_dir", str(folder), "--resume_from_checkpoint", "last"]
    if base.training.teachers:
        own += ["--teachers_dir", str(base.teachers_dir)]
    for key, value in values.items():
        own += [f"--{key}", *value.split(" ")]
    return parse_config(config, [*overrides, *own])


def prepare_once(base: RunConfig, tokenize: bool = True) -> tuple[PreparedData, str | None]:
    """
    The data, and the fingerprint of the semantic IDs, that the runs have in common; made where they are not there.

    Args:
        tokenize: whether they have semantic IDs in common, if the method has any.

    Raises:
        ValueError: if the data were made with other settings, or have nothing to validate on.
    """
    restore_folder(base.run.data)
    if not (base.run.data / REPORT_FILE).is_file():
        prepare_data.main(base)
    if missing_teachers(base.training.teachers or {}, base.teachers_dir):
        train_teachers.main(base)
    restore_folder(base.run.semantic_ids)
    tokenize = tokenize and load_method(base.model.method).codes is not None
    if tokenize and not base.run.semantic_ids.is_dir():
        tokenize_items.main(base)
    prepared = PreparedData.load(base.run.data)
    prepared.split(SPLIT)  # or no run could be compared
    require_prepared(base)
    return prepared, read_table(base.run.semantic_ids)["fingerprint"] if tokenize else None


def settings_of(run: RunConfig, prepared: PreparedData, codes: str | None) -> dict[str, Any]:
    """What a run is made with, to tell whether one that is there is the one asked for."""
    return {
        "prepared": prepared.report,
        "semantic_ids": codes,
        "max_history": run.data.max_history,
        "text": asdict(run.tokenizer),
        "model": asdict(run.model),
        "training": run.training.to_dict(),
    }


def check_settings(path: Path, settings: dict[str, Any]) -> None:
    """
    Raises:
        ValueError: if the file at `path` says others; names what differs.
    """
    if not path.is_file():
        return
    found = read_json(path, remedy=f"delete {path.parent}, or use another output_dir")
    wanted = json.loads(json.dumps(settings))
    for group in wanted:
        if found.get(group) != wanted[group]:
            differ = wanted[group]
            if isinstance(differ, dict):
                others = found.get(group)
                others = others if isinstance(others, dict) else {}
                names = [*differ, *(name for name in others if name not in differ)]
                differ = ", ".join(name for name in names if differ.get(name) != others.get(name))
            raise ValueError(
                f"{path.parent} was made with other settings ({group}: {differ}): delete it, or use another output_dir"
            )


def own_codes(base: RunConfig, keys: Iterable[str]) -> bool:
    """Whether runs that differ in these keys have semantic IDs of their own."""
    of_codes = {field.name for field in fields(base.tokenizer)} if load_method(base.model.method).codes else set()
    return not of_codes.isdisjoint(keys)


def share(base: RunConfig, run: RunConfig, tokenize: bool = False) -> None:
    """
    Give a run the data of the base, and its semantic IDs, if there are any.

    Args:
        tokenize: make the run its own semantic IDs instead, where it has none yet.
    """
    for part in ("data",) if tokenize else ("data", "semantic_ids"):
        copy_folder(base.run.path / part, run.run.path / part)
    restore_folder(run.run.semantic_ids)
    if tokenize and not run.run.semantic_ids.is_dir():
        tokenize_items.main(run)


def is_finished(folder: Path, split: str = SPLIT) -> bool:
    """Whether a run is trained and evaluated."""
    return (folder / "results" / f"{split}.json").is_file()


def train_and_evaluate(run: RunConfig, callbacks: Sequence[Any] = (), split: str = SPLIT) -> None:
    """Train a run that has its data, and evaluate it."""
    folder = run.run.path  # the training moves `output_dir` to its checkpoints
    train.main(run, callbacks)
    evaluate_run.main(str(folder), split)


def measured(record: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """A system's `FIGURES` with their intervals, of what `evaluate` has written."""
    metrics = record["metrics"]
    return {name: {bound: number(metrics[name][bound]) for bound in ("value", "low", "high")} for name in FIGURES}


def figures(folder: Path, remedy: str) -> dict[str, Any]:
    """
    A finished run's figures on the validation split, and what its training took.

    Args:
        remedy: what to do if a file is damaged.
    """
    line: dict[str, Any] = {"run": str(folder)}
    path = folder / "results" / f"{SPLIT}.json"
    with naming(path, remedy):
        line |= measured(next(iter(read_json(path, remedy=remedy).values())))  # the model; the baselines follow
    path = folder / "results" / "training.json"
    with naming(path, remedy):
        training = read_json(path, remedy=remedy)
        line |= {name: number(training[name]) for name in ("epochs", "cpu_seconds")}
        line["best_step"] = training["best_step"]
    return line


def cells(line: dict[str, Any]) -> list[str]:
    """The figures of a finished run for a table: NDCG@10, Recall@10, with intervals, epochs, CPU minutes."""
    row = []
    for name in FIGURES:
        row += [f"{line[name]['value']:.4f}", f"{line[name]['low']:.4f}-{line[name]['high']:.4f}"]
    return [*row, f"{line['epochs']:.0f}", f"{line['cpu_seconds'] / 60:.1f}"]


TITLES = ["NDCG@10", "95 %", "Recall@10", "95 %", "epochs", "CPU minutes"]
