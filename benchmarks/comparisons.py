"""Finished cells against each other, user by user, by the ranks that are kept of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cells import metrics_of_users, read_ranks, write_row
from benchmarks.quality_methods import DATA_SETS
from benchmarks.user_groups import user_groups
from hf_genrec.data.prepared import PreparedData
from hf_genrec.evaluation.metrics import paired_bootstrap_difference
from hf_genrec.trainers.trial_runs import prepare_once
from hf_genrec.training.config import find_config, parse_config

KIND = "comparisons"
METRICS = ("recall@10", "ndcg@10")


def prepared_data(data: Path, work: Path) -> PreparedData:
    """A data set as its cells have it, made once."""
    base = str(find_config(f"rearec/{DATA_SETS[data.name]}-published"))
    own = ["--source_path", str(data), "--output_dir", str(work / f"prepared-{data.name}")]
    return prepare_once(parse_config(base, own), tokenize=False)[0]


def compare(
    data: str, name: str, facts: dict[str, Any], mine: Sequence[str], other: Sequence[str], prepared: PreparedData
) -> str:
    """
    Cells of a model and of another, one per seed: the mean over seeds of each user's figures, their difference and its
    95 % bootstrap interval over users, of every split that both have; of test users by groups, too. What it finds is
    returned as lines, and a row of `comparisons-<data set>.jsonl` holds it with `facts`.
    """
    ranks = [[read_ranks(cell) for cell in cells] for cells in (mine, other)]
    lines = []
    row: dict[str, Any] = {"cell": name, **facts}
    for split in [split for split in ranks[0][0] if split in ranks[1][0]]:
        of_users = [_of_users(of_seeds, split) for of_seeds in ranks]
        for metric in METRICS:
            ours, theirs = (values[metric] for values in of_users)
            difference, low, high = paired_bootstrap_difference(ours.mean(0), theirs.mean(0))
            row[f"{split} {metric}"] = {
                "mean": float(ours.mean()),
                "standard_deviation": float(ours.mean(1).std(ddof=1)) if len(ours) > 1 else None,
                "difference": [difference, low, high],
            }
            lines.append(
                f"{name.partition(' against ')[0]:<24} {split:<17} {metric:<9} {ours.mean():.4f} against "
                f"{theirs.mean():.4f}: {difference:+.4f} [{low:+.4f}, {high:+.4f}]"
            )
        if split.startswith("test"):
            row[f"{split} ndcg@10 by group"] = _by_group(*(values["ndcg@10"].mean(0) for values in of_users), prepared)
    write_row(KIND, data, row)
    return "\n".join(lines)


def _by_group(mine: np.ndarray, other: np.ndarray, prepared: PreparedData) -> dict[str, list[float]]:
    """Of each group of test users with anybody in it: their number, mean of both, difference and its 95 % interval."""
    found = {}
    for name, group in user_groups(prepared, prepared.split("test")).items():
        if group.any():
            interval = paired_bootstrap_difference(mine[group], other[group])
            found[name] = [int(group.sum()), float(mine[group].mean()), float(other[group].mean()), *interval]
    return found


def _of_users(of_seeds: list[dict[str, np.ndarray]], split: str) -> dict[str, np.ndarray]:
    """Figures of the users by metric, (seeds, users)."""
    found = [metrics_of_users(ranks[split]) for ranks in of_seeds]
    return {metric: np.stack([of_seed[metric] for of_seed in found]) for metric in METRICS}
