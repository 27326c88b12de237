"""
Results of many runs as compact rows: a JSON object a line, a file per data set, sorted by the name of the cell. And the
rank at which every user's item was found, so that finished cells can be compared user by user.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import RESULTS
from hf_genrec.files import whole_file

DIGITS = 6
RANKS = RESULTS / "ranks"  # a file per cell


def read_rows(kind: str, data: str | None = None) -> list[dict[str, Any]]:
    """The rows of a kind of benchmark, of one data set or of all."""
    paths = sorted(RESULTS.glob(f"{kind}-*.jsonl")) if data is None else [path_of(kind, data)]
    return [
        json.loads(line) for path in paths if path.is_file() for line in path.read_text(encoding="utf-8").splitlines()
    ]


def write_row(kind: str, data: str, row: dict[str, Any]) -> None:
    """Add a row, or replace the one of the same `cell`; numbers are rounded to six significant digits."""
    rows = {other["cell"]: other for other in read_rows(kind, data)} | {row["cell"]: rounded(row)}
    lines = [json.dumps(rows[cell], ensure_ascii=False, allow_nan=False) for cell in sorted(rows)]
    with whole_file(path_of(kind, data)) as path:
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def path_of(kind: str, data: str) -> Path:
    return RESULTS / f"{kind}-{data}.jsonl"


def rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {name: rounded(part) for name, part in value.items()}
    return [rounded(part) for part in value] if isinstance(value, list | tuple) else value


def ranks_of(per_user: dict[str, np.ndarray], k: int) -> np.ndarray:
    """(users,) uint8: the rank of the one item that was to be found, 0 where it is not among the first `k`."""
    reciprocal = per_user[f"mrr@{k}"]
    return np.divide(1, reciprocal, out=np.zeros_like(reciprocal), where=reciprocal > 0).round().astype(np.uint8)


def read_ranks(cell: str) -> dict[str, np.ndarray]:
    """The ranks of a finished cell, (users,) uint8 by split."""
    with np.load(RANKS / f"{cell}.npz", allow_pickle=False) as file:
        return dict(file)


def write_ranks(cell: str, of_splits: dict[str, np.ndarray]) -> None:
    with whole_file(RANKS / f"{cell}.npz") as path, path.open("wb") as file:
        np.savez_compressed(file, **of_splits)


def metrics_of_users(ranks: np.ndarray) -> dict[str, np.ndarray]:
    """(users,) by metric; every user has one item to be found."""
    found = (ranks > 0) & (ranks <= 10)
    return {"recall@10": found.astype(float), "ndcg@10": np.where(found, 1 / np.log2(ranks + 1.0 + ~found), 0.0)}
