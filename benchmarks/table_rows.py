"""What the tables are made of: finished cells from benchmarks/results, and their figures as text."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.cells import read_rows

BEAUTY, YELP = "amazon2014_beauty", "yelp2019"


BEST = "care-no-queries-recommender-codes-centroids-dropout"


TWO_RECOMMENDERS, DISTILLED = "ensemble-two-rearec-none", "codetree-distilled"


THREE = (1, 2, 3)


def cells(method: str, seeds: Sequence[int] = (1,), minutes: float = 30, data: str = BEAUTY) -> list[dict[str, Any]]:
    """The rows of a method, one per seed."""
    found = {row["cell"]: row for row in read_rows("quality", data)}
    return [found[f"{method}-{data}-seed{seed}-{minutes:g}min"] for seed in seeds]


def baseline(name: str, data: str = BEAUTY) -> list[dict[str, Any]]:
    return [row for row in read_rows("quality", data) if row["cell"] == name]


def mean(rows: list[dict[str, Any]], split: str, metric: str) -> str:
    return f"{np.mean([row[split][metric][0] for row in rows]):.4f}"


def pair(rows: list[dict[str, Any]], split: str) -> str:
    return f"{mean(rows, split, 'recall@10')}, {mean(rows, split, 'ndcg@10')}"


def minutes_of(rows: list[dict[str, Any]], digits: int = 1) -> str:
    """CPU minutes of the training, and of those of the models that it is made of, where the rows say them."""
    trained = [row["training"] for row in rows]
    minutes = [of["cpu_minutes"] + sum(of.get("parts_cpu_minutes", {}).values()) for of in trained]
    return f"{np.mean(minutes):.{digits}f}"


def difference(value: float, low: float, high: float) -> str:
    return f"{value:+.4f} [{low:+.4f}, {high:+.4f}]"


def ablation(variant: str, seeds: Sequence[int] = (1,), data: str = BEAUTY) -> list[dict[str, Any]]:
    """The rows of a variant of REG4Rec, one per seed."""
    found = {row["cell"]: row for row in read_rows("reg4rec_ablation", data)}
    return [found[f"{variant}, seed {seed}"] for seed in seeds]
