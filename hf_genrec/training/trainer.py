"""The transformers `Trainer` for generative recommenders: grouped by length, evaluated by constrained generation."""

import time
from typing import cast

import numpy as np
import torch
from torch.utils.data import Sampler
from transformers import Trainer

from hf_genrec.catalogue.transformers_bridge import overrides
from hf_genrec.data.prepared import EvaluationSplit
from hf_genrec.evaluation.metrics import ndcg_at_k, recall_at_k


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

    def __init__(self, num_examples: int, seed: int, lengths: list[int] | None = None, batch_size: int = 1):
        self.num_examples = num_examples
        self.seed = seed
        self.lengths = lengths
        self.batch_size = batch_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_examples

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(self.num_examples, generator=generator).tolist()
        return iter(order if self.lengths is None else grouped_by_length(order, self.lengths, self.batch_size))


def grouped_by_length(order: list[int], lengths: list[int], batch_size: int) -> list[int]:
    """
    A random order in which rows of like lengths stand together, as transformers' `group_by_length` has it: runs of at
    most 50 batches, and of no more than a quarter of all rows, go from long to short. The longest row of all comes
    first, so that memory that does not suffice is found out at once.
    """
    run = batch_size * max(1, min(len(order) // (4 * batch_size), 50))
    runs = [sorted(order[i : i + run], key=lengths.__getitem__, reverse=True) for i in range(0, len(order), run)]
    longest = max(runs, key=lambda rows: lengths[rows[0]])
    runs[0][0], longest[0] = longest[0], runs[0][0]
    return [row for rows in runs for row in rows]


@overrides("_get_train_sampler", "_get_num_items_in_batch")
class GenRecTrainer(Trainer):
    """
    `Trainer` whose evaluation recommends items.

    Args:
        eval_dataset ([`EvaluationSplit`]): histories and targets in catalogue rows. Evaluation recommends `eval_k`
        items to each
            of its users under the trie and reports `ndcg@k` and `recall@k`; with several processes each takes a share.
        eval_k (`int`): length of the lists.
    """

    def __init__(self, *args, eval_k: int = 10, **kwargs):
        super().__init__(*args, **kwargs)
        self.eval_k = eval_k
        self._cpu_start = time.process_time()
        self._cpu_before: float | None = None

    def log(self, logs, *args, **kwargs):
        """Every line carries `cpu_seconds`: the CPU time since the trainer was built, and before it was resumed."""
        if self._cpu_before is None:
            earlier = [line["cpu_seconds"] for line in self.state.log_history if "cpu_seconds" in line]
            self._cpu_before = earlier[-1] if earlier else 0.0
        cost = {"cpu_seconds": self._cpu_before + time.process_time() - self._cpu_start}
        super().log(logs | cost, *args, **kwargs)

    def _get_train_sampler(self, train_dataset=None):
        train_dataset = train_dataset or self.train_dataset
        strategy = self.args.train_sampling_strategy
        if strategy not in ("random", "group_by_length"):
            return super()._get_train_sampler(train_dataset)
        lengths = train_dataset.lengths.tolist() if strategy == "group_by_length" else None
        batch_size = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        return EpochSampler(len(train_dataset), self.args.seed, lengths, batch_size)

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

    def evaluate(self, eval_dataset: EvaluationSplit | None = None, ignore_keys=None, metric_key_prefix: str = "eval"):
        split = cast(EvaluationSplit, self.eval_dataset if eval_dataset is None else eval_dataset)
        mine = slice(self.args.process_index, None, self.args.world_size)
        start = time.perf_counter()
        model = self.accelerator.unwrap_model(self.model)
        rows, _ = model.recommend_rows(
            split.histories[mine], self.eval_k, batch_size=self.args.per_device_eval_batch_size
        )
        targets = split.targets[mine]
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
