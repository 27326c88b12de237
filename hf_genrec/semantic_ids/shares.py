"""The rows of a catalogue among the processes that work on it together: each has its share, and gets the others'."""

from typing import Any

import numpy as np
import torch.distributed


def own_share(rows: int) -> slice:
    """Which of so many rows are this process's, as many as another's but for one; all of them where it is alone."""
    if not torch.distributed.is_initialized():
        return slice(0, rows)
    processes, own = torch.distributed.get_world_size(), torch.distributed.get_rank()
    return slice(rows * own // processes, rows * (own + 1) // processes)


def of_all(own: Any) -> list[Any]:
    """What each process has, in their order and alike in all of them. Every process has to ask."""
    if not torch.distributed.is_initialized():
        return [own]
    found: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, own)
    return found


def of_first(own: Any) -> Any:
    """What the first process has. Every process has to ask."""
    found = [own]
    if torch.distributed.is_initialized():
        torch.distributed.broadcast_object_list(found, 0)
    return found[0]


def is_first() -> bool:
    """Whether this process is the first or the only one: the one that writes files."""
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


def joined_rows(own: np.ndarray) -> np.ndarray:
    """The rows (n, ...) of all processes, one after the other."""
    shares = of_all(own)
    return shares[0] if len(shares) == 1 else np.concatenate(shares)
