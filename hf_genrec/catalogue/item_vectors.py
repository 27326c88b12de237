"""Vectors of items that come from outside, such as text embeddings: looked at before they are used, and taken away."""

import numpy as np
import torch


def checked_vectors(vectors: np.ndarray | torch.Tensor, rows: int, like: torch.Tensor) -> torch.Tensor:
    """
    Vectors (rows, D) with the dtype and device of `like` (..., D).

    Raises:
        ValueError: for another shape, or vectors with NaN or infinity.
    """
    new = torch.as_tensor(vectors, dtype=like.dtype, device=like.device)
    expected = (rows, like.shape[1])
    if new.shape != expected:
        raise ValueError(
            f"Text embeddings have shape {tuple(new.shape)}, expected {expected}: one row per item, item_vector_size "
            f"long."
        )
    if not new.isfinite().all():
        row = int((~new.isfinite().all(1)).nonzero()[0])
        raise ValueError(f"The text embedding of row {row} holds NaN or infinity: embed this item again.")
    return new


def without_rows(table: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
    """A table (N, D) without those rows; the ones behind them move up."""
    stays = torch.ones(len(table), dtype=torch.bool)
    stays[torch.from_numpy(rows)] = False
    return table[stays.to(table.device)]
