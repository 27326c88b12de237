"""A batch that several processes share: each has some of its rows, those of the first process come first.

Losses that compare rows with others of the batch, and draws of numbers for each row, are those of the whole batch. In a
process of its own everything is as it was. All processes have to call these functions, in the same order.
"""

from collections.abc import Callable

import torch
import torch.distributed


def is_shared() -> bool:
    """Whether there are several processes."""
    return (
        torch.distributed.is_available()
        and torch.distributed.is_initialized()
        and torch.distributed.get_world_size() > 1
    )


def counts_of_all(count: int, device: torch.device) -> list[int]:
    """How many rows each process has, of which this one has `count`."""
    if not is_shared():
        return [count]
    counts = torch.zeros(torch.distributed.get_world_size(), dtype=torch.long, device=device)
    counts[torch.distributed.get_rank()] = count
    torch.distributed.all_reduce(counts)
    return counts.tolist()


def own_start(counts: list[int]) -> int:
    """The place of this process's first row among those of all processes."""
    return sum(counts[: torch.distributed.get_rank()]) if is_shared() else 0


def rows_of_all(rows: torch.Tensor, counts: list[int] | None = None) -> torch.Tensor:
    """
    The rows (n, ...) of every process, one process after the other. Gradients reach the process that a row is from.

    Args:
        counts: of [`counts_of_all`], where the caller has them already.
    """
    if not is_shared():
        return rows
    return _RowsOfAll.apply(rows, counts_of_all(len(rows), rows.device) if counts is None else counts)


def own_part_of_draw(draw: Callable[[int], torch.Tensor], count: int, device: torch.device, dim: int = 0):
    """
    Numbers for `count` rows: of what one process draws for all rows of the batch, this process's part. Processes whose
    generators are in the same state have together what one process has.

    Args:
        draw: from a number of rows to numbers with as many rows in the dimension `dim`.
    """
    counts = counts_of_all(count, device)
    return draw(sum(counts)).narrow(dim, own_start(counts), count)


class _RowsOfAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows: torch.Tensor, counts: list[int]) -> torch.Tensor:
        ctx.counts = counts
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in counts]
        torch.distributed.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: torch.Tensor):
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(gradient)
        start = own_start(ctx.counts)
        return gradient[start : start + ctx.counts[torch.distributed.get_rank()]], None
