"""A run per value of one setting, compared on the validation split.

hf-genrec sweep --config NAME --key learning_rate --values 0.001,0.002,0.004

The data are prepared (and tokenized) once, in the configuration's `output_dir`; the runs stand beside it, as
`<output_dir>-<key>-<value>`. Where the key is one of the semantic IDs, each run makes its own.
A sweep that was interrupted goes on where it stood, and more values may be added. The test split is not read.
"""

import logging
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from hf_genrec.evaluation.report import markdown_table, record_header
from hf_genrec.files import require_writable, whole_file, write_json
from hf_genrec.trainers.trial_runs import (
    SETTINGS_FILE,
    SPLIT,
    TITLES,
    cells,
    check_settings,
    figures,
    is_finished,
    own_codes,
    prepare_once,
    settings_of,
    share,
    train_and_evaluate,
    varied,
)
from hf_genrec.training.config import RunConfig, parse_config

logger = logging.getLogger(__name__)


def main(config: str | None, key: str, values: Sequence[str], overrides: Sequence[str] = ()) -> dict[str, Any]:
    """
    Train and evaluate what is not yet there; write `results/sweep-<key>.json` and `.png`; return the record.

    Args:
        config: path or shipped name, as for `hf-genrec train`.
        key: an option of the model, of its training or of the semantic IDs.
        values: as they would be written behind `--<key>`; those of a list with spaces between.
        overrides: further options for all runs.

    Raises:
        ValueError: for a key that a sweep cannot vary, a value that is refused, or a run that was made with other
            settings.
    """
    base = parse_config(config, list(overrides))
    swept = {field.name for arguments in (base.model, base.training) for field in fields(arguments)}
    tokenize = own_codes(base, [key])
    if not tokenize and key not in swept - {"method", "output_dir", "resume_from_checkpoint"}:
        raise ValueError(
            f"--key {key}: name an option of the model, its training or its semantic IDs, such as learning_rate"
        )
    if not values or len(set(values)) < len(values):
        raise ValueError(f"--values {','.join(values)}: give different values, separated by commas")
    runs = {value: varied(base, config, overrides, _folder(base, key, value), {key: value}) for value in values}
    require_writable(base.run.path, base.run.results, *(run.run.path for run in runs.values()))
    prepared, codes = prepare_once(base, tokenize=not tokenize)
    settings = {value: settings_of(run, prepared, codes) for value, run in runs.items()}
    for value, run in runs.items():
        check_settings(run.run.path / SETTINGS_FILE, settings[value])
    for value, run in runs.items():
        write_json(settings[value], run.run.path / SETTINGS_FILE)
        share(base, run, tokenize)
        if is_finished(run.run.path):
            logger.info("%s is finished", run.run.path)
            continue
        logger.info("%s: %s = %s", run.run.path, key, value)
        train_and_evaluate(run)

    folders = {value: _folder(base, key, value) for value in values}  # `output_dir` has moved
    lines = [
        {"value": value} | figures(folder, f"delete {folder}, and sweep again") for value, folder in folders.items()
    ]
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


def _folder(base: RunConfig, key: str, value: str) -> Path:
    return Path(f"{base.run.path}-{key}-{value.replace(' ', '-')}")


def render(record: dict[str, Any]) -> str:
    """A table with a row per value."""
    rows = [[record["key"], *TITLES, ""]]
    for line in record["values"]:
        rows.append([line["value"], *cells(line), "best" if line["value"] == record["best"] else ""])
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
