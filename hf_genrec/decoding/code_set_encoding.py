"""Histories of code sets, encoded: a state per item, as decoders over unordered codes read them."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers.utils import ModelOutput


@dataclass
class CodeSetEncoding(ModelOutput):
    """
    Histories as the decoder reads them.

    Args:
        last_hidden_state: (B, T, d), a state per item.
        item_mask: (B, T) boolean, the positions to attend to.
    """

    last_hidden_state: torch.Tensor = None  # type: ignore[assignment]  # a ModelOutput wants defaults
    item_mask: torch.Tensor = None  # type: ignore[assignment]

    def of_users(self, users: torch.Tensor) -> "CodeSetEncoding":
        """The histories at `users` (n,), in that order and as often as they stand there."""
        return CodeSetEncoding(self.last_hidden_state[users], self.item_mask[users])


def code_sets_of_items(
    config: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The codes of each item, and which items there are.

    Args:
        config: with `num_codebooks`, `max_history` and `pad_token_id`.
        input_ids: (B, T * M), codes of the items, padded by whole items.
        attention_mask (*optional*): (B, T * M), 1 for codes, 0 for padding; by default what is not the padding token.

    Returns:
        (B, T, M) int64, and (B, T) boolean; of a row without items the last padding item counts as one.

    Raises:
        ValueError: for half an item, none at all, or more than `max_history`.
    """
    num_codebooks, width = config.num_codebooks, input_ids.shape[1]
    length = width // num_codebooks
    if width % num_codebooks or not 1 <= length <= config.max_history:
        raise ValueError(
            f"input_ids are {width} tokens wide: give 1 to max_history={config.max_history} items of "
            f"{num_codebooks} codes."
        )
    is_code = input_ids.ne(config.pad_token_id) if attention_mask is None else attention_mask.bool()
    item_mask = is_code[:, ::num_codebooks].clone()
    item_mask[:, -1] |= ~item_mask.any(1)
    return input_ids.unflatten(1, (length, num_codebooks)), item_mask
