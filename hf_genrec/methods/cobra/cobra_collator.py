"""Batches of COBRA: of each item its codes and its vector's token."""

from collections.abc import Sequence

import numpy as np
import torch

from hf_genrec.methods.cobra.processing_cobra import CobraProcessor


class CascadeCollator:
    """
    Batches of rows: the answer token, and of each item its codes and its vector's token, padded on the right.

    Args:
        processor: token ids of the catalogue.
    """

    def __init__(self, processor: CobraProcessor):
        self.processor = processor

    def __call__(self, examples: Sequence[dict]) -> dict:
        """
        Args:
            examples: dicts with `items` and `first_target`, see `ItemWindows`.

        Returns:
            `input_ids` and `labels` (B, T), labels -100 outside the targets; and `target_places` (n,), where in
            `labels[:, 1:]` the targets' vector tokens are.
        """
        width = self.processor.tokens_per_item
        shape = (len(examples), 1 + width * max(len(example["items"]) for example in examples))
        input_ids, labels = np.full(shape, self.processor.tokenizer.pad_token_id), np.full(shape, -100)
        input_ids[:, 0] = self.processor.answer_token_id
        for line, example in enumerate(examples):
            tokens, first = self.processor.item_tokens(example["items"]), width * example["first_target"]
            input_ids[line, 1 : 1 + len(tokens)] = tokens
            labels[line, 1 + first : 1 + len(tokens)] = tokens[first:]
        is_vector = (labels[:, 1:] != -100) & (np.arange(shape[1] - 1) % width == width - 1)
        arrays = {"input_ids": input_ids, "labels": labels, "target_places": np.flatnonzero(is_vector)}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}
