"""A run per window of time: trained on what was before it, tested on what happened in it.

hf-genrec folds --config NAME --num-folds 4 --fold-days 7

The windows are of equal length, one behind the other, and the last one ends with the log. Each fold is an ordinary run
in `<output_dir>/folds/<number>`, prepared with split global_time: the window before its test window validates, and what
comes after is left out. Folds that were finished are kept.
"""

import logging
from collections.abc import Sequence
from typing import Any

import pyarrow.compute as pc

from hf_genrec.catalogue.json_files import naming, read_json
from hf_genrec.data.dates import shown_date
from hf_genrec.data.prepared import PreparedData
from hf_genrec.dataset_scripts import load_source
from hf_genrec.evaluation.report import markdown_table, record_header
from hf_genrec.files import require_writable, write_json
from hf_genrec.trainers.trial_runs import (
    FIGURES,
    SETTINGS_FILE,
    check_settings,
    is_finished,
    measured,
    prepare_once,
    settings_of,
    train_and_evaluate,
)
from hf_genrec.training.config import RunConfig, parse_config

logger = logging.getLogger(__name__)

DAY_MS = 24 * 3600 * 1000
SPLIT = "test"


def windows(last_ms: int, num_folds: int, fold_days: float) -> list[tuple[int, int]]:
    """
    Start (inclusive) and end (exclusive) of each test window in milliseconds, the earliest first.

    Example: `windows(last, 2, 7)` are the second-last and the last seven days up to `last`, which is in the last one.
    """
    length = round(fold_days * DAY_MS)
    if num_folds < 1 or length < 1:
        raise ValueError(f"--num-folds {num_folds} --fold-days {fold_days}: give at least one fold, and days above 0")
    ends = [last_ms + 1 - length * later for later in reversed(range(num_folds))]
    return [(end - length, end) for end in ends]


def main(config: str | None, num_folds: int, fold_days: float, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """
    Make the folds that are not yet there; write `results/folds.json`; return the record.

    Raises:
        ValueError: for a log without times, a window without interactions to train on or test on, or a fold that was
            made with other settings.
    """
    base = parse_config(config, [*overrides, *_times(1, 2, 3)])
    require_writable(base.run.path, base.run.results)
    last = pc.max(load_source(base.data)["interactions"].data.column("timestamp")).as_py()
    if last is None:
        raise ValueError(f"{base.data.source_path}: the log has no times, and folds are windows of time")
    lines, header = [], {}
    for place, (start, end) in enumerate(windows(last, num_folds, fold_days), start=1):
        logger.info("fold %d of %d: tested on %s to %s", place, num_folds, shown_date(start), shown_date(end))
        own = ["--output_dir", str(base.run.path / "folds" / str(place)), "--resume_from_checkpoint", "last"]
        run = parse_config(config, [*overrides, *_times(2 * start - end, start, end), *own])
        folder = run.run
        prepared = _make(run)
        path = folder.results / f"{SPLIT}.json"
        with naming(path, f"delete {folder.path}, and run folds again"):
            records = read_json(path)
            users = next(iter(records.values()))["num_users"]
            figures = {name: measured(record) for name, record in records.items()}
        lines.append(
            {"fold": place, "from": shown_date(start), "to": shown_date(end), "users": users, "systems": figures}
        )
        header = record_header(folder.model, prepared)
    names = list(lines[0]["systems"])
    mean = {
        name: {metric: sum(line["systems"][name][metric]["value"] for line in lines) / len(lines) for metric in FIGURES}
        for name in names
    }
    record = header | {"split": SPLIT, "num_folds": num_folds, "fold_days": fold_days, "mean": mean, "folds": lines}
    path = base.run.results / "folds.json"
    write_json(record, path)
    logger.info("%s\n\nall figures in %s", render(record), path)
    return record


def _times(validation: int, test: int, end: int) -> list[str]:
    words = ["--split", "global_time"]
    for name, milliseconds in (("validation_time", validation), ("test_time", test), ("end_time", end)):
        words.append(f"--{name}={milliseconds}")
    return words


def _make(run: RunConfig) -> PreparedData:
    """A fold from the log to its figures, as far as it is not there."""
    folder = run.run.path
    prepared, codes = prepare_once(run)
    prepared.split(SPLIT)  # or the fold says nothing
    settings = settings_of(run, prepared, codes)
    check_settings(folder / SETTINGS_FILE, settings)
    write_json(settings, folder / SETTINGS_FILE)
    if not is_finished(folder, SPLIT):
        train_and_evaluate(run, split=SPLIT)
    return prepared


def render(record: dict[str, Any]) -> str:
    """A table with a row per fold and their mean; NDCG@10 of every system, the model with its interval."""
    names = list(record["mean"])
    rows = [["fold", "from", "users", names[0], "95 %", *names[1:]]]
    for line in record["folds"]:
        values = [line["systems"][name]["ndcg@10"] for name in names]
        interval = f"{values[0]['low']:.4f}-{values[0]['high']:.4f}"
        cells = [f"{value['value']:.4f}" for value in values]
        rows.append([str(line["fold"]), line["from"][:10], str(line["users"]), cells[0], interval, *cells[1:]])
    mean = [f"{record['mean'][name]['ndcg@10']:.4f}" for name in names]
    rows.append(["mean", "", "", mean[0], "", *mean[1:]])
    return f"NDCG@10 on the {record['split']} windows of {record['fold_days']:g} days\n\n{markdown_table(rows)}"
