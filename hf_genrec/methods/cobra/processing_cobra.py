"""Item ids <-> COBRA's rows: codes, and behind those of each item the token of its dense vector."""

from collections.abc import Sequence

import numpy as np
import torch

from ...decoding.processing_sequences import GenRecProcessor


class CobraProcessor(GenRecProcessor):
    """
    [`GenRecProcessor`] whose prompts begin with the answer token and hold, behind the codes of each item, the token of
    its dense vector: `vocab_size` plus the item's catalogue row.

    Args:
        tokenizer: a tokenizer whose whole vocabulary is the codes, level after level, the answer token and padding.
        codebook_sizes (`list[int]`): codes per level, L numbers.
        max_history (`int`): the newest items of a history that are read; older ones are cut off.

    Raises:
        ValueError: for a tokenizer of other tokens.
    """

    def __init__(self, tokenizer, codebook_sizes: Sequence[int] = (), max_history: int = 50):
        super().__init__(tokenizer, codebook_sizes, max_history)
        expected = list(range(sum(self.codebook_sizes) + 2))
        found = [*np.concatenate(self.code_token_ids).tolist(), self.answer_token_id, tokenizer.pad_token_id]
        if found != expected or max(tokenizer.get_vocab().values()) != expected[-1]:
            raise ValueError(
                f"The tokenizer's tokens are not the codes of codebook_sizes={self.codebook_sizes} in their order, the "
                f"answer token and padding: build it with code_tokenizer."
            )

    @property
    def vocab_size(self) -> int:
        """Tokens of codes, answer and padding; from here on tokens stand for items' vectors."""
        return sum(self.codebook_sizes) + 2

    @property
    def tokens_per_item(self) -> int:
        return self.num_levels + 1

    def is_end_of_history(self, token_ids: torch.Tensor) -> torch.Tensor:
        return (token_ids >= self.vocab_size) | (token_ids == self.answer_token_id)

    def item_tokens(self, rows: np.ndarray) -> np.ndarray:
        """(n * (L + 1),): the codes of items (n,) given as catalogue rows, each followed by its vector's token."""
        return np.concatenate([self.token_ids[rows], self.vocab_size + rows[:, None]], axis=1).reshape(-1)

    def prompts(self, histories: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
        """
        Prompts of histories given as catalogue rows, oldest first: the answer token, then the newest `max_history`
        items.

        Returns:
            `input_ids` and `attention_mask`, (B, S) int64, padded on the left by whole items.
        """
        histories = self._newest(histories)
        width = 1 + max((len(history) for history in histories), default=0) * self.tokens_per_item
        input_ids = np.full((len(histories), width), self.tokenizer.pad_token_id, dtype=np.int64)
        attention_mask = np.zeros((len(histories), width), dtype=np.int64)
        for line, history in enumerate(histories):
            tokens = self.item_tokens(history)
            begin = width - len(tokens) - 1
            input_ids[line, begin], input_ids[line, begin + 1 :] = self.answer_token_id, tokens
            attention_mask[line, begin:] = 1
        return {"input_ids": torch.from_numpy(input_ids), "attention_mask": torch.from_numpy(attention_mask)}


CobraProcessor.register_for_auto_class("AutoProcessor")

__all__ = ["CobraProcessor"]
