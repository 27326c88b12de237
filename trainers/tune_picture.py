"""The trials of a search as a picture."""

from pathlib import Path
from typing import Any

import numpy as np

from hf_genrec.files import whole_file

COLUMNS = 3


def draw(record: dict[str, Any], path: Path) -> None:
    """A PNG: NDCG@10 by trial with the best so far, and by the value of each key."""
    from matplotlib.figure import Figure  # a Figure of one's own draws with Agg and touches no global state

    keys = record["keys"]
    rows = -(-(1 + len(keys)) // COLUMNS)
    figure = Figure(figsize=(4.2 * COLUMNS, 3.2 * rows), layout="constrained")
    figure.suptitle(f"{len(record['trials'])} trials, NDCG@10 on the {record['split']} split", fontsize=12)
    axes = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    finished = [line for line in record["trials"] if line["outcome"] == "finished"]
    numbers = [line["trial"] for line in finished]
    ndcg = [line["ndcg@10"]["value"] for line in finished]
    best = record["best"]
    axes[0].scatter(numbers, ndcg, s=18, color="tab:blue", label="trial")
    axes[0].step(numbers, np.maximum.accumulate(ndcg), where="post", color="tab:orange", label="best so far")
    cut = [line for line in record["trials"] if line["outcome"] != "finished"]
    if cut:
        last = [line["intermediate_ndcg@10"][-1] if line["intermediate_ndcg@10"] else 0.0 for line in cut]
        axes[0].scatter([line["trial"] for line in cut], last, s=18, marker="x", color="gray", label="not finished")
    axes[0].set(xlabel="trial", ylabel="NDCG@10")
    axes[0].legend(frameon=False, fontsize=9)
    for axis, key in zip(axes[1:], keys, strict=False):
        _by_value(axis, key, [line["values"][key] for line in finished], ndcg)
        place = [line["trial"] for line in finished].index(best["trial"])
        offsets = axis.collections[0].get_offsets()
        axis.scatter(*offsets[place], s=90, facecolors="none", edgecolors="tab:orange", linewidths=1.5)
    for axis in axes[1 + len(keys) :]:
        axis.set_visible(False)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


def _by_value(axis: Any, key: str, values: list[Any], ndcg: list[float]) -> None:
    """Points over the values of a key: numbers where they are, choices side by side."""
    axis.set(xlabel=key, ylabel="NDCG@10")
    if all(isinstance(value, int | float) for value in values):
        axis.scatter(values, ndcg, s=18, color="tab:blue")
        if min(values) > 0 and max(values) / min(values) >= 8:
            axis.set_xscale("log")
        return
    names = sorted(set(values), key=_order)
    axis.scatter([names.index(value) for value in values], ndcg, s=18, color="tab:blue")
    axis.set_xticks(range(len(names)), names)


def _order(text: str) -> tuple[int, float, str]:
    try:
        return 0, float(text), text
    except ValueError:
        return 1, 0.0, text
