"""The transformers `Trainer` for generative recommenders: grouped by length, evaluated by constrained generation."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError
from torch.utils.data import Sampler
from transformers import EarlyStoppingCallback, Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hf_genrec.catalogue.sound_scores import UnsoundModel
from hf_genrec.catalogue.transformers_bridge import overrides
from hf_genrec.data.prepared import EvaluationSplit
from hf_genrec.evaluation.metrics import ndcg_at_k, recall_at_k
from hf_genrec.training.checkpoints import mark_complete
from hf_genrec.training.even_batches import share_evenly
from hf_genrec.training.lineage import write_lineage
from hf_genrec.training.whole_weights import whole_model


class DivergedTraining(RuntimeError):
    """A loss, weights or scores that are no numbers."""


class EpochSampler(Sampler):
    """
    The order of an epoch, drawn from `seed + epoch` alone: random, or grouped by length.

    The stock samplers draw from the global generator, so that a resumed run would go through the rest of its epoch in
    another order than the uninterrupted one.

    Args:
        num_examples (`int`): how many there are.
        seed (`int`): of the first epoch.
        lengths (*optional*): (num_examples,) group by these, in batches of `batch_size`.
    """

    def __init__(
        self, num_examples: int, seed: int, lengths: Sequence[int] | np.ndarray | None = None, batch_size: int = 1
    ):
        self.num_examples = num_examples
        self.seed = seed
        self.lengths = None if lengths is None else np.asarray(lengths, dtype=np.int64)
        self.batch_size = batch_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_examples

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(self.num_examples, generator=generator).numpy()
        if self.lengths is not None:
            order = grouped_by_length(order, self.lengths, self.batch_size)
        # without a Python object a row
        return (row for start in range(0, len(order), 2**12) for row in order[start : start + 2**12].tolist())


def grouped_by_length(order: np.ndarray, lengths: np.ndarray, batch_size: int) -> np.ndarray:
    """
    A random order in which rows of like lengths stand together, as transformers' `group_by_length` has it: runs of at
    most 50 batches, and of no more than a quarter of all rows, go from long to short. The longest row of all comes
    first, so that memory that does not suffice is found out at once.
    """
    run = batch_size * max(1, min(len(order) // (4 * batch_size), 50))
    order = order.copy()
    starts = np.arange(0, len(order), run)
    for start in starts:
        rows = order[start : start + run]
        rows[:] = rows[np.argsort(-lengths[rows], kind="stable")]
    longest = starts[np.argmax(lengths[order[starts]])]
    order[[0, longest]] = order[[longest, 0]]
    return order


@overrides("_get_train_sampler", "_get_num_items_in_batch", "_run_epoch", "_save_checkpoint")
class GenRecTrainer(Trainer):
    """
    `Trainer` whose evaluation recommends items. A loss that is no number ends the training.

    Args:
        eval_dataset ([`EvaluationSplit`]): histories and targets in catalogue rows. Evaluation recommends `eval_k`
        items to each
            of its users under the trie and reports `ndcg@k` and `recall@k`; with several processes each takes a share.
        eval_k (`int`): length of the lists.

    Attributes:
        lineage: what the training is made from, which is written into its checkpoints.
        soft_targets_report: what the codes are compared with beside their labels, if anything.
    """

    lineage: Mapping[str, Any] | None = None
    soft_targets_report: Mapping[str, Any] | None = None

    def __init__(self, *args, eval_k: int = 10, **kwargs):
        super().__init__(*args, **kwargs)
        self.eval_k = eval_k
        self._cpu_start = time.process_time()
        self._cpu_before: float | None = None
        self._loss_since = torch.zeros(())  # the sum of the losses that were not looked at yet

    def log(self, logs, *args, **kwargs):
        """Every line carries `cpu_seconds`: the CPU time since the trainer was built, and before it was resumed."""
        if self._cpu_before is None:
            earlier = [line["cpu_seconds"] for line in self.state.log_history if "cpu_seconds" in line]
            self._cpu_before = earlier[-1] if earlier else 0.0
        if "loss" in logs:
            self._require_finite_losses(self.state.global_step)
        cost = {"cpu_seconds": self._cpu_before + time.process_time() - self._cpu_start}
        super().log(logs | cost, *args, **kwargs)

    def _get_train_sampler(self, train_dataset=None):
        train_dataset = train_dataset or self.train_dataset
        strategy = self.args.train_sampling_strategy
        if strategy not in ("random", "group_by_length"):
            return super()._get_train_sampler(train_dataset)
        lengths = train_dataset.lengths if strategy == "group_by_length" else None
        batch_size = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        return EpochSampler(len(train_dataset), self.args.seed, lengths, batch_size)

    def get_train_dataloader(self):
        loader = super().get_train_dataloader()
        return loader if self.args.world_size == 1 else share_evenly(loader, self.args.world_size)

    def _get_num_items_in_batch(self, batch_samples, device):
        """
        What the step's loss is divided by. Packed rows hold different numbers of targets, and rows of like histories
        are drawn together: divided by the step's own number, a target would weigh the more the fewer stand beside it.
        So it is the number that as many rows hold on average.
        """
        labels_per_row = getattr(self.train_dataset, "labels_per_row", None)
        if labels_per_row is None:
            return super()._get_num_items_in_batch(batch_samples, device)
        rows = torch.tensor([sum(len(batch["input_ids"]) for batch in batch_samples)], device=device)
        if self.args.world_size > 1:
            rows = self.accelerator.gather(rows)
        return rows.sum() * labels_per_row

    def training_step(self, *args, **kwargs):
        """
        Raises:
            DivergedTraining: for a loss that is not finite; names the step.
        """
        loss = super().training_step(*args, **kwargs)
        self._loss_since = self._loss_since.to(loss.device) + loss.detach()
        if loss.device.type == "cpu":  # an accelerator is waited for where the log or a checkpoint does
            self._require_finite_losses(self.state.global_step + 1)
        return loss

    def _require_finite_losses(self, step: int) -> None:
        """
        Raises:
            DivergedTraining: if a loss since the last call was not finite.
        """
        require_finite_loss(self._loss_since, step, self.args.learning_rate)
        self._loss_since = torch.zeros_like(self._loss_since)

    def _run_epoch(self, *args, **kwargs):
        # Trainer takes a step before it looks: a training that was finished, and is started again, would go on.
        if self.state.global_step >= self.state.max_steps or self._stopped_early():
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def _stopped_early(self) -> bool:
        return any(isinstance(callback, StopEarly) and callback.is_over for callback in self.callback_handler.callbacks)

    def _save_checkpoint(self, model, trial):
        self._require_finite_losses(self.state.global_step)
        try:
            super()._save_checkpoint(model, trial)
        except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors do not name the file
            raise OSError(
                f"no checkpoint of step {self.state.global_step} can be saved in {self.args.output_dir}: {error}"
            ) from error
        self.accelerator.wait_for_everyone()  # each process saves the state of its own generator
        if self.lineage is not None and self.args.should_save:
            mark_complete(Path(str(self.args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False):
        super().save_model(output_dir, _internal_call)
        if self.lineage is not None and self.args.should_save:
            write_lineage(Path(output_dir or str(self.args.output_dir)), self.lineage)

    def evaluate(self, eval_dataset: EvaluationSplit | None = None, ignore_keys=None, metric_key_prefix: str = "eval"):
        split = cast(EvaluationSplit, self.eval_dataset if eval_dataset is None else eval_dataset)
        mine = slice(self.args.process_index, None, self.args.world_size)
        start = time.perf_counter()
        try:
            with whole_model(self) as model:
                rows, _ = model.recommend_rows(
                    split.histories[mine], self.eval_k, batch_size=self.args.per_device_eval_batch_size
                )
        except UnsoundModel as error:
            raise DivergedTraining(
                f"the training diverged: after step {self.state.global_step} the model's weights or scores hold NaN or "
                f"infinity: lower learning_rate ({self.args.learning_rate})"
            ) from error
        targets = split.targets[mine]
        short = self.eval_k - rows.shape[1]  # of a catalogue with fewer items
        rows = np.pad(rows, ((0, 0), (0, max(short, 0))), constant_values=-1)
        mine_sums = [
            ndcg_at_k(rows, targets, self.eval_k).sum(),
            recall_at_k(rows, targets, self.eval_k).sum(),
            len(rows),
        ]
        totals = torch.tensor(mine_sums, dtype=torch.float64, device=self.args.device)
        ndcg, recall, users = self.accelerator.reduce(totals, reduction="sum").tolist()
        metrics = {
            f"{metric_key_prefix}_ndcg@{self.eval_k}": ndcg / users,
            f"{metric_key_prefix}_recall@{self.eval_k}": recall / users,
            f"{metric_key_prefix}_users_per_second": users / (time.perf_counter() - start),
        }
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class StopEarly(EarlyStoppingCallback):
    """Transformers' early stopping, which a resumed training goes on with where it was."""

    def on_train_begin(self, args, state, control, **kwargs):
        super().on_train_begin(args, state, control, **kwargs)
        self.early_stopping_patience_counter, best = 0, None
        for line in state.log_history:
            value = line.get(f"eval_{args.metric_for_best_model}")
            if value is None:
                continue
            is_better = best is None or (value > best if args.greater_is_better else value < best)
            best = value if is_better else best
            self.early_stopping_patience_counter = 0 if is_better else self.early_stopping_patience_counter + 1

    @property
    def is_over(self) -> bool:
        return self.early_stopping_patience_counter >= self.early_stopping_patience


def require_finite_loss(loss: torch.Tensor, step: int, learning_rate: float) -> None:
    """
    Raises:
        DivergedTraining: for a loss that is not finite.
    """
    if not torch.isfinite(loss).all():
        raise DivergedTraining(
            f"the training diverged: the loss is {loss.item()} at step {step}: lower learning_rate ({learning_rate})"
        )


def subsample(split: EvaluationSplit, users: int | None, seed: int) -> EvaluationSplit:
    """A fixed random part of a split's users, in their order; the whole split where it has no more than `users`."""
    if users is None or len(split.user_ids) <= users:
        return split
    chosen = np.sort(np.random.default_rng(seed).choice(len(split.user_ids), users, replace=False))
    return EvaluationSplit(
        split.name,
        [split.user_ids[i] for i in chosen],
        [split.histories[i] for i in chosen],
        [split.targets[i] for i in chosen],
    )
