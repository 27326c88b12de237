"""What calls cost beside each other, on a machine that may be busy with something else."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass
class Cost:
    """Of one call: wall clock and processor time, all threads of this process, in seconds."""

    seconds: float
    cpu_seconds: float


def median_costs(calls: Mapping[str, Callable[[], Any]], rounds: int = 5) -> dict[str, Cost]:
    """
    Medians over `rounds` in which every call is made once, in turn, so that what else the machine does falls on all of
    them. One round before these is not counted.
    """
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for _ in range(1 + rounds):
        for name, call in calls.items():
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            measured[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {
        name: Cost(*(statistics.median(column) for column in zip(*pairs[1:], strict=True)))
        for name, pairs in measured.items()
    }
