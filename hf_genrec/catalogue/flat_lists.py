"""Lists of different lengths, one after the other in a flat tensor."""

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
