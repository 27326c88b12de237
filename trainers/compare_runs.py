"""Runs on the same users: metrics, cost, paired differences, and what they recommend side by side.

hf-genrec compare runs/one runs/other
hf-genrec compare runs/one runs/other runs/third --split validation --output-dir runs/compared
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hf_genrec.data.prepared import PreparedData
from hf_genrec.evaluation.comparison import (
    by_history_length,
    differences,
    overlap,
    render,
    require_same_data,
    rows_of,
    side_by_side,
)
from hf_genrec.evaluation.comparison_pictures import draw
from hf_genrec.evaluation.cost import median_costs
from hf_genrec.evaluation.evaluator import EvaluationResult, evaluate_recommender
from hf_genrec.evaluation.report import record_header, training_cost, training_seed
from hf_genrec.files import whole_file, write_json
from hf_genrec.hub import model_fingerprint
from hf_genrec.method import load_method, load_model
from hf_genrec.training.lineage import require_model_of
from hf_genrec.training.run_folder import RunFolder, run_names

logger = logging.getLogger(__name__)

TIMED_USERS = 64
TRAINING_FILE = "training.json"
K = 10


def main(
    run_folders: Sequence[str],
    output_dir: str | None = None,
    split: str = "test",
    exclude_seen: bool | None = None,
    num_users: int = 10,
) -> dict[str, Any]:
    """
    Write `compare.json`, `table.md` and three pictures into `output_dir`, and return the record.

    Args:
        exclude_seen: leave out the items of the history; by default what the models' `recommend` does.

    Raises:
        FileNotFoundError: for a run without a model.
        ValueError: for fewer than two runs, one that is named twice, runs of different data, a record of a training
            that is damaged, or models whose `recommend` differs in what it leaves out, where nothing is said.
    """
    runs = {name: RunFolder(Path(folder)) for name, folder in run_names(run_folders).items()}
    for run in runs.values():
        run.require_model()
    require_same_data({name: run.data for name, run in runs.items()})
    folder = Path(output_dir or next(iter(runs.values())).path.parent / f"compare-{'-'.join(runs)}".replace("/", "-"))
    if folder.is_file():
        raise OSError(f"{folder} is a file: name a folder as --output-dir")
    trained = {
        name: {"seed": training_seed(run.model), **training_cost(run.results / TRAINING_FILE)}
        for name, run in runs.items()
    }
    prepared = PreparedData.load(next(iter(runs.values())).data)
    targets = prepared.split(split)  # type: ignore[arg-type]
    models = {}
    for name, run in runs.items():
        models[name] = load_model(run.model)
        require_model_of(run.model, PreparedData.load(run.data), models[name].processor.item_ids, "train it again")

    if exclude_seen is None:
        exclude_seen = _usual({name: model.processor.exclude_seen for name, model in models.items()})
    results: dict[str, EvaluationResult] = {}
    lists: dict[str, np.ndarray] = {}
    for name, model in models.items():
        logger.info("%s (%d of %d)", name, len(results) + 1, len(models))
        found: list[np.ndarray] = []
        recommend = _recommender(model, prepared.item_ids, exclude_seen, found)
        results[name] = evaluate_recommender(recommend, targets, len(prepared.item_ids), exclude_seen=exclude_seen)
        lists[name] = np.concatenate(found)
    costs = _costs(models, prepared.item_ids, targets.histories, exclude_seen)
    header = record_header(next(iter(runs.values())).model, prepared)
    header.pop("seed")  # each run has its own
    first = next(iter(results.values()))
    record = header | {
        "seen_items_removed": exclude_seen,
        "split": split,
        "num_users": first.num_users,
        "num_items": first.num_items,
        "interval": "95 % percentile bootstrap over users, of differences paired",
        "runs": [
            _of_run(name, run, models[name], results[name], costs[name], trained[name]) for name, run in runs.items()
        ],
        "differences": differences(results),
        "list_k": K,
        "overlap": overlap(lists, K),
        "by_history_length": by_history_length(results, np.array(list(map(len, targets.histories))), f"ndcg@{K}"),
        "users": side_by_side(prepared, split, lists, num_users, K),
    }
    titles = {item_id: title or item_id for item_id, title in zip(prepared.item_ids, _titles(prepared), strict=True)}
    text = render(record, results, titles)
    write_json(record, folder / "compare.json")
    with whole_file(folder / "table.md") as path:
        path.write_text(text, encoding="utf-8")
    draw(record, folder)
    logger.info("%s\n\nlists, pictures and all figures in %s", text.split("\n\n### User")[0], folder)
    return record


def _usual(exclude_seen: dict[str, bool]) -> bool:
    """What all models leave out."""
    if len(set(exclude_seen.values())) > 1:
        one, other = (next(name for name in exclude_seen if exclude_seen[name] == out) for out in (True, False))
        raise ValueError(
            f"{one} leaves the history out of its lists and {other} does not: say --exclude-seen or --no-exclude-seen"
        )
    return next(iter(exclude_seen.values()))


def _titles(prepared: PreparedData) -> list[str | None]:
    return prepared.titles() or [None] * len(prepared.item_ids)


def _recommender(
    model: Any, item_ids: Sequence[str], exclude_seen: bool, found: list[np.ndarray]
) -> Callable[[list[np.ndarray], int], np.ndarray]:
    """What the evaluator calls, in rows of `item_ids`; the lists are kept in `found`."""
    own_rows = rows_of(model.processor.item_ids, item_ids)
    common_rows = np.append(rows_of(item_ids, model.processor.item_ids), -1)  # -1 pads a list, and stays

    def recommend(histories: list[np.ndarray], k: int) -> np.ndarray:
        own = model.recommend_rows([own_rows[history] for history in histories], k, exclude_seen=exclude_seen)[0]
        rows = common_rows[own]
        found.append(rows)
        return rows

    return recommend


def _costs(
    models: dict[str, Any], item_ids: Sequence[str], histories: list[np.ndarray], exclude_seen: bool
) -> dict[str, dict[str, Any]]:
    """Milliseconds a user of all models in turn: of many users at once, and of one alone."""
    costs: dict[str, dict[str, Any]] = {name: {} for name in models}
    for kind, asked in (("many", histories[:TIMED_USERS]), ("one", histories[:1])):
        calls = {}
        for name, model in models.items():
            own = rows_of(model.processor.item_ids, item_ids)
            calls[name] = partial(
                model.recommend_rows, [own[history] for history in asked], K, exclude_seen=exclude_seen
            )
        for name, cost in median_costs(calls).items():
            milliseconds = {"ms": cost.seconds, "cpu_ms": cost.cpu_seconds}
            costs[name][kind] = {unit: 1000 * value / len(asked) for unit, value in milliseconds.items()}
            costs[name][kind]["users"] = len(asked)
    return costs


def _of_run(
    name: str,
    run: RunFolder,
    model: Any,
    result: EvaluationResult,
    cost: dict[str, Any],
    trained: dict[str, Any],
) -> dict[str, Any]:
    metrics: dict[str, dict[str, float | None]] = {}
    for metric, value in result.metrics.items():
        metrics[metric] = {"value": value if np.isfinite(value) else None}
        if metric in result.intervals:
            metrics[metric] |= dict(zip(("low", "high"), result.intervals[metric], strict=True))
    return {
        "name": name,
        "folder": str(run.path),
        "method": load_method(model.config.model_type).title,
        "model": model_fingerprint(run.model),
        "seed": trained["seed"],
        "num_weights": model.num_parameters(),
        "training_cpu_seconds": trained["cpu_seconds"],
        "epochs": trained["epochs"],
        "metrics": metrics,
        "cost": cost | {"users_per_second": result.users_per_second},
    }
