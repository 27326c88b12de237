"""Two processes that share a batch have the rows, draws and gradients of one."""

import json
import os
import subprocess
import sys

import torch

from hf_genrec.decoding.shared_batch import counts_of_all, own_part_of_draw, own_start, rows_of_all

# Two processes have 3 and 2 rows; the second is forked, so that torch is loaded once.
PROGRAM = """
import json, os, sys
import torch
from hf_genrec.decoding.shared_batch import *
rank = 0 if os.fork() else 1
torch.distributed.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=rank, world_size=2)
torch.manual_seed(5)
whole = torch.arange(10, dtype=torch.float32).view(5, 2)
own = (whole[:3] if rank == 0 else whole[3:]).clone().requires_grad_()
counts = counts_of_all(len(own), own.device)
start = own_start(counts)
rows = rows_of_all(own, counts)
# Each process's loss compares its own rows with those of all.
torch.nn.functional.cross_entropy(own @ rows.T / 30, start + torch.arange(len(own)), reduction="sum").backward()
drawn = own_part_of_draw(lambda count: torch.rand(4, count), len(own), own.device, dim=1)
found = [counts, start, rows.tolist(), own.grad.tolist(), drawn.tolist(), rows_of_all(rows[:rank]).tolist()]
os.write(1, (json.dumps(found) + "\\n").encode())  # at once: the lines of two processes
torch.distributed.barrier()
os._exit(0)
"""


def test_two_processes(tmp_path):
    finished = subprocess.run(
        [sys.executable, "-c", PROGRAM, tmp_path / "store"],
        capture_output=True,
        text=True,
        env=os.environ | {"GLOO_SOCKET_IFNAME": "lo"},
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    found = sorted(map(json.loads, finished.stdout.splitlines()), key=lambda line: line[1])
    whole = torch.arange(10, dtype=torch.float32).view(5, 2).requires_grad_()
    torch.nn.functional.cross_entropy(whole @ whole.T / 30, torch.arange(5), reduction="sum").backward()
    torch.manual_seed(5)
    draw = torch.rand(4, 5)
    assert [line[:2] for line in found] == [[[3, 2], 0], [[3, 2], 3]]
    for (_, start, rows, gradient, drawn, one), end in zip(found, (3, 5), strict=True):
        assert rows == whole.tolist()
        assert torch.equal(torch.tensor(drawn), draw[:, start:end])
        torch.testing.assert_close(torch.tensor(gradient), whole.grad[start:end])
        assert one == whole[:1].tolist()  # of which the first process has none


def test_a_process_of_its_own():
    rows = torch.rand(3, 2)
    assert counts_of_all(3, rows.device) == [3]
    assert own_start([3]) == 0
    assert rows_of_all(rows) is rows
    torch.manual_seed(1)
    drawn = own_part_of_draw(lambda count: torch.rand(count, 2), 3, rows.device)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(3, 2))
