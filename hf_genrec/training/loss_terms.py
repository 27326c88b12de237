"""Every term of a loss in the trainer's log."""

import torch

from hf_genrec.training.trainer import GenRecTrainer


class LossTermsTrainer(GenRecTrainer):
    """
    `GenRecTrainer` for models whose output has `losses`, unweighted terms by name, or `None` where there is one alone.

    A log line with the `loss` has them beside it, `loss_<name>`: means over the targets since the line before, as far
    as they had the term.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        # By name, since the last line: sum over this process's targets, and how many they are.
        self._terms: dict[str, tuple[torch.Tensor, int]] = {}

    def num_targets(self, inputs) -> int:
        """Targets in a batch, which the terms are averaged over."""
        raise NotImplementedError

    def loss_inputs(self, model, inputs, num_targets: int):
        """The batch as the model is given it in training, here as it is; `model` is not wrapped."""
        return inputs

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        count = self.num_targets(inputs)
        inputs = self.loss_inputs(self.accelerator.unwrap_model(model), inputs, count)
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        divisor = count if num_items_in_batch is None else num_items_in_batch
        for name, value in (outputs.losses or {}).items():
            total, before = self._terms.get(name, (torch.zeros_like(value), 0))
            self._terms[name] = (total + value.detach() * divisor, before + count)
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
