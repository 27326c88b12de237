"""Examples -> batches of code sets."""

from collections.abc import Sequence

import torch

from hf_genrec.methods.reg4rec.processing_reg4rec import Reg4RecProcessor


class CodeSetCollator:
    """
    Batches for REG4Rec: histories, and the codes and category of the target after each.

    Args:
        processor: prompts, token ids and categories of the catalogue.
    """

    def __init__(self, processor: Reg4RecProcessor):
        self.processor = processor
        self.token_ids = torch.from_numpy(processor.token_ids)  # (items, M)
        self.categories = torch.from_numpy(processor.categories)  # (items,)

    def __call__(self, examples: Sequence[dict]) -> dict:
        """
        Args:
            examples: dicts with `history` (n,) and `target`, catalogue rows.

        Returns:
            `input_ids` and `attention_mask` (B, T * M), left-padded; `labels` (B, M), column r of codebook r; and
            `category_labels` (B,).
        """
        prompts = self.processor.prompts([example["history"] for example in examples])
        targets = [int(example["target"]) for example in examples]
        return prompts | {"labels": self.token_ids[targets], "category_labels": self.categories[targets]}
