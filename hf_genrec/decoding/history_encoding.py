"""What an encoder has made of histories."""

from dataclasses import dataclass

import torch
from transformers.modeling_outputs import BaseModelOutput


@dataclass
class HistoryEncoding(BaseModelOutput):
    """
    `BaseModelOutput` of E slots.

    Args:
        attention_mask (`torch.Tensor` of shape `(B, E)`):
            1 for slots that the decoder reads, 0 for padding.
    """

    attention_mask: torch.Tensor = None  # type: ignore[assignment]  # always given: a ModelOutput asks for a default
