"""Examples -> batches of code sets."""

from collections.abc import Sequence

import numpy as np
import torch

from hf_genrec.methods.reg4rec.processing_reg4rec import Reg4RecProcessor


class CodeSetCollator:
    """
    Batches for REG4Rec: histories, and the codes and category of the target after each.

    Args:
        processor: prompts, token ids and categories of the catalogue.
        horizon_decay: w, how much a target that comes later counts against the one before it.
    """

    def __init__(self, processor: Reg4RecProcessor, horizon_decay: float = 1.0):
        self.processor = processor
        self.horizon_decay = horizon_decay
        self.token_ids = torch.from_numpy(processor.token_ids)  # (items, M)
        self.categories = torch.from_numpy(processor.categories)  # (items,)

    def __call__(self, examples: Sequence[dict]) -> dict:
        """
        Args:
            examples: dicts with `history` (n,) and `target`, catalogue rows; or with `targets` (h,), the next items of
                the user, in its place.

        Returns:
            `input_ids` and `attention_mask` (B, T * M), left-padded; `labels` (B, M), column r of codebook r; and
            `category_labels` (B,). Of examples with several targets as many lines of labels to each history as any has,
            and `target_weights` (lines,): w^(j - 1) of the j-th target, normalised (equation 15), 0 of lines too many.
        """
        prompts = self.processor.prompts([example["history"] for example in examples])
        if "targets" not in examples[0]:
            targets = [int(example["target"]) for example in examples]
            return prompts | {"labels": self.token_ids[targets], "category_labels": self.categories[targets]}
        counts = torch.tensor([len(example["targets"]) for example in examples])
        width = int(counts.max())
        rows = torch.tensor([np.resize(example["targets"], width).tolist() for example in examples]).flatten()
        weights = (self.horizon_decay ** torch.arange(width)) * (torch.arange(width) < counts[:, None])
        weights = (weights / weights.sum(1, keepdim=True)).flatten()
        return prompts | {
            "labels": self.token_ids[rows], "category_labels": self.categories[rows], "target_weights": weights
        }  # fmt: skip
