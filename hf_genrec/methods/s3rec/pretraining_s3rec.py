"""Stage 1: the encoder learns from masked items, attributes and segments, before the next item is predicted."""

import copy
import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import IntervalStrategy, set_seed
from transformers.trainer_utils import SaveStrategy

from hf_genrec.catalogue.json_files import naming, number, read_json
from hf_genrec.catalogue.saved_files import load_tensors
from hf_genrec.catalogue.sound_scores import require_sound_weights
from hf_genrec.files import restore_folder, spelled_out, whole_folder, write_json
from hf_genrec.methods.s3rec.arguments import OF_FINE_TUNING, S3RecArguments
from hf_genrec.methods.s3rec.modeling_s3rec import S3RecConfig, S3RecForPretraining
from hf_genrec.methods.s3rec.s3rec_rows import PretrainingCollator, PretrainingPrefixes, SetEpoch
from hf_genrec.training.arguments import GenRecTrainingArguments
from hf_genrec.training.checkpoints import checkpoint_to_resume
from hf_genrec.training.lineage import read_lineage, training_settings, write_lineage
from hf_genrec.training.loss_terms import LossTermsTrainer

logger = logging.getLogger(__name__)

RECORD_FILE = "pretraining.json"
REMEDY = "delete it to pretrain anew"


class PretrainingTrainer(LossTermsTrainer):
    """`LossTermsTrainer` for `S3RecForPretraining`, on batches of `PretrainingCollator`."""

    def num_targets(self, inputs) -> int:
        return len(inputs["input_ids"])


@dataclass
class Pretraining:
    """
    The pretraining of a run, whose weights stand in `folder` when it is done.

    Attributes:
        folder: the run's `pretrained/`.
        checkpoints: those of the pretraining, deleted when it is done.
        model: the keys of the method.
        training: the arguments of the fine-tuning: what the keys of the method do not say is as there.
        config: of the model, with the number of attributes.
        sequences: per user the training items as catalogue rows, oldest first.
        attributes: (N, A) boolean, and their A names.
    """

    folder: Path
    checkpoints: Path
    model: S3RecArguments
    training: GenRecTrainingArguments
    config: S3RecConfig
    sequences: Sequence[np.ndarray]
    attributes: tuple[np.ndarray, list[str]]

    def weights(self, lineage: Mapping[str, Any] | None, sharded: bool) -> tuple[dict[str, torch.Tensor], float]:
        """
        Those of the encoder by name, and the CPU seconds they took: of a pretraining that was done before, or that is
        done now.

        Args:
            lineage: what the run is made from; without it nothing is taken from an earlier pretraining.
            sharded: whether several processes share the weights of a model, which the pretraining does not do.

        Raises:
            ValueError: for a pretraining of other data or settings, checkpoints of one that is not to be resumed, or
                processes that share weights.
        """
        arguments = self._arguments()
        restore_folder(self.folder)
        own = None if lineage is None else self._lineage(lineage, arguments)
        if own is not None and self.folder.exists():
            self._require_same(own)
            logger.info("the pretraining in %s is done: its weights are taken", self.folder)
        elif sharded:
            raise ValueError(
                f"pretrain_epochs: {self.folder} does not exist, and the pretraining is not sharded: start `hf-genrec "
                f"train` without ZeRO and FSDP once, or set pretrain_epochs: 0"
            )
        else:
            self._train(own)
        tensors, _ = load_tensors(str(self.folder / "model.safetensors"))
        record = read_json(self.folder / RECORD_FILE, remedy=REMEDY)
        with naming(self.folder / RECORD_FILE, REMEDY):
            cpu_seconds = float(number(record["cpu_seconds"]))
        of_encoder = {name: weight for name, weight in tensors.items() if name.startswith("model.")}
        return {name.removeprefix("model."): weight for name, weight in of_encoder.items()}, cpu_seconds

    def trainer(self) -> PretrainingTrainer:
        """The trainer of the pretraining, with a new model and its rows."""
        arguments = self._arguments()
        set_seed(arguments.seed)
        rows = PretrainingPrefixes(
            self.sequences,
            self.config.num_items,
            self.config.max_history,
            arguments.seed,
            self.model.mask_probability,
            self.model.pretrain_prefixes,
        )
        return PretrainingTrainer(
            S3RecForPretraining(self.config),
            arguments,
            train_dataset=rows,
            data_collator=PretrainingCollator(self.config.num_items, self.attributes[0]),
            callbacks=[SetEpoch(rows)],
        )

    def _arguments(self) -> GenRecTrainingArguments:
        arguments: Any = copy.copy(self.training)
        arguments.output_dir = str(self.checkpoints)
        arguments.num_train_epochs, arguments.max_steps = self.model.pretrain_epochs, -1
        arguments.per_device_train_batch_size = self.model.pretrain_batch_size
        arguments.gradient_accumulation_steps = 1
        arguments.learning_rate = self.model.pretrain_learning_rate
        arguments.train_sampling_strategy = "random"  # how long a prefix is, is drawn
        # There are no lists to evaluate, so that the last weights are taken.
        arguments.eval_strategy, arguments.eval_on_start, arguments.do_eval = IntervalStrategy.NO, False, False
        arguments.load_best_model_at_end, arguments.metric_for_best_model = False, None
        if arguments.save_strategy == SaveStrategy.BEST:
            arguments.save_strategy = SaveStrategy.EPOCH
        arguments.save_total_limit, arguments.report_to = 1, []
        return arguments

    def _lineage(self, lineage: Mapping[str, Any], arguments: GenRecTrainingArguments) -> dict[str, Any]:
        settings = {name: value for name, value in lineage["model"].items() if name not in OF_FINE_TUNING}
        settings["method"] = f"{settings['method']}, pretraining"  # its checkpoints are not those of the fine-tuning
        return {"made_from": lineage["made_from"], "model": settings, "training": training_settings(arguments)}

    def _require_same(self, own: Mapping[str, Any]) -> None:
        found = read_lineage(self.folder)
        if found is None or found["made_from"] != own["made_from"]:
            raise ValueError(f"{self.folder} was not pretrained on these data: {REMEDY}")
        was = found.get("model", {}) | {"seed": found.get("training", {}).get("seed")}
        now = own["model"] | {"seed": own["training"]["seed"]}
        changed = [f"{name} {value}, was {was.get(name)}" for name, value in now.items() if was.get(name) != value]
        if changed:
            raise ValueError(f"{self.folder} was pretrained otherwise ({', '.join(changed)}): {REMEDY}, or set it back")

    def _train(self, own: Mapping[str, Any] | None) -> None:
        start, resume = time.perf_counter(), None
        if own is not None:
            resume = checkpoint_to_resume(
                self.checkpoints, "last" if self.training.resume_from_checkpoint else None, own
            )
        names = self.attributes[1]
        if not names:
            logger.warning("the items have no attributes (attribute_columns): the two tasks on them are left out")
        trainer = self.trainer()
        trainer.lineage = own
        rows = trainer.train_dataset
        logger.info("pretraining: %s prefixes an epoch, %s attributes", f"{len(rows):,}", f"{len(names):,}")
        trainer.train(resume_from_checkpoint=resume)
        if trainer.is_world_process_zero():
            model = trainer.accelerator.unwrap_model(trainer.model)
            require_sound_weights(model)
            record = {
                "seconds": time.perf_counter() - start,
                "cpu_seconds": trainer.state.log_history[-1]["cpu_seconds"],
                "resumed_from": resume,
                "epochs": trainer.state.epoch,
                "steps": trainer.state.global_step,
                "num_prefixes": len(rows),
                "num_weights": model.num_parameters(),
                "attributes": names,
                "log": trainer.state.log_history,
            }
            with whole_folder(self.folder) as folder:
                model.save_pretrained(folder)
                write_json(spelled_out(record), folder / RECORD_FILE)
                if own is not None:
                    write_lineage(folder, own)
            shutil.rmtree(self.checkpoints, ignore_errors=True)
        trainer.accelerator.wait_for_everyone()
