"""What an encoder has made of histories."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutput


@dataclass
class HistoryEncoding(BaseModelOutput):
    """
    `BaseModelOutput` of E slots.

    Args:
        attention_mask (`torch.Tensor` of shape `(B, E)`):
            1 for slots that the decoder reads, 0 for padding.
        records (`torch.Tensor` of shape `(B, E, layers, R)`, *optional*):
            What the decoder's layers look up their keys and values by (a shared pool's); there are no states then.
    """

    attention_mask: torch.Tensor = None  # type: ignore[assignment]  # always given: a ModelOutput asks for a default
    records: torch.Tensor | None = None

    def kept(self, row: int) -> torch.Tensor:
        """What is to be kept of a history, (n, ...): its records, or else its states."""
        part: Any = self.last_hidden_state if self.records is None else self.records
        return part[row][self.attention_mask[row].bool()].clone()

    @classmethod
    def joined(cls, entries: Sequence[torch.Tensor]) -> "HistoryEncoding":
        """Of what [`kept`] has given, padded on the left."""
        length = max(map(len, entries))
        mask = torch.zeros(len(entries), length, dtype=torch.long, device=entries[0].device)
        part = entries[0].new_zeros(len(entries), length, *entries[0].shape[1:])
        for row, entry in enumerate(entries):
            mask[row, length - len(entry) :] = 1
            part[row, length - len(entry) :] = entry
        # Records are whole numbers, states are not.
        return cls(attention_mask=mask, **{"last_hidden_state" if part.is_floating_point() else "records": part})
