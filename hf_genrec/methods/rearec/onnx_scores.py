"""What of a ReaRec model is exported to ONNX: histories in, the score of every item out."""

import torch
from torch import nn

from hf_genrec.methods.rearec.modeling_rearec import ReaRecForNextItem


class ItemScores(nn.Module):
    """
    Scores (B, N) of `input_ids` and `attention_mask` (B, T). Item vectors are made once and are constants, those of
    text backbones too.

    Raises:
        ValueError: for a model with a rule of adaptive depth.
    """

    item_vectors: torch.Tensor

    def __init__(self, model: ReaRecForNextItem):
        super().__init__()
        if model.config.depth_rule is not None:
            raise ValueError(
                f"depth_rule {model.config.depth_rule}: users take different numbers of reasoning steps, which a graph "
                f"cannot: export the run as it was before `hf-genrec calibrate-depth`"
            )
        self.model = model
        self.register_buffer("item_vectors", model.item_vectors().detach().clone())

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        users = self.model.user_vectors(input_ids, attention_mask, self.item_vectors)
        return users @ self.item_vectors[: self.model.config.num_items].T
