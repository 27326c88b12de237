"""The trainer of REG4Rec: the order of the codes that the decoder is taught, random first and its own later."""

import torch

from hf_genrec.methods.reg4rec.reg4rec_search import confidence_orders
from hf_genrec.training.loss_terms import LossTermsTrainer


class Reg4RecTrainer(LossTermsTrainer):
    """
    `LossTermsTrainer` for `Reg4RecForConditionalGeneration`, on batches of `CodeSetCollator`.

    At first each target's codebooks stand in an order drawn anew each time, from the generator that a checkpoint saves:
    a resumed training draws what it would have drawn. Later they stand in the order in which the model itself would go
    through them when it recommends. A model with `code_order="fixed"` is taught that order alone.

    Args:
        confidence_order_from (`float`): the share of all steps after which the model's own order is taught; 1: never.
        own_order_loss (`str`): what a step of the own order teaches, `"all"` unused codebooks or the `"next"` one.
    """

    def __init__(self, *args, confidence_order_from: float = 0.3, own_order_loss: str = "all", **kwargs):
        super().__init__(*args, **kwargs)
        self.confidence_order_from = confidence_order_from
        self.own_order_loss = own_order_loss

    def num_targets(self, inputs) -> int:
        return len(inputs["input_ids"])

    def _get_num_items_in_batch(self, batch_samples, device):
        # Trainer counts labels; a target has one per codebook, and a history may have several targets.
        rows = torch.tensor([sum(len(batch["input_ids"]) for batch in batch_samples)], device=device)
        return (self.accelerator.gather(rows) if self.args.world_size > 1 else rows).sum()

    def loss_inputs(self, model, inputs, num_targets: int):
        own_order = self.state.global_step >= self.confidence_order_from * self.state.max_steps
        if not own_order or model.config.code_order != "confidence":
            return inputs
        orders = confidence_orders(model, inputs["input_ids"], inputs["attention_mask"], inputs["labels"])
        return {**inputs, "orders": orders, "next_only": self.own_order_loss == "next"}
