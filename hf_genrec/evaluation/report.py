"""An evaluation as one JSON record, and several as a table."""

import math
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hf_genrec.catalogue.json_files import naming, number, read_json
from hf_genrec.data.prepared import PreparedData
from hf_genrec.evaluation.evaluator import EvaluationResult

METRIC_TITLES = {"recall": "Recall", "ndcg": "NDCG"}
POPULARITY_TITLES = {
    "novelty": "Novelty",
    "serendipity": "Serendipity",
    "debiased_recall": "Debiased Recall",
    "debiased_ndcg": "Debiased NDCG",
}
CATALOGUE_TITLES = {
    "mrr": "MRR",
    "div_ratio": "DivRatio",
    "or_ratio": "ORRatio",
    "coverage": "Coverage",
    "gini": "Gini",
}


def result_record(
    result: EvaluationResult,
    *,
    system: str,
    data_set: str,
    seed: int | None,
    tie_order: str,
    command: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Everything needed to read and repeat a result, as plain JSON values (nan becomes null).

    `tie_order` says how equal timestamps of a user were ordered ("file", or "shuffle" with its seed). `command` is the
    command line as a list of words; by default that of this process. Per-user values are left out.
    """
    metrics: dict[str, dict[str, float | None]] = {}
    for name, value in result.metrics.items():
        metrics[name] = {"value": _number(value)}
        if name in result.intervals:
            low, high = result.intervals[name]
            metrics[name] |= {"low": _number(low), "high": _number(high)}
    bias = None if result.token_bias is None else [[_number(value) for value in row] for row in result.token_bias]
    return {
        "system": system,
        "data_set": data_set,
        "split": result.split,
        "num_users": result.num_users,
        "num_items": result.num_items,
        "tie_order": tie_order,
        "seen_items_removed": result.exclude_seen,
        "seed": seed,
        "metrics": metrics,
        "interval": "95 % percentile bootstrap over users",
        "token_bias_amplification": bias,
        "cost": {
            "seconds": _number(result.seconds),
            "cpu_seconds": _number(result.cpu_seconds),
            "users_per_second": _number(result.users_per_second),
        },
        **_made_by(command),
        "machine": {"cpu_count": os.cpu_count(), "platform": platform.platform()},
    }


def record_header(model_folder: Path, prepared: PreparedData) -> dict[str, Any]:
    """Of a measurement of a trained model: data set, seed of its training, order of ties, command, date, versions."""
    return {
        "data_set": data_set(prepared),
        "seed": training_seed(model_folder),
        "tie_order": tie_order(prepared),
        "seen_items_removed": False,
        **_made_by(),
    }


def training_seed(model_folder: Path) -> int:
    """
    The seed that a model was trained with.

    Raises:
        FileNotFoundError, ValueError: if its training_args.json is missing or does not say.
    """
    path = model_folder / "training_args.json"
    with naming(path, "train again, or put it back"):
        seed = read_json(path)["seed"]
        if not isinstance(seed, int) or isinstance(seed, bool):
            raise ValueError(f"seed {seed!r} is no whole number"[:100])
    return seed


def training_cost(path: Path) -> dict[str, float | None]:
    """
    `cpu_seconds` (those of its teachers with it) and `epochs` of the record of a training, `None` where it does not say
    or there is none.

    Raises:
        DamagedFile: if it is no such record.
    """
    if not path.exists():
        return {"cpu_seconds": None, "epochs": None}
    remedy = "train again, or delete it"
    with naming(path, remedy):
        record = read_json(path, remedy=remedy)
        found = {name: record.get(name) for name in ("cpu_seconds", "epochs")}
        found = {name: None if value is None else number(value) for name, value in found.items()}
        if found["cpu_seconds"] is not None:
            found["cpu_seconds"] += sum(map(number, record.get("teachers_cpu_seconds", {}).values()))
        return found


def data_set(prepared: PreparedData) -> str:
    """Where the data came from."""
    settings = prepared.settings("source", "source_path")
    return settings["source_path"] or settings["source"]


def tie_order(prepared: PreparedData) -> str:
    """How equal timestamps of a user were ordered."""
    settings = prepared.settings("tie_order", "tie_seed")
    return settings["tie_order"] if settings["tie_order"] == "file" else f"shuffle, seed {settings['tie_seed']}"


def _made_by(command: Sequence[str] | None = None) -> dict[str, Any]:
    packages = ("torch", "transformers", "hf_genrec")
    return {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]] if command is None else command),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version()} | {package: _version(package) for package in packages},
    }


def render_table(results: Mapping[str, EvaluationResult]) -> str:
    """Markdown tables, readable in a terminal of 100 columns: accuracy, diversity and speed, popularity where measured.

    `results` maps the name of a system to its result on the same split, the system of interest first: the row below it
    holds its 95 % intervals.
    """
    if not results:
        raise ValueError("no results to show; give at least one system")
    first = next(iter(results.values()))
    for name, result in results.items():
        setting = (result.split, result.num_users, result.ks, result.exclude_seen)
        if setting != (first.split, first.num_users, first.ks, first.exclude_seen):
            raise ValueError(f"{name!r} was evaluated on another split, users, ks or seen items; tables need the same")

    keys = {f"{metric}@{k}": f"{title}@{k}" for metric, title in METRIC_TITLES.items() for k in first.ks}
    accuracy = [["", *keys.values()]]
    for name, result in results.items():
        accuracy.append([name, *(f"{result.metrics[key]:.4f}" for key in keys)])
        if result is first:
            accuracy.append(["95 % interval", *(_interval(result.intervals[key]) for key in keys)])

    k = first.table_k
    catalogue = [["", *(f"{title}@{k}" for title in CATALOGUE_TITLES.values()), "Invalid", "Users/s"]]
    for name, result in results.items():
        values = [f"{result.metrics[f'{metric}@{k}']:.4f}" for metric in CATALOGUE_TITLES]
        catalogue.append([name, *values, f"{result.metrics['invalid_share']:.2g}", f"{result.users_per_second:,.0f}"])

    seen = "removed" if first.exclude_seen else "not removed"
    caption = f"{first.split} split, {first.num_users:,} users, {first.num_items:,} items, seen items {seen}"
    tables = [accuracy, catalogue]
    if all(f"novelty@{k}" in result.metrics for result in results.values()):
        popularity = [["", *(f"{title}@{k}" for title in POPULARITY_TITLES.values())]]
        for name, result in results.items():
            popularity.append([name, *(f"{result.metrics[f'{metric}@{k}']:.4f}" for metric in POPULARITY_TITLES)])
        tables.append(popularity)
    return "\n\n".join([caption, *map(markdown_table, tables)])


def markdown_table(rows: list[list[str]]) -> str:
    """The first row is the header; the first column is set left, the others right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append(f"| {' | '.join(cells)} |")
    lines.insert(1, "|".join(["", "-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:]), ""]))
    return "\n".join(lines)


def _interval(bounds: tuple[float, float]) -> str:
    """Three decimals without the leading zero, to fit six of them into a line: ".090-.127"."""
    return "-".join(f"{bound:.3f}".removeprefix("0") for bound in bounds)


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
