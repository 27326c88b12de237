"""Examples -> batches of token ids: one row per target, or packed."""

from collections.abc import Sequence

import numpy as np
import torch

from hf_genrec.decoding.processing_sequences import GenRecProcessor


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


class Seq2SeqCollator:
    """
    Batches for encoder-decoders: the prompt in `input_ids`, the target's codes in `labels`.

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
            `input_ids`, `attention_mask` (B, S) left-padded, and `labels` (B, L).
        """
        prompts = self.processor.prompts([example["history"] for example in examples])
        return {**prompts, "labels": self.token_ids[[int(example["target"]) for example in examples]]}


class PackedCollator:
    """
    Batches of packed rows for models that read `block_ids`: per segment its items as history codes, and before each
    target item a block of answer token and the target's codes.

    Args:
        processor: token ids of the catalogue.
    """

    def __init__(self, processor: GenRecProcessor):
        self.token_ids = processor.token_ids  # (items, L)
        self.answer_token_id = processor.answer_token_id
        self.pad_token_id = processor.tokenizer.pad_token_id or 0

    def __call__(self, examples: Sequence[dict]) -> dict:
        """
        Args:
            examples: dicts with `segments`, see `PackedExamples`.

        Returns:
            `input_ids`, `block_ids`, `labels` (B, T): padded on the right with block -1, labels -100 outside the
            targets' codes; `logits_to_keep` (B, T) boolean, the rows that the loss reads, and `kept_places` (n,), where
            all rows one after the other have them.
        """
        segments = [map(self._segment, example["segments"]) for example in examples]
        rows = [[np.concatenate(parts) for parts in zip(*row, strict=True)] for row in segments]
        shape = (len(rows), max(len(ids) for ids, _ in rows))
        input_ids, block_ids = np.full(shape, self.pad_token_id), np.full(shape, -1)
        for line, (ids, blocks) in enumerate(rows):
            input_ids[line, : len(ids)], block_ids[line, : len(ids)] = ids, blocks
        is_code = (block_ids > 0) & (input_ids != self.answer_token_id)
        labels = np.where(is_code, input_ids, -100)
        kept = np.zeros(shape, dtype=bool)
        kept[:, :-1] = is_code[:, 1:]
        tensors = {"input_ids": input_ids, "block_ids": block_ids, "labels": labels, "logits_to_keep": kept}
        tensors["kept_places"] = np.flatnonzero(kept)
        return {name: torch.from_numpy(array) for name, array in tensors.items()}

    def _segment(self, segment: tuple[np.ndarray, int]) -> tuple[np.ndarray, np.ndarray]:
        """Token ids and blocks of a segment, (tokens,) each."""
        items, first_target = segment
        codes = self.token_ids[items]  # (n, L)
        num_targets, levels = len(items) - first_target, codes.shape[1]
        # One line a target: its block, then its codes as history for the targets after it.
        lines = np.empty((num_targets, 1 + 2 * levels), dtype=np.int64)
        lines[:, 0] = self.answer_token_id
        lines[:, 1 : 1 + levels] = lines[:, 1 + levels :] = codes[first_target:]
        blocks = np.zeros_like(lines)
        blocks[:, : 1 + levels] = np.arange(1, num_targets + 1)[:, None]
        before = codes[:first_target].reshape(-1)
        # Nothing reads the last target as history.
        ids = np.concatenate([before, lines.reshape(-1)[:-levels]])
        return ids, np.concatenate([np.zeros_like(before), blocks.reshape(-1)[:-levels]])
