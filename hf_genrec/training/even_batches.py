"""Batches of an epoch for several processes: what is left at its end is shared out, and nothing is read twice."""

from collections.abc import Iterator, Sized
from typing import Any, cast

from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import BatchSampler


class EvenBatches(BatchSampler):
    """
    The batches of all processes, one process's after the other. Those of the last step are smaller, and differ by one
    row at most; one process would have their rows in one batch. Where there are fewer rows than processes, the first
    rows of the epoch are read again, since none can do without a row.

    Args:
        sampler: the order of the epoch.
        batch_size: rows of a process.
        num_processes: how many there are.
    """

    def __init__(self, sampler: Any, batch_size: int, num_processes: int):
        super().__init__(sampler, batch_size, drop_last=False)
        self.num_processes = num_processes

    def __len__(self) -> int:
        step = self.batch_size * self.num_processes
        return -(-len(cast(Sized, self.sampler)) // step) * self.num_processes

    def __iter__(self) -> Iterator[list[int]]:
        order, processes = list(self.sampler), self.num_processes
        step = self.batch_size * processes
        for start in range(0, len(order), step):
            rows = order[start : start + step]
            while len(rows) < processes:
                rows += order[: processes - len(rows)]
            for process in range(processes):
                # The last process has the fewest: accelerate takes a step whose last batch is full for a full one.
                yield rows[-(-len(rows) * process // processes) : -(-len(rows) * (process + 1) // processes)]


def share_evenly(loader: Any, num_processes: int) -> Any:
    """A data loader that accelerate has prepared, with [`EvenBatches`] in place of its own where it fills up."""
    shard = loader.batch_sampler
    if isinstance(shard, BatchSamplerShard) and not shard.drop_last and not shard.split_batches:
        shard.batch_sampler = EvenBatches(shard.batch_sampler.sampler, shard.batch_sampler.batch_size, num_processes)
        shard.even_batches = False
    return loader
