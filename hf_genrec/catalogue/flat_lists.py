"""Lists of different lengths, one after the other in a flat tensor."""

from collections.abc import Sequence

import numpy as np
import torch


def expand_ranges(begin: torch.Tensor, end: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The places of the ranges [begin, end), one range after the other.

    Args:
        begin, end: (n,) int64.

    Returns:
        places (total,), and the range each is of (total,).
    """
    counts = end - begin
    owner = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    return begin[owner] + rank_in_list(owner, counts), owner


def rank_in_list(owner: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """
    The place of each entry in its owner's list, from 0.

    Args:
        owner: (total,) int64, whose each entry is, rising.
        counts: (n,) int64, the length of each owner's list.

    Returns:
        (total,) int64
    """
    return torch.arange(len(owner), device=owner.device) - (counts.cumsum(0) - counts)[owner]


def different_items(histories: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """
    Of each history its different items, rising.

    Returns:
        the place of the history that each is of, rising, and the catalogue rows, (n,) int64 each.
    """
    different = [np.unique(history) for history in histories]
    owners = np.repeat(np.arange(len(different)), [len(items) for items in different])
    return owners, np.concatenate([np.empty(0, dtype=np.int64), *different])
