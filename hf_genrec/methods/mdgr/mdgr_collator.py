"""Examples -> batches of histories and the codes of the targets."""

from collections.abc import Sequence

import torch

from hf_genrec.decoding.processing_code_sets import CodeSetProcessor


class TargetCodesCollator:
    """
    Batches for MDGR: histories, and the codes of the target after each.

    Args:
        processor: prompts and token ids of the catalogue.
    """

    def __init__(self, processor: CodeSetProcessor):
        self.processor = processor
        self.token_ids = torch.from_numpy(processor.token_ids)  # (items, L)

    def __call__(self, examples: Sequence[dict]) -> dict:
        """
        Args:
            examples: dicts with `history` (n,) and `target`, catalogue rows.

        Returns:
            `input_ids` and `attention_mask` (B, T * L), left-padded, and `labels` (B, L), column r of codebook r.
        """
        prompts = self.processor.prompts([example["history"] for example in examples])
        return prompts | {"labels": self.token_ids[[int(example["target"]) for example in examples]]}
