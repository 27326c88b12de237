"""Evaluate a run's model and the simple baselines on a split; JSON in the run folder's `results/`, and a table.

hf-genrec evaluate runs/care-ml-100k
hf-genrec evaluate runs/rearec-ml-100k --split validation
"""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np

from hf_genrec.data.prepared import PreparedData
from hf_genrec.evaluation.baselines import ItemKNN, MostPopular
from hf_genrec.evaluation.evaluator import EvaluationResult, evaluate_recommender
from hf_genrec.evaluation.report import render_table, result_record
from hf_genrec.files import write_json
from hf_genrec.hub import METHOD_NAMES, load_model, write_model_card
from hf_genrec.training.config import RunFolder

logger = logging.getLogger(__name__)


def main(
    run_folder: str, split: str = "test", exclude_seen: bool = False, num_beams: int | None = None
) -> dict[str, EvaluationResult]:
    """Evaluate, write `results/<split>.json` with one record per system, and return the results by system."""
    run = RunFolder(Path(run_folder))
    model = load_model(run.require_model())
    prepared = PreparedData.load(run.data)
    targets = prepared.split(split)
    num_items, train = len(prepared.item_ids), prepared.train_sequences()
    if model.processor.item_ids != prepared.item_ids:
        raise ValueError(f"{run.model} was trained on another catalogue than {run.data} holds: prepare and train again")

    if num_beams is not None and not model.can_generate():
        raise ValueError(f"--num-beams: {run.model} scores every item and searches no beams: leave it out")
    search: dict[str, Any] = {"num_beams": num_beams} if model.can_generate() else {}
    if getattr(model.config, "reflection_threshold", None) is not None:
        search["return_rollbacks"] = True
    rollbacks: list[np.ndarray] = []

    def recommend(histories: list[np.ndarray], k: int) -> np.ndarray:
        rows, _, *rest = model.recommend_rows(histories, k, exclude_seen=exclude_seen, **search)
        rollbacks.extend(rest)
        return rows

    popular, neighbours = MostPopular(train, num_items), ItemKNN(train, num_items)
    systems = {
        METHOD_NAMES[model.config.model_type]: recommend,
        "most popular": lambda histories, k: popular.recommend(histories, k, exclude_seen)[0],
        "item-kNN": lambda histories, k: neighbours.recommend(histories, k, exclude_seen)[0],
    }
    results = {
        name: evaluate_recommender(
            system,
            targets,
            num_items,
            popularity=prepared.item_popularity(),
            codes=model.processor.codes if model.can_generate() else None,
            exclude_seen=exclude_seen,
        )
        for name, system in systems.items()
    }
    settings = prepared.report["settings"]
    tie_order = settings["tie_order"] if settings["tie_order"] == "file" else f"shuffle, seed {settings['tie_seed']}"
    training = json.loads((run.model / "training_args.json").read_text(encoding="utf-8"))
    records = {
        name: result_record(
            result,
            system=name,
            data_set=settings["source_path"] or settings["source"],
            seed=training["seed"],
            tie_order=tie_order,
        )
        for name, result in results.items()
    }
    if rollbacks:  # codes that REG4Rec's reflection took back, on all paths of a user
        name = METHOD_NAMES[model.config.model_type]
        records[name]["mean_rollbacks"] = float(np.concatenate(rollbacks).mean())
    suffix = "" if not exclude_seen else "-unseen"
    write_json(records, run.results / f"{split}{suffix}.json")
    write_model_card(run.model, run.results)
    logger.info("%s\n\ntie order: %s; all figures in %s", render_table(results), tie_order, run.results)
    return results
