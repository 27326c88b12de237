"""Examples -> batches of token ids, with the processor's prompts."""

from collections.abc import Sequence

import torch

from hf_genrec.models.processing_genrec import GenRecProcessor


class NextItemCollator:
    """
    Batches for models with aligned logits: history codes, answer token, the target's codes.

    Args:
        processor: prompts and token ids of the catalogue.
    """

    def __init__(self, processor: GenRecProcessor):
        self.processor = processor
        self.token_ids = torch.from_numpy(processor.token_ids)  # (items, L)

    def __call__(self, examples: Sequence[dict]) -> dict:
        """
        Args:
            examples: dicts with `history` (n,) and `target`, catalogue rows.

        Returns:
            `input_ids`, `attention_mask`, `labels` (B, S + L): left-padded, labels -100 outside the target's codes; and
            `logits_to_keep`, L + 1, the rows that the loss reads.
        """
        prompts = self.processor.prompts([example["history"] for example in examples])
        codes = self.token_ids[[int(example["target"]) for example in examples]]
        prompt_length = prompts["input_ids"].shape[1]
        return {
            "input_ids": torch.cat([prompts["input_ids"], codes], dim=1),
            "attention_mask": torch.cat([prompts["attention_mask"], torch.ones_like(codes)], dim=1),
            "labels": torch.cat([torch.full((len(codes), prompt_length), -100), codes], dim=1),
            "logits_to_keep": codes.shape[1] + 1,
        }
