"""The trainer of ReaRec: noise for the contrastive term, and every term of the loss in the log."""

import torch

from hf_genrec.training.trainer import GenRecTrainer


class ReaRecTrainer(GenRecTrainer):
    """
    `GenRecTrainer` for `ReaRecForNextItem`, on batches of `SequenceCollator`.

    A log line with the `loss` has its unweighted terms beside it, `loss_ce` and so on: means over the targets since the
    line before, as far as they had the term.

    Args:
        noise_start_epoch (`int`): PRL's contrastive term begins after as many epochs; published: 2.
    """

    def __init__(self, *args, noise_start_epoch: int = 2, **kwargs):
        super().__init__(*args, **kwargs)
        self.noise_start_epoch = noise_start_epoch
        # By name, since the last line: sum over this process's targets, and how many they are.
        self._terms: dict[str, tuple[torch.Tensor, int]] = {}

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs["sequence_labels"] if "sequence_labels" in inputs else inputs["labels"]
        num_targets = int((labels != -100).sum())
        recommender = self.accelerator.unwrap_model(model)
        config = recommender.config
        if config.reasoning == "prl" and (self.state.epoch or 0) >= self.noise_start_epoch:
            # From the generator that a checkpoint saves: a resumed training draws what it would have drawn.
            shape = (config.steps, num_targets, config.hidden_size)
            inputs = {**inputs, "noise": torch.randn(shape, dtype=recommender.dtype, device=labels.device)}
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        divisor = num_targets if num_items_in_batch is None else num_items_in_batch
        for name, value in outputs.losses.items():
            total, count = self._terms.get(name, (torch.zeros_like(value), 0))
            self._terms[name] = (total + value.detach() * divisor, count + num_targets)
        return (loss, outputs) if return_outputs else loss

    def log(self, logs, *args, **kwargs):
        if "loss" in logs and self._terms:
            sums = [[total.item(), count] for total, count in self._terms.values()]
            totals = torch.tensor(sums, dtype=torch.float64, device=self.args.device)  # (terms, 2)
            totals = self.accelerator.reduce(totals, reduction="sum")
            means = (totals[:, 0] / totals[:, 1]).tolist()
            logs |= {f"loss_{name}": mean for name, mean in zip(self._terms, means, strict=True)}
            self._terms = {}
        super().log(logs, *args, **kwargs)
