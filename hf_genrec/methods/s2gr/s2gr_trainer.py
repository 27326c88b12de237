"""The trainer of S2GR: every term of the loss, and per level how often code and cluster are right."""

from typing import cast

import numpy as np
import torch

from hf_genrec.catalogue.evaluation_mode import evaluation_mode
from hf_genrec.data.prepared import EvaluationSplit
from hf_genrec.training.code_t5_trainer import CodeT5Trainer
from hf_genrec.training.whole_weights import whole_model


class S2grTrainer(CodeT5Trainer):
    """
    `CodeT5Trainer` for `S2grForConditionalGeneration`. Evaluation also reports, over the users' first targets,
    `code_l` (the l-th code right behind the right ones), `prefix_l` (the first l codes right, as greedy decoding
    without a trie finds them) and `cluster_l` (the thinking vector nearest to the cluster of the code).
    """

    def evaluate(self, eval_dataset: EvaluationSplit | None = None, ignore_keys=None, metric_key_prefix: str = "eval"):
        split = cast(EvaluationSplit, self.eval_dataset if eval_dataset is None else eval_dataset)
        rates = {f"{metric_key_prefix}_{name}": rate for name, rate in self.rates(split).items()}
        self.log(rates)
        return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix) | rates

    def rates(self, split: EvaluationSplit) -> dict[str, float]:
        """The means of [`S2grForConditionalGeneration.hits`] over a split, by name."""
        model = self.accelerator.unwrap_model(self.model)
        mine = np.arange(self.args.process_index, len(split.histories), self.args.world_size)
        # Named beforehand: a process whose share is empty has them, too.
        levels = {name: range(len(model.config.thinking)) for name in ("code", "prefix")}
        levels["cluster"] = model.taught_levels
        sums = {f"{name}_{level + 1}": 0 for name, of_name in levels.items() for level in of_name}
        with whole_model(self) as model, evaluation_mode(model):
            for start in range(0, len(mine), self.args.per_device_eval_batch_size):
                users = mine[start : start + self.args.per_device_eval_batch_size]
                examples = [{"history": split.histories[user], "target": split.targets[user][0]} for user in users]
                batch = self.data_collator(examples)
                hits = model.hits(**{name: part.to(model.device) for name, part in batch.items()})
                for name, found in (hits | {"prefix": hits["code"].long().cumprod(1)}).items():
                    for level, count in zip(levels[name], found.sum(0).tolist(), strict=True):
                        sums[f"{name}_{level + 1}"] += count
        totals = torch.tensor([*sums.values(), len(mine)], dtype=torch.float64, device=self.args.device)
        *totals, users = self.accelerator.reduce(totals, reduction="sum").tolist()
        return {name: total / users for name, total in zip(sums, totals, strict=True)}
