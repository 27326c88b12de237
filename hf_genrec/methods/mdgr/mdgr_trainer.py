"""The trainer of MDGR: which codes of a target are hidden at which time of the training."""

from typing import Any

import torch

from hf_genrec.catalogue.evaluation_mode import evaluation_mode
from hf_genrec.decoding.shared_batch import own_part_of_draw
from hf_genrec.methods.mdgr.arguments import MdgrArguments
from hf_genrec.methods.mdgr.mdgr_masks import (
    familiar_views,
    familiarity,
    guided_views,
    random_views,
    sequential_views,
)
from hf_genrec.training.trainer import GenRecTrainer


class MdgrTrainer(GenRecTrainer):
    """
    `GenRecTrainer` for `MdgrForMaskedLM`, on batches of `TargetCodesCollator`.

    What is hidden is drawn anew each time, from the generator that a checkpoint saves: a resumed training draws what it
    would have drawn.

    Args:
        arguments: whose keys say which views of a target are taught.
    """

    def __init__(self, *args, arguments: MdgrArguments, **kwargs):
        super().__init__(*args, **kwargs)
        self.arguments = arguments

    def _get_num_items_in_batch(self, batch_samples, device):
        # Trainer counts labels; a target has one per codebook.
        labels = super()._get_num_items_in_batch(batch_samples, device)
        return None if labels is None else labels / batch_samples[0]["labels"].shape[1]

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        masked = self.views(self.accelerator.unwrap_model(model), inputs)
        return super().compute_loss(model, {**inputs, "masked": masked}, return_outputs, num_items_in_batch)

    def views(self, model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """The slots of the batch's targets that are hidden, (B, V, L) boolean; `model` is not wrapped."""
        labels, keys = inputs["labels"], self.arguments
        num_targets, num_codebooks = labels.shape
        if keys.views == "guided":
            hidden = torch.ones_like(labels, dtype=torch.bool)

            def confidence(hidden: torch.Tensor) -> torch.Tensor:
                ids = labels.masked_fill(hidden, model.config.mask_token_id)
                logits = model(inputs["input_ids"], inputs["attention_mask"], ids).logits
                of_slots = model.code_log_probs(logits).split(list(model.config.codebook_sizes), -1)
                return torch.stack([of_slot.amax(-1) for of_slot in of_slots], -1)

            with torch.no_grad(), evaluation_mode(model):
                return guided_views(confidence, hidden, keys.guided_first, keys.guided_refresh)

        shape = {
            "familiarity": (keys.num_views, num_codebooks + 2),
            "random": (keys.num_views, num_codebooks + 1),
            "sequential": (num_codebooks,),
        }[keys.views]

        def draw(targets: int) -> torch.Tensor:
            return torch.rand(targets, *shape, device=labels.device)

        noise = own_part_of_draw(draw, num_targets, labels.device)
        if keys.views == "sequential":
            return sequential_views(noise)
        if keys.views == "random":
            return random_views(noise)
        known = familiarity(inputs["input_ids"], inputs["attention_mask"], labels)
        progress = min(1.0, self.state.global_step / max(1, self.state.max_steps))
        return familiar_views(noise, known, progress, keys.full_view_share)
