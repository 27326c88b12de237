"""Several models on the same users: paired differences, what their lists share, and the tables of both."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hf_genrec.data.prepared import PreparedData, read_report
from hf_genrec.evaluation.evaluator import EvaluationResult
from hf_genrec.evaluation.metrics import bootstrap_interval, paired_bootstrap_difference
from hf_genrec.evaluation.report import METRIC_TITLES, markdown_table, render_table
from hf_genrec.terminal import in_table

BINS = 4
# Settings of `prepare` that decide who its users are and what their targets; the others name files and columns.
DECIDING = (
    *("min_rating", "drop_repeats", "user_core", "item_core", "split", "validation_time", "test_time", "end_time"),
    *("tie_order", "tie_seed", "time_unit"),
)


def require_same_data(folders: Mapping[str, Path]) -> None:
    """
    Args:
        folders: the prepared data of runs by their names.

    Raises:
        ValueError: for data of which some have other users, items, sequences or targets than the first ones. What
            their files and columns were called, and in which order they hold users and items, does not matter.
        FileNotFoundError: for a folder without data.
    """
    reports = {name: read_report(folder) for name, folder in folders.items()}
    first, *others = reports
    for name in others:
        if reports[name]["fingerprint"] == reports[first]["fingerprint"]:
            continue
        if _same_sequences(PreparedData.load(folders[first]), PreparedData.load(folders[name])):
            continue
        settings = [reports[run].get("settings", {}) for run in (first, name)]
        differ = [
            f"{key} {settings[0].get(key)} and {settings[1].get(key)}"
            for key in DECIDING
            if settings[0].get(key) != settings[1].get(key)
        ]
        raise ValueError(
            f"{first} and {name} were not trained on the same data ({', '.join(differ) or 'another log'}), so their "
            f"users cannot be compared: prepare both from one log with the same filters and split"
        )


def _same_sequences(first: PreparedData, other: PreparedData) -> bool:
    """Whether the same users have the same sequences of the same items, with the same targets."""
    if set(first.user_ids) != set(other.user_ids) or set(first.item_ids) != set(other.item_ids):
        return False
    to_first, users = rows_of(first.item_ids, other.item_ids), rows_of(other.user_ids, first.user_ids)
    counts = ((first.num_validation, other.num_validation), (first.num_test, other.num_test))
    return all(np.array_equal(ours, theirs[users]) for ours, theirs in counts) and all(
        np.array_equal(sequence, to_first[other.sequences[user]])
        for sequence, user in zip(first.sequences, users, strict=True)
    )


def rows_of(ids: Sequence[str], asked: Sequence[str]) -> np.ndarray:
    """(asked,) int64: where each asked id stands among `ids`, all of which it must be one of."""
    places = {name: row for row, name in enumerate(ids)}
    return np.array([places[name] for name in asked], dtype=np.int64)


def differences(results: Mapping[str, EvaluationResult]) -> list[dict[str, Any]]:
    """
    Of every pair of systems: for each ranking metric the mean over users of the later one's value minus the earlier
    one's, with its paired bootstrap interval, and the shares of users for whom it is better and worse.
    """
    pairs = []
    for before, after in itertools.combinations(results, 2):
        metrics = {}
        for name, values in results[after].per_user.items():
            gain = values - results[before].per_user[name]
            difference, low, high = paired_bootstrap_difference(values, results[before].per_user[name])
            shares = {"better": float((gain > 0).mean()), "worse": float((gain < 0).mean())}
            metrics[name] = {"difference": difference, "low": low, "high": high, **shares}
        pairs.append({"of": after, "to": before, "metrics": metrics})
    return pairs


def overlap(lists: Mapping[str, np.ndarray], k: int) -> list[dict[str, Any]]:
    """Of every pair of systems the mean share of a user's first `k` items (users, K) that both recommend."""
    found = []
    for first, second in itertools.combinations(lists, 2):
        a, b = lists[first][:, :k], lists[second][:, :k]
        both = ((a[:, :, None] == b[:, None, :]) & (a[:, :, None] >= 0)).any(-1).sum(1)
        found.append({"of": first, "and": second, "share": float((both / k).mean())})
    return found


def by_history_length(
    results: Mapping[str, EvaluationResult], lengths: np.ndarray, metric: str
) -> list[dict[str, Any]]:
    """
    A metric for users with short and long histories, in up to four groups of about equal size.

    Args:
        lengths: (users,) items in each history.

    Returns:
        per group the shortest and longest history, the users, and for each system value and interval.
    """
    starts = np.unique(np.quantile(lengths, np.arange(BINS) / BINS, method="higher"))
    group = np.searchsorted(starts, lengths, side="right") - 1
    groups = []
    for number in range(len(starts)):
        among = group == number
        values = {}
        for name, result in results.items():
            of_group = result.per_user[metric][among]
            low, high = bootstrap_interval(of_group)
            values[name] = {"value": float(of_group.mean()), "low": low, "high": high}
        shortest, longest = int(lengths[among].min()), int(lengths[among].max())
        groups.append({"from": shortest, "to": longest, "users": int(among.sum()), metric: values})
    return groups


def side_by_side(
    prepared: PreparedData, split: str, lists: Mapping[str, np.ndarray], count: int = 10, k: int = 10, seed: int = 0
) -> list[dict[str, Any]]:
    """
    Some users, drawn once for all runs: history, targets and the first `k` items of each system's list, as ids.

    Args:
        lists: (users, K) catalogue rows of the users of the split, by system.
    """
    of_split, ids = prepared.split(split), np.array(prepared.item_ids, dtype=object)  # type: ignore[arg-type]
    drawn = np.random.default_rng(seed).choice(
        len(of_split.user_ids), min(count, len(of_split.user_ids)), replace=False
    )
    users = []
    for user in sorted(drawn.tolist()):
        users.append(
            {
                "user": of_split.user_ids[user],
                "history": ids[of_split.histories[user]].tolist(),
                "targets": ids[of_split.targets[user]].tolist(),
                "lists": {name: ids[rows[user, :k][rows[user, :k] >= 0]].tolist() for name, rows in lists.items()},
            }
        )
    return users


def render(record: Mapping[str, Any], results: Mapping[str, EvaluationResult], titles: Mapping[str, str]) -> str:
    """The comparison in Markdown: figures, cost, differences, and the lists of some users by title."""
    parts = [render_table(results), _costs(record["runs"]), _differences(record["differences"], results)]
    shares = [["lists", f"items in both first {record['list_k']}"]]
    shares += [[f"{pair['of']} and {pair['and']}", f"{pair['share']:.0%}"] for pair in record["overlap"]]
    parts.append(markdown_table(shares))
    parts += [_user(user, titles) for user in record["users"]]
    return "\n\n".join(parts) + "\n"


def _costs(runs: Sequence[Mapping[str, Any]]) -> str:
    rows = [["cost", "method", "weights", "training, CPU min", "CPU ms a user, many", "CPU ms a user, one"]]
    for run in runs:
        training = run["training_cpu_seconds"]
        minutes = "" if training is None else f"{training / 60:.1f}"
        costs = [f"{run['cost'][name]['cpu_ms']:.2f}" for name in ("many", "one")]
        rows.append([run["name"], run["method"], f"{run['num_weights']:,}", minutes, *costs])
    return markdown_table(rows)


def _differences(pairs: Sequence[Mapping[str, Any]], results: Mapping[str, EvaluationResult]) -> str:
    ks = next(iter(results.values())).ks
    keys = {f"{name}@{k}": f"{title}@{k}" for name, title in METRIC_TITLES.items() for k in ks}
    rows = [["difference", "", "mean", "95 % interval", "better for", "worse for"]]
    for pair in pairs:
        for key, title in keys.items():
            metric = pair["metrics"][key]
            interval = f"{metric['low']:+.4f} to {metric['high']:+.4f}"
            interval = f"**{interval}**" if metric["low"] > 0 or metric["high"] < 0 else interval
            shares = [f"{metric[side]:.1%}" for side in ("better", "worse")]
            rows.append([f"{pair['of']} - {pair['to']}", title, f"{metric['difference']:+.4f}", interval, *shares])
    return f"Shares are of the users. Bold: the interval leaves out 0.\n\n{markdown_table(rows)}"


def _user(user: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    """A user's newest items and targets, and a table with a column per system; hits are bold."""
    newest = "; ".join(_cell(titles[item]) for item in user["history"][-5:])
    history = f"{len(user['history'])} items{f', the newest last: {newest}' if newest else ''}"
    targets = "; ".join(_cell(titles[item]) for item in user["targets"])
    rows = [["", *map(_cell, user["lists"])]]
    for rank, line in enumerate(itertools.zip_longest(*user["lists"].values()), start=1):
        cells = ["" if item is None else _cell(titles[item]) for item in line]
        hits = [f"**{cell}**" if item in user["targets"] else cell for cell, item in zip(cells, line, strict=True)]
        rows.append([str(rank), *hits])
    return f"### User {_cell(user['user'])}\n\nhistory: {history}\n\nwanted: {targets}\n\n{markdown_table(rows)}"


def _cell(text: str) -> str:
    """As [`in_table`]; bold is for hits."""
    return in_table(text).replace("*", "\\*")
