"""Item ids <-> LIGER's inputs: codes, and the catalogue rows that they are of."""

from collections.abc import Sequence

import numpy as np
import torch

from ...decoding.processing_sequences import GenRecProcessor


class LigerProcessor(GenRecProcessor):
    """[`GenRecProcessor`] whose prompts say besides which item each code is of."""

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", "item_rows"]

    def prompts(self, histories: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
        """
        As [`GenRecProcessor.prompts`], with `item_rows` (B, n), -1 for padding on the left.
        """
        newest = self._newest(histories)
        rows = np.full((len(newest), max((len(history) for history in newest), default=0)), -1, dtype=np.int64)
        for line, history in enumerate(newest):
            rows[line, rows.shape[1] - len(history) :] = history
        return {**super().prompts(newest), "item_rows": torch.from_numpy(rows)}


LigerProcessor.register_for_auto_class("AutoProcessor")

__all__ = ["LigerProcessor"]
