"""Finished runs that another one is made of."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_genrec.data.prepared import EvaluationSplit, PreparedData
from hf_genrec.evaluation.report import training_cost
from hf_genrec.hub import model_fingerprint
from hf_genrec.method import join_models, load_method, load_model
from hf_genrec.training.config import RunConfig
from hf_genrec.training.lineage import require_model_of
from hf_genrec.training.run_folder import RunFolder
from hf_genrec.training.seen_items import RULES

logger = logging.getLogger(__name__)


@dataclass
class FinishedRun:
    """
    A trained model on the same prepared data, and what it cost.

    Attributes:
        cpu_seconds: of its training, `None` where its `results/training.json` does not say.
    """

    run: RunFolder
    model: Any
    cpu_seconds: float | None

    @classmethod
    def open(cls, folder: str, prepared: PreparedData, key: str) -> "FinishedRun":
        """
        Args:
            key: the setting that names it, for messages.

        Raises:
            FileNotFoundError: if there is no trained model.
            ValueError: if it was trained on other data.
        """
        run = RunFolder(Path(folder))
        place = run.require_model()
        model = load_model(place)
        require_model_of(place, prepared, model.processor.item_ids, f"name a run of these data as {key}")
        cpu_seconds = training_cost(run.results / "training.json")["cpu_seconds"]
        if cpu_seconds is None:
            logger.warning("%s does not say what its training took: the cost here is without it", run.path)
        return cls(run, model, cpu_seconds)


@dataclass
class DenseRun:
    """
    What `dense_run` names: when the model that writes codes is trained, the two become one.

    Attributes:
        weight: of its scores, `None` to choose it on the validation split.
    """

    finished: FinishedRun
    validation: EvaluationSplit
    weight: float | None

    @classmethod
    def of(cls, config: RunConfig) -> "DenseRun | None":
        """
        What a configuration names, if anything; before the training, which may take long.

        Raises:
            FileNotFoundError, ValueError: as [`FinishedRun.open`]; or for a run whose model writes codes itself.
        """
        folder, weight = config.training.dense_run, config.training.dense_run_weight
        if folder is None:
            return None
        prepared = PreparedData.load(config.run.data)
        finished = FinishedRun.open(folder, prepared, "dense_run")
        method = load_method(finished.model.config.model_type)
        if method.codes is not None:
            raise ValueError(f"dense_run: the {method.title} of {folder} writes codes: name one that scores every item")
        return cls(finished, prepared.split("validation", may_be_empty=weight is not None), weight)

    def join(
        self, model: Any, record: Mapping[str, Any], exclude_seen: bool | None
    ) -> tuple[Any, dict[str, Any], dict[str, float]]:
        """
        One model of two, and what the record of the training says of it: `cpu_seconds` are those of both parts and of
        the choice; each of them, and what was tried, stands under `dense`. Also the figures of lists with the history's
        items and without them, as far as they were measured, by the names of [`RULES`].
        """
        start = time.process_time()
        weights = None if self.weight is None else [1.0, self.weight]
        joined, tried = join_models([model, self.finished.model], self.validation, weights, exclude_seen)
        parts = {
            "codes": record["cpu_seconds"],
            "dense": self.finished.cpu_seconds,
            "joining": time.process_time() - start,
        }
        chosen = {line["exclude_seen"]: line["ndcg@10"] for line in tried if line["weights"] == joined.config.weights}
        figures = {name: chosen[rule] for name, rule in RULES.items() if chosen}
        best = figures.get("history_in_lists", record["best_validation_ndcg@10"])
        if tried:
            logger.info(
                "scores of %s have weight %s beside the codes", self.finished.run.path, joined.config.weights[1:]
            )
        of_both = {
            "cpu_seconds": sum(value or 0.0 for value in parts.values()),
            "num_weights": joined.num_parameters(),
            "best_validation_ndcg@10": best,
            "dense": {
                "run": str(self.finished.run.path),
                "model": model_fingerprint(self.finished.run.model),
                "weights": joined.config.weights,
                "cpu_seconds": parts,
                "tried": tried,
            },
        }
        return joined, of_both, figures
