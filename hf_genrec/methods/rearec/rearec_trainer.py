"""The trainer of ReaRec: noise for the contrastive term."""

import torch

from hf_genrec.decoding.shared_batch import own_part_of_draw
from hf_genrec.training.loss_terms import LossTermsTrainer


class ReaRecTrainer(LossTermsTrainer):
    """
    `LossTermsTrainer` for `ReaRecForNextItem`, on batches of `SequenceCollator`.

    Args:
        noise_start_epoch (`int`): PRL's contrastive term begins after as many epochs; published: 2.
    """

    def __init__(self, *args, noise_start_epoch: int = 2, **kwargs):
        super().__init__(*args, **kwargs)
        self.noise_start_epoch = noise_start_epoch

    def num_targets(self, inputs) -> int:
        return len(inputs["target_places"] if "target_places" in inputs else inputs["labels"])

    def loss_inputs(self, model, inputs, num_targets: int):
        if model.config.reasoning != "prl" or (self.state.epoch or 0) < self.noise_start_epoch:
            return inputs
        # From the generator that a checkpoint saves: a resumed training draws what it would have drawn.
        device = inputs["input_ids"].device

        def draw(targets: int) -> torch.Tensor:
            shape = (model.config.steps, targets, model.config.hidden_size)
            return torch.randn(shape, dtype=model.dtype, device=device)

        return {**inputs, "noise": own_part_of_draw(draw, num_targets, device, dim=1)}
