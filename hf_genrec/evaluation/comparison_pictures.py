"""Pictures of a comparison: the metrics of each model with their cost, the paired differences, long and short
histories."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hf_genrec.evaluation.report import METRIC_TITLES
from hf_genrec.files import whole_file

COLORS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple", "tab:brown", "tab:pink", "tab:olive")


def draw(record: Mapping[str, Any], folder: Path) -> None:
    """`metrics.png`, `differences.png` and `history_length.png` of a comparison's record, in `folder`."""
    ks = sorted(int(name.removeprefix("ndcg@")) for name in record["runs"][0]["metrics"] if name.startswith("ndcg@"))
    _save(_metrics(record, ks), folder / "metrics.png")
    _save(_differences(record, ks), folder / "differences.png")
    _save(_history_length(record), folder / "history_length.png")


def _save(figure: Any, path: Path) -> None:
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


def _figure(width: float, height: float, record: Mapping[str, Any], what: str) -> Any:
    from matplotlib.figure import Figure  # a Figure of one's own draws with Agg and touches no global state

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(f"{what}, {record['split']} split, {record['num_users']:,} users", fontsize=12)
    return figure


def _clean(axis: Any, **labels: Any) -> None:
    axis.set(**labels)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", alpha=0.3)


def _legend(figure: Any, axis: Any) -> None:
    handles, names = axis.get_legend_handles_labels()
    columns = max(1, min(len(names), int(figure.get_figwidth() * 9) // (max(map(len, names)) + 6)))
    figure.legend(handles, names, loc="outside lower center", ncols=columns, frameon=False)


def _points(axis: Any, places: Sequence[float], metrics: Sequence[Mapping[str, float]], name: str, color: str) -> None:
    """Values with their intervals."""
    values = np.array([metric["value"] for metric in metrics])
    bars = np.array([[m["value"] - m["low"] for m in metrics], [m["high"] - m["value"] for m in metrics]])
    axis.errorbar(places, values, yerr=bars.clip(min=0), fmt="o", capsize=3, color=color, label=_short(name))


def _metrics(record: Mapping[str, Any], ks: Sequence[int]) -> Any:
    figure, runs = _figure(12.6, 4.2, record, "Metrics with 95 % intervals"), record["runs"]
    *of_metrics, of_cost = figure.subplots(1, 3)
    for axis, (metric, title) in zip(of_metrics, METRIC_TITLES.items(), strict=True):
        for number, (run, color) in enumerate(zip(runs, _colors(runs), strict=True)):
            places = [place + 0.5 * (number - (len(runs) - 1) / 2) / len(runs) for place in range(len(ks))]
            _points(axis, places, [run["metrics"][f"{metric}@{k}"] for k in ks], run["name"], color)
        axis.set_xticks(range(len(ks)), [f"@{k}" for k in ks])
        axis.set_ylim(bottom=0)
        _clean(axis, ylabel=title)
    key = "ndcg@10" if 10 in ks else f"ndcg@{ks[-1]}"
    for run, color in zip(runs, _colors(runs), strict=True):
        _points(of_cost, [run["cost"]["many"]["cpu_ms"]], [run["metrics"][key]], run["name"], color)
    of_cost.set_xlim(left=0)
    of_cost.set_ylim(bottom=0)
    _clean(of_cost, xlabel="CPU milliseconds a user", ylabel=key.upper())
    _legend(figure, of_cost)
    return figure


def _differences(record: Mapping[str, Any], ks: Sequence[int]) -> Any:
    """Of every run to the first one."""
    first = record["runs"][0]["name"]
    pairs = [pair for pair in record["differences"] if pair["to"] == first]
    keys = [f"{metric}@{k}" for metric in METRIC_TITLES for k in ks]
    figure = _figure(8.4, 1.6 + 0.32 * len(keys) * len(pairs), record, f"Difference to {_short(first)}")
    axis = figure.subplots()
    axis.axvline(0, color="black", linewidth=0.8)
    for number, (pair, color) in enumerate(zip(pairs, _colors(record["runs"])[1:], strict=True)):
        metrics = [pair["metrics"][key] for key in keys]
        places = [row + 0.6 * (number - (len(pairs) - 1) / 2) / len(pairs) for row in range(len(keys))]
        values = np.array([metric["difference"] for metric in metrics])
        bars = np.array([[m["difference"] - m["low"] for m in metrics], [m["high"] - m["difference"] for m in metrics]])
        axis.errorbar(values, places, xerr=bars.clip(min=0), fmt="o", capsize=3, color=color, label=_short(pair["of"]))
    named = [key.replace("ndcg", "NDCG").replace("recall", "Recall") for key in keys]
    axis.set_yticks(range(len(keys)), named)
    axis.invert_yaxis()
    axis.set_xlabel("mean over users, 95 % paired bootstrap interval; right: better")
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="x", alpha=0.3)
    _legend(figure, axis)
    return figure


def _history_length(record: Mapping[str, Any]) -> Any:
    groups, runs = record["by_history_length"], record["runs"]
    (key,) = (name for name in groups[0] if name not in ("from", "to", "users"))
    figure = _figure(8.4, 4.2, record, f"{key.upper()} by length of the history")
    axis = figure.subplots()
    for number, (run, color) in enumerate(zip(runs, _colors(runs), strict=True)):
        places = [place + 0.5 * (number - (len(runs) - 1) / 2) / len(runs) for place in range(len(groups))]
        _points(axis, places, [group[key][run["name"]] for group in groups], run["name"], color)
    spans = [str(g["from"]) if g["from"] == g["to"] else f"{g['from']} to {g['to']}" for g in groups]
    axis.set_xticks(
        range(len(groups)), [f"{s} items\n{g['users']:,} users" for s, g in zip(spans, groups, strict=True)]
    )
    axis.set_xlim(-0.5, len(groups) - 0.5)
    axis.set_ylim(bottom=0)
    _clean(axis, ylabel=key.upper())
    _legend(figure, axis)
    return figure


def _colors(runs: Sequence[Any]) -> list[str]:
    return [COLORS[number % len(COLORS)] for number in range(len(runs))]


def _short(name: str) -> str:
    """A run's name as a legend has room for; matplotlib would read a dollar sign as mathematics."""
    name = name if len(name) <= 40 else f"...{name[-37:]}"
    return name.replace("$", "\\$").removeprefix("_")
