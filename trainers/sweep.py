"""A run per value of one setting, compared on the validation split.

hf-genrec sweep --config NAME --key learning_rate --values 0.001,0.002,0.004

The data are prepared (and tokenized) once, in the configuration's `output_dir`; the runs stand beside it, as
`<output_dir>-<key>-<value>`.
A sweep that was interrupted goes on where it stood, and more values may be added. The test split is not read.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from hf_genrec.catalogue.json_files import naming, number, read_json
from hf_genrec.data.prepared import REPORT_FILE, PreparedData
from hf_genrec.evaluation.report import markdown_table, record_header
from hf_genrec.files import copy_folder, require_writable, restore_folder, whole_file, write_json
from hf_genrec.method import load_method
from hf_genrec.semantic_ids.ids import read_table
from hf_genrec.trainers import evaluate_run, prepare_data, tokenize_items, train
from hf_genrec.training.config import RunConfig, parse_config
from hf_genrec.training.lineage import require_prepared

logger = logging.getLogger(__name__)

SETTINGS_FILE = "settings.json"
SPLIT = "validation"
PARTS = ("data", "semantic_ids")


def main(config: str | None, key: str, values: Sequence[str], overrides: Sequence[str] = ()) -> dict[str, Any]:
    """
    Train and evaluate what is not yet there; write `results/sweep-<key>.json` and `.png`; return the record.

    Args:
        config: path or shipped name, as for `hf-genrec train`.
        key: an option of the model or of its training.
        values: as they would be written behind `--<key>`.
        overrides: further options for all runs.

    Raises:
        ValueError: for a key that a sweep cannot vary, a value that is refused, or a run that was made with other
            settings.
    """
    base = parse_config(config, list(overrides))
    swept = {field.name for arguments in (base.model, base.training) for field in fields(arguments)}
    if key not in swept - {"method", "output_dir", "resume_from_checkpoint"}:
        raise ValueError(f"--key {key}: name an option of the model or of its training, such as learning_rate")
    if not values or len(set(values)) < len(values):
        raise ValueError(f"--values {','.join(values)}: give different values, separated by commas")
    runs = {value: _configuration(config, key, value, overrides, base) for value in values}
    require_writable(base.run.path, base.run.results, *(run.run.path for run in runs.values()))
    restore_folder(base.run.data)
    if not (base.run.data / REPORT_FILE).is_file():
        prepare_data.main(base)
    restore_folder(base.run.semantic_ids)
    if load_method(base.model.method).codes and not base.run.semantic_ids.is_dir():
        tokenize_items.main(base)
    prepared = PreparedData.load(base.run.data)
    prepared.split(SPLIT)  # or no run could be compared
    require_prepared(base)
    codes = read_table(base.run.semantic_ids)["fingerprint"] if load_method(base.model.method).codes else None
    settings = {value: _settings(run, prepared, codes) for value, run in runs.items()}
    for value, run in runs.items():
        _check_settings(run.run.path / SETTINGS_FILE, settings[value])
    for value, run in runs.items():
        write_json(settings[value], run.run.path / SETTINGS_FILE)
        for part in PARTS:
            copy_folder(base.run.path / part, run.run.path / part)
        if (run.run.results / f"{SPLIT}.json").is_file():
            logger.info("%s is finished", run.run.path)
            continue
        logger.info("%s: %s = %s", run.run.path, key, value)
        folder = run.run.path  # the training moves `output_dir` to its checkpoints
        train.main(run)
        evaluate_run.main(str(folder), SPLIT)

    lines = [_line(value, Path(f"{base.run.path}-{key}-{value}")) for value in values]
    best = max(lines, key=lambda line: line["ndcg@10"]["value"])
    record = record_header(Path(best["run"]) / "model", prepared) | {
        "split": SPLIT,
        "key": key,
        "best": best["value"],
        "values": lines,
    }
    path = base.run.results / f"sweep-{key}.json"
    write_json(record, path)
    draw(record, path.with_suffix(".png"))
    logger.info("%s\n\nall figures in %s", render(record), path)
    return record


def _configuration(config: str | None, key: str, value: str, overrides: Sequence[str], base: RunConfig) -> RunConfig:
    own = ["--output_dir", f"{base.run.path}-{key}-{value}", "--resume_from_checkpoint", "last"]
    return parse_config(config, [*overrides, *own, f"--{key}", value])


def _settings(run: RunConfig, prepared: PreparedData, codes: str | None) -> dict[str, Any]:
    """What a run is made with, to tell whether one that is there is the one asked for."""
    return {
        "prepared": prepared.report,
        "semantic_ids": codes,
        "max_history": run.data.max_history,
        "text": asdict(run.tokenizer),
        "model": asdict(run.model),
        "training": run.training.to_dict(),
    }


def _check_settings(path: Path, settings: dict[str, Any]) -> None:
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
                differ = ", ".join(name for name in differ if differ[name] != others.get(name))
            raise ValueError(
                f"{path.parent} was made with other settings ({group}: {differ}): delete it, or use another output_dir"
            )


def _line(value: str, folder: Path) -> dict[str, Any]:
    """A finished run's figures on the validation split, and what its training took."""
    line: dict[str, Any] = {"value": value, "run": str(folder)}
    path, remedy = folder / "results" / f"{SPLIT}.json", f"delete {folder}, and sweep again"
    with naming(path, remedy):
        metrics = next(iter(read_json(path, remedy=remedy).values()))["metrics"]  # the model's; the baselines follow
        for name in ("ndcg@10", "recall@10"):
            line[name] = {bound: number(metrics[name][bound]) for bound in ("value", "low", "high")}
    path = folder / "results" / "training.json"
    with naming(path, remedy):
        training = read_json(path, remedy=remedy)
        line |= {name: number(training[name]) for name in ("epochs", "cpu_seconds")}
        line["best_step"] = training["best_step"]
    return line


def render(record: dict[str, Any]) -> str:
    """A table with a row per value."""
    rows = [[record["key"], "NDCG@10", "95 %", "Recall@10", "95 %", "epochs", "CPU minutes", ""]]
    for line in record["values"]:
        cells = [line["value"]]
        for name in ("ndcg@10", "recall@10"):
            metric = line[name]
            cells += [f"{metric['value']:.4f}", f"{metric['low']:.4f}-{metric['high']:.4f}"]
        best = "best" if line["value"] == record["best"] else ""
        rows.append([*cells, f"{line['epochs']:.0f}", f"{line['cpu_seconds'] / 60:.1f}", best])
    return f"{record['split']} split\n\n{markdown_table(rows)}"


def draw(record: dict[str, Any], path: Path) -> None:
    """A PNG: NDCG@10 and Recall@10 by value, with their intervals."""
    from matplotlib.figure import Figure  # a Figure of one's own draws with Agg and touches no global state

    figure = Figure(figsize=(9.6, 3.6), layout="constrained")
    figure.suptitle(f"{record['key']}, {record['split']} split", fontsize=12)
    names = [line["value"] for line in record["values"]]
    try:
        places = [float(name) for name in names]
    except ValueError:
        places = list(map(float, range(len(names))))
    spread = min(places) > 0 and max(places) / min(places) >= 8
    for axis, name, title, color in zip(
        figure.subplots(1, 2),
        ("ndcg@10", "recall@10"),
        ("NDCG@10", "Recall@10"),
        ("tab:blue", "tab:orange"),
        strict=True,
    ):
        points = sorted(zip(places, [line[name] for line in record["values"]], strict=True), key=lambda point: point[0])
        x, metrics = zip(*points, strict=True)
        axis.plot(x, [metric["value"] for metric in metrics], marker="o", color=color)
        bounds = ([metric[side] for metric in metrics] for side in ("low", "high"))
        axis.fill_between(x, *bounds, color=color, alpha=0.15, label="95 % interval")
        axis.set(xscale="log" if spread else "linear", xlabel=record["key"], ylabel=title)
        axis.set_xticks(places, names)
        axis.minorticks_off()
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize=9)
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
