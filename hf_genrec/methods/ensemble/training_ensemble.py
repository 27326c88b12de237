"""Finished runs -> an ensemble of their models, and the trainer that chooses its weights."""

import logging
from collections.abc import Sequence
from typing import Any, cast

from hf_genrec.data.examples import NextItemExamples, Targets
from hf_genrec.data.prepared import EvaluationSplit, PreparedData
from hf_genrec.methods.ensemble.choose_weights import K, choose_weights
from hf_genrec.methods.ensemble.join_models import build_ensemble
from hf_genrec.training.config import RunConfig
from hf_genrec.training.finished_run import FinishedRun
from hf_genrec.training.seen_items import RULES
from hf_genrec.training.trainer import GenRecTrainer

logger = logging.getLogger(__name__)


class EnsembleTrainer(GenRecTrainer):
    """
    Its training chooses the members' weights on all validation users; the members stay as they are.

    Attributes:
        seen_figures: the NDCG@10 of lists with the history's items and without them.

    Args:
        weights (*optional*): to be taken instead.
        members_cpu_seconds: what the members' trainings took, which every line of the log counts in.
    """

    eval_dataset: EvaluationSplit
    seen_figures: dict[str, float]

    def __init__(
        self,
        *args,
        weights: Sequence[float] | None = None,
        members_cpu_seconds: dict[str, float] | None = None,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.weights = weights
        self.members_cpu_seconds = members_cpu_seconds or {}
        self._cpu_before = sum(self.members_cpu_seconds.values())

    def train(self, *args, **kwargs) -> None:
        """Choose, and log what was tried."""
        arguments, model = cast(Any, self.args), cast(Any, self.accelerator.unwrap_model(self.model))
        self.state.epoch, self.seen_figures = 0, {}
        if self.weights is not None:
            model.set_weights(self.weights)
            if self.eval_dataset.histories:
                self.state.best_metric = self.evaluate()[f"eval_ndcg@{K}"]
                self.seen_figures = {"history_in_lists": self.state.best_metric}
            self.log({})
            return
        batch_size = arguments.per_device_eval_batch_size
        tried = choose_weights(model, self.eval_dataset, arguments.exclude_seen, batch_size)
        for line in tried:
            self.log(line)
        chosen = {line["exclude_seen"]: line["ndcg@10"] for line in tried if line["weights"] == model.config.weights}
        self.seen_figures = {name: chosen[rule] for name, rule in RULES.items()}
        self.state.best_metric = self.seen_figures["history_in_lists"]


def build_trainer(config: RunConfig) -> EnsembleTrainer:
    """The trainer of a run whose data are prepared, with the ensemble of its members' models."""
    run, arguments = config.run, config.training
    prepared = PreparedData.load(run.data)
    validation = prepared.split("validation", may_be_empty=config.model.member_weights is not None)
    arguments.output_dir, arguments.run_name = str(run.checkpoints), arguments.run_name or run.path.name
    finished = [FinishedRun.open(folder, prepared, "members_runs") for folder in config.model.members_runs]
    model = build_ensemble([member.model for member in finished], config.model.num_candidates)
    names = ", ".join(f"{member.run.path} ({member.model.config.model_type})" for member in finished)
    logger.info("members: %s", names)
    return EnsembleTrainer(
        model,
        arguments,
        train_dataset=NextItemExamples(
            prepared.train_sequences(), cast(Targets, arguments.targets), model.config.max_history
        ),
        eval_dataset=validation,
        data_collator=lambda examples: examples,
        weights=config.model.member_weights,
        members_cpu_seconds={str(member.run.path): member.cpu_seconds or 0.0 for member in finished},
    )
