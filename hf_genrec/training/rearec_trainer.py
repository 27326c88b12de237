"""The trainer of ReaRec: noise for the contrastive term."""

import torch

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
        labels = inputs["sequence_labels"] if "sequence_labels" in inputs else inputs["labels"]
        return int((labels != -100).sum())

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        recommender = self.accelerator.unwrap_model(model)
        config = recommender.config
        if config.reasoning == "prl" and (self.state.epoch or 0) >= self.noise_start_epoch:
            # From the generator that a checkpoint saves: a resumed training draws what it would have drawn.
            shape = (config.steps, self.num_targets(inputs), config.hidden_size)
            noise = torch.randn(shape, dtype=recommender.dtype, device=inputs["input_ids"].device)
            inputs = {**inputs, "noise": noise}
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
