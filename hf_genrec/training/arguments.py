"""Arguments of every training."""

import logging
import math
import os
import re
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import TrainingArguments

from hf_genrec.training.processes import TORCHRUN, require_as_many_as_asked_for, require_gpus_to_shard
from hf_genrec.training.teachers import checked_teachers
from hf_genrec.training.trainer_checks import check_of_trainer

logger = logging.getLogger(__name__)


@dataclass
class GenRecTrainingArguments(TrainingArguments):
    """
    Transformers' `TrainingArguments` with the defaults of this library and what generative recommenders add: which
    targets are trained, how the best checkpoint is found. `output_dir` is the run folder.
    """

    output_dir: str | None = field(
        default=None, metadata={"help": "run folder: data, codes, checkpoints, model and results"}
    )
    targets: str = field(
        default="all", metadata={"help": "train on every prefix (all) or on the newest item only (last)"}
    )
    eval_users: int | None = field(
        default=None, metadata={"help": "validation users, drawn once, that choose the best checkpoint; null takes all"}
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={"help": "evaluations without a better NDCG@10 before training stops; null never stops early"},
    )
    packing: bool = field(
        default=True,
        metadata={
            "help": "read a user's history once for all its targets (several users in a row, where the method can); "
            "or a row per target"
        },
    )
    packed_row_tokens: int = field(
        default=256, metadata={"help": "packing, several users a row: the most tokens of a row"}
    )
    teachers: dict[str, str] | str | None = field(
        default=None,
        metadata={
            "help": "runs to learn from, trained before this one by `hf-genrec teachers`: by name a configuration "
            "or method and its options; other keys call them by these names (JSON here, a mapping in a YAML)"
        },
    )
    teachers_dir: str | None = field(
        default=None, metadata={"help": "folder of the teachers' runs; null is teachers/ in the run folder"}
    )
    soft_targets_run: str | None = field(
        default=None,
        metadata={
            "help": "run folder of a finished recommender of the same data: codes that it finds likely count as partly "
            "right; null trains on the labels alone"
        },
    )
    soft_targets_weight: float = field(
        default=0.1, metadata={"help": "share of the target that the recommender's codes have; 0 is the plain loss"}
    )
    soft_targets_temperature: float = field(
        default=1.0, metadata={"help": "the recommender's scores are divided by it; above 1 they are nearer each other"}
    )
    soft_targets_loss: str = field(
        default="expectation",
        metadata={
            "help": "of the probabilities of all codes by their shares: minus the logarithm of the mean (expectation, "
            "as published), or the mean of minus the logarithms (cross_entropy), which asks for all of them"
        },
    )
    legal_codes_only: bool = field(
        default=False, metadata={"help": "the loss compares the codes that some item goes on with, and no others"}
    )
    legal_codes_temperature: float = field(
        default=1.0, metadata={"help": "legal_codes_only: logits are divided by it in the loss"}
    )
    exclude_seen: bool | None = field(
        default=None,
        metadata={
            "help": "whether lists leave the items of the history out by default, when the model is trained; null "
            "takes what has the better NDCG@10 on the validation split"
        },
    )
    dense_run: str | None = field(
        default=None,
        metadata={
            "help": "run folder of a finished recommender that scores every item: its scores are added to those of the "
            "codes, in one model"
        },
    )
    dense_run_weight: float | None = field(
        default=None,
        metadata={
            "help": "dense_run: weight of its scores, 0 for codes alone; null chooses it on the validation split"
        },
    )
    per_device_train_batch_size: int = field(
        default=16, metadata={"help": "rows per step and process: packed ones, or without packing one per target"}
    )
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "histories decoded at a time in evaluation"})
    learning_rate: float = field(default=1e-3, metadata={"help": "peak learning rate"})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "schedule of the learning rate"})
    warmup_steps: float = field(
        default=0.02, metadata={"help": "steps, or below 1 the share of all steps, of rising rate"}
    )
    weight_decay: float = field(default=0.01, metadata={"help": "AdamW weight decay"})
    eval_strategy: str = field(default="epoch", metadata={"help": "when to evaluate on the validation split"})
    save_strategy: str = field(default="epoch", metadata={"help": "when to save a checkpoint"})
    save_total_limit: int | None = field(default=2, metadata={"help": "checkpoints kept, the best one among them"})
    load_best_model_at_end: bool = field(default=True, metadata={"help": "end with the checkpoint of the best NDCG@10"})
    metric_for_best_model: str | None = field(
        default="ndcg@10", metadata={"help": "what the best checkpoint is best in"}
    )
    greater_is_better: bool | None = field(default=True, metadata={"help": "whether a larger metric is better"})
    train_sampling_strategy: str = field(
        default="group_by_length",
        metadata={"help": "batches of rows with similar histories (group_by_length), or random ones (random)"},
    )
    logging_steps: float = field(default=50, metadata={"help": "steps between two lines of the log"})
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "leave losses that are no numbers out of the log; they end a training anyway"}
    )
    project: str = field(default="hf_genrec", metadata={"help": "trackio: project the run is logged under"})
    dataloader_pin_memory: bool = field(
        default_factory=torch.cuda.is_available, metadata={"help": "page-locked batches; only useful with a GPU"}
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "the collator needs history and target"})

    def __post_init__(self) -> None:
        if self.output_dir is None:
            raise ValueError("output_dir is missing: name the run folder, for instance runs/mine")
        if self.targets not in ("all", "last"):
            raise ValueError(f"targets: {self.targets!r} is not one of all, last")
        if self.label_smoothing_factor:
            # Trainer's own smoothing does not know which row predicts which code.
            raise ValueError("label_smoothing_factor: use label_smoothing, the model's own")
        if self.dense_run_weight is not None and (self.dense_run is None or not 0 <= self.dense_run_weight <= 1e6):
            raise ValueError(
                f"dense_run_weight {self.dense_run_weight}: give a number from 0, and dense_run, or leave it out"
            )
        if self.packed_row_tokens < 1:
            raise ValueError(f"packed_row_tokens must be at least 1, not {self.packed_row_tokens}")
        self.teachers = checked_teachers(self.teachers)
        check_soft_targets(self)
        join_processes(self)
        super().__post_init__()
        use_one_gpu(self)
        check_rows_and_metric(self)
        check_training(self)


def join_processes(arguments: Any) -> None:
    """
    Several processes on a machine without an accelerator train on CPUs: Trainer would run as many trainings that do not
    know of each other.

    Raises:
        ValueError: for a launcher that has started fewer processes than it was asked for, or shards what it cannot.
    """
    require_as_many_as_asked_for()
    fsdp = bool(arguments.fsdp) or os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    require_gpus_to_shard(fsdp and int(os.environ.get("WORLD_SIZE", "1")) > 1, torch.accelerator.is_available())
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.accelerator.is_available():
        arguments.use_cpu = True


def use_one_gpu(arguments: Any) -> None:
    """
    One process uses one GPU. With several, transformers' Trainer would split every batch between threads
    (`DataParallel`), which is slower than one GPU and counts targets wrongly.
    """
    if arguments.n_gpu > 1:
        logger.warning(
            "%d GPUs are visible, and this one process uses the first: %s %d -m hf_genrec.trainers.train with the same "
            "options uses all of them",
            arguments.n_gpu,
            TORCHRUN,
            arguments.n_gpu,
        )
        arguments._n_gpu = 1


def check_training(arguments: Any) -> None:
    """
    Raises:
        ValueError: for processes that do not train together, a best checkpoint that would not be saved or that is the
            worst one, no step to train, no user to evaluate, or what transformers' Trainer refuses later.
    """
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started > 1 and arguments.world_size == 1:
        raise ValueError(
            f"{started} processes were started, but this one trains with {arguments.world_size}: start one per device "
            f"by torchrun, or set use_cpu: true"
        )
    if arguments.eval_users is not None and arguments.eval_users < 1:
        raise ValueError(f"eval_users {arguments.eval_users}: give a whole number, at least 1, or null to take all")
    for name, value in (("max_steps", arguments.max_steps), ("num_train_epochs", arguments.num_train_epochs)):
        if value == 0 and (name == "max_steps" or arguments.max_steps < 0):
            raise ValueError(f"{name}: 0 trains nothing, and the untrained model would be saved: give a number above 0")
    check_of_trainer(arguments)
    metric = arguments.metric_for_best_model
    if metric is not None and not metric.endswith("loss") and not arguments.greater_is_better:
        raise ValueError(f"greater_is_better: false chooses the checkpoint that is worst in {metric}: leave it out")
    if not arguments.load_best_model_at_end:
        return
    when, saved = arguments.eval_strategy, arguments.save_strategy
    if when == "steps" and saved == "steps" and arguments.eval_steps != arguments.save_steps:
        raise ValueError(
            f"eval_steps {arguments.eval_steps}, save_steps {arguments.save_steps}: with load_best_model_at_end they "
            f"must be equal, or the best model may not be among the checkpoints"
        )


def check_soft_targets(arguments: Any) -> None:
    """
    Raises:
        ValueError: for a weight that is no share, a loss that there is not, a temperature that is not above 0, or one
            that nothing reads.
    """
    if not 0 <= arguments.soft_targets_weight <= 1:
        raise ValueError(f"soft_targets_weight {arguments.soft_targets_weight}: give a share from 0 to 1")
    if arguments.soft_targets_loss not in ("expectation", "cross_entropy"):
        raise ValueError(f"soft_targets_loss: {arguments.soft_targets_loss!r} is not expectation or cross_entropy")
    for name in ("soft_targets_temperature", "legal_codes_temperature"):
        if not 0 < getattr(arguments, name) < math.inf:
            raise ValueError(f"{name} {getattr(arguments, name)}: give a number above 0")
    if arguments.legal_codes_temperature != 1 and not arguments.legal_codes_only:
        raise ValueError("legal_codes_temperature is read with legal_codes_only: true, which is not set")


def check_rows_and_metric(arguments: Any) -> None:
    """
    Raises:
        ValueError: for rows without what is trained on, or a metric that evaluation does not measure.
    """
    if arguments.remove_unused_columns:
        raise ValueError("remove_unused_columns: true takes history and target from the rows: leave it out")
    metric = arguments.metric_for_best_model
    if metric is not None and not re.fullmatch(r"(eval_)?((ndcg|recall)@\d+|users_per_second|loss)", metric):
        raise ValueError(f"metric_for_best_model: {metric!r} is not measured: use one of ndcg@10, recall@10")
