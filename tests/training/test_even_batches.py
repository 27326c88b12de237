"""Batches for several processes have every row of an epoch once."""

from itertools import chain

import pytest
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import BatchSampler, SequentialSampler

from hf_genrec.training.even_batches import share_evenly


class Loader:
    """What accelerate makes of a data loader, for one of several processes."""

    def __init__(self, rows, batch_size, processes, process):
        batches = BatchSampler(SequentialSampler(range(rows)), batch_size, drop_last=False)
        self.batch_sampler = BatchSamplerShard(batches, processes, process)


@pytest.mark.parametrize("processes", [2, 3, 8])
@pytest.mark.parametrize("rows", [24, 25, 31, 40, 47, 48])
def test_all_rows_once_in_the_steps_of_one_process(rows, processes):
    size = 3
    shares = [list(share_evenly(Loader(rows, size, processes, of), processes).batch_sampler) for of in range(processes)]
    steps = -(-rows // (size * processes))
    assert [len(share) for share in shares] == [steps] * processes
    for of in range(processes):
        assert len(share_evenly(Loader(rows, size, processes, of), processes).batch_sampler) == steps
    whole = list(BatchSampler(SequentialSampler(range(rows)), size * processes, drop_last=False))
    for step, expected in enumerate(whole):
        parts = [share[step] for share in shares]
        joined = list(chain(*parts))
        assert joined[: len(expected)] == expected
        if len(expected) >= processes:
            assert joined == expected
            assert max(map(len, parts)) - min(map(len, parts)) <= 1
        else:
            assert [len(part) for part in parts] == [1] * processes  # the first rows again
