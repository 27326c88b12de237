"""Lists of different lengths, one after the other in a flat tensor."""

import torch


def expand_ranges(begin: torch.Tensor, end: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """
    The places of the ranges [begin, end), one range after the other.

    Args:
        begin, end: (n,) int64.

    Returns:
        places (total,), the range each is of (total,), and where each range's places begin among them (n + 1,).
    """
    counts = end - begin
    offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    owner = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    places = torch.arange(len(owner), device=counts.device) + (begin - offsets[:-1])[owner]
    return places, owner, offsets


def first_of_each(owner: torch.Tensor, num_owners: int, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The first k entries of each owner's list.

    Args:
        owner: (n,) int64, whose each entry is; an owner's entries stand side by side, owners rising.
        num_owners: how many lists there are, empty ones included.

    Returns:
        rank: (n,) place of each entry in its list.
        first: (n,) bool, `rank < k`.
    """
    counts = torch.bincount(owner, minlength=num_owners)
    rank = torch.arange(len(owner), device=owner.device) - (counts.cumsum(0) - counts)[owner]
    return rank, rank < k
