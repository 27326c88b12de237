"""Evaluate a run's model, its teachers and the simple baselines; JSON in the run folder's `results/`, and a table.

hf-genrec evaluate runs/mine
hf-genrec evaluate runs/mine --split validation
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hf_genrec.data.prepared import PreparedData
from hf_genrec.evaluation.baselines import ItemKNN, MostPopular
from hf_genrec.evaluation.evaluator import KS, EvaluationResult, evaluate_recommender
from hf_genrec.evaluation.report import data_set, render_table, result_record, tie_order, training_seed
from hf_genrec.files import require_writable, write_json
from hf_genrec.hub import model_fingerprint, write_model_card
from hf_genrec.method import load_method, load_model
from hf_genrec.training.lineage import require_model_of
from hf_genrec.training.processes import require_one_process
from hf_genrec.training.run_folder import RunFolder
from hf_genrec.training.teachers import teacher_runs
from hf_genrec.training.trainer import subsample

logger = logging.getLogger(__name__)

SAMPLE_SEED = 0


def main(
    run_folder: str,
    split: str = "test",
    exclude_seen: bool | None = None,
    num_beams: int | None = None,
    max_users: int | None = None,
) -> dict[str, EvaluationResult]:
    """
    Evaluate, write `results/<split>.json` with one record per system, and return the results by system.

    Args:
        exclude_seen: leave out the items of the history; by default what the model's `recommend` does. Otherwise the
            file is called `<split>-unseen.json` or `<split>-seen.json`.
        max_users: evaluate a random sample of so many users, the same for every model; `-<max_users>-users` is then
            part of the file's name. By default all.
    """
    require_one_process("evaluate")
    run = RunFolder(Path(run_folder))
    require_writable(run.results, run.model)
    model = load_model(run.require_model())
    prepared = PreparedData.load(run.data)
    require_model_of(run.model, prepared, model.processor.item_ids, "train it again")
    seed, usual = training_seed(run.model), model.processor.exclude_seen
    exclude_seen = usual if exclude_seen is None else exclude_seen
    teachers = open_teachers(run, model.processor.item_ids)
    results, records = measure(
        model, str(run.model), prepared, seed, split, exclude_seen, num_beams, teachers, max_users
    )
    records[next(iter(records))]["model"] = model_fingerprint(run.model)
    suffix = "" if exclude_seen == usual else "-unseen" if exclude_seen else "-seen"
    suffix += "" if max_users is None else f"-{max_users}-users"
    write_json(records, run.results / f"{split}{suffix}.json")
    write_model_card(run.model, run.results)
    logger.info("all figures in %s", run.results)
    return results


def open_teachers(run: RunFolder, item_ids: list[str]) -> dict[str, Any]:
    """The models that a run has learned from, by method and name: as far as they are there, and of its catalogue."""
    found = {}
    for name, teacher in teacher_runs(run).items():
        model = load_model(teacher.model)
        if model.processor.item_ids == item_ids:
            found[f"{load_method(model.config.model_type).title}, {name}"] = model
        else:
            logger.warning("the teacher in %s is of another catalogue: it is not evaluated here", teacher.path)
    return found


def measure(
    model: Any,
    place: str,
    prepared: PreparedData,
    seed: int | None,
    split: str = "test",
    exclude_seen: bool = False,
    num_beams: int | None = None,
    teachers: Mapping[str, Any] | None = None,
    max_users: int | None = None,
) -> tuple[dict[str, EvaluationResult], dict[str, dict[str, Any]]]:
    """
    Evaluate a model beside its teachers and the simple baselines, and log the table.

    Args:
        place: where the model is from, for messages.
        prepared: data whose items begin with the model's catalogue; further ones, which it does not know, may be
            targets and are in no history.
        seed: that of the model's training.
        teachers: models of the same catalogue by the names they are shown by.
        max_users: evaluate a random sample of so many users; the records say of how many.

    Returns:
        results and records by system, the model first.
    """
    everybody = prepared.split(split)
    targets = subsample(everybody, max_users, SAMPLE_SEED)
    said: Any = {"data_set": data_set(prepared), "seed": seed, "tie_order": tie_order(prepared)}
    num_items, train = len(prepared.item_ids), prepared.train_sequences()
    num_known = len(model.processor.item_ids)

    method = load_method(model.config.model_type)
    search: dict[str, Any] = {}
    if "num_beams" in method.search_options:
        least = min(max(KS), num_items)
        if num_beams is not None and num_beams < least:
            raise ValueError(
                f"--num-beams {num_beams}: evaluation looks at lists of {least} items (Recall@{max(KS)}), which need "
                f"as many beams: give {least} or more, or leave it out"
            )
        search["num_beams"] = num_beams
    elif num_beams is not None:
        raise ValueError(f"--num-beams: {place} scores every item and searches no beams: leave it out")
    details = method.details(model.config)
    found: list[list[np.ndarray]] = [[] for _ in details]

    def known(histories: list[np.ndarray]) -> list[np.ndarray]:
        return [history[history < num_known] for history in histories]

    def recommend(histories: list[np.ndarray], k: int) -> np.ndarray:
        rows, _, *more = model.recommend_rows(
            known(histories),
            k,
            exclude_seen=exclude_seen,
            **search,
            **dict.fromkeys(details, True),
        )
        for values, of_these in zip(found, more, strict=True):
            values.append(of_these)
        return rows

    def of_teacher(teacher: Any) -> Callable[[list[np.ndarray], int], np.ndarray]:
        return lambda histories, k: teacher.recommend_rows(known(histories), k, exclude_seen=exclude_seen)[0]

    popular, neighbours = MostPopular(train, num_items), ItemKNN(train, num_items)
    systems = {
        method.title: recommend,
        **{name: of_teacher(teacher) for name, teacher in (teachers or {}).items()},
        "most popular": lambda histories, k: popular.recommend(histories, k, exclude_seen)[0],
        "item-kNN": lambda histories, k: neighbours.recommend(histories, k, exclude_seen)[0],
    }
    results = {
        name: evaluate_recommender(
            system,
            targets,
            num_items,
            popularity=prepared.item_popularity(),
            codes=model.processor.codes if method.codes and num_items == num_known else None,
            exclude_seen=exclude_seen,
            train=train,
        )
        for name, system in systems.items()
    }
    records = {
        name: result_record(
            result,
            system=name,
            **said,
        )
        for name, result in results.items()
    }
    if max_users is not None:
        for record in records.values():
            record["sample_of_users"] = len(everybody.user_ids)
        logger.info("a random sample of %d of %d users", len(targets.user_ids), len(everybody.user_ids))
    for name, values in zip(details.values(), found, strict=True):
        records[method.title][name] = float(np.concatenate(values).mean())
    logger.info("%s\n\ntie order: %s", render_table(results), tie_order(prepared))  # whatever becomes of the files
    return results, records
