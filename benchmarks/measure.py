"""What every benchmark needs: alternating timings whose ratios come from one run, and a record of the machine.

A benchmark is a program, `python -m benchmarks.<name>`: it prints a table and writes `benchmarks/results/<name>.json`.
"""

import argparse
import datetime
import json
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from hf_genrec.files import whole_file

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "transformers", "numpy", "scikit-learn", "faiss-cpu", "semantic-id", "trl")


def arguments(description: str | None, **more: Any) -> argparse.Namespace:
    """Command line of a benchmark: `--threads 1 2`, `--repeats`, and `more` (name=default, a number or a list)."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="thread counts, measured in turn")
    parser.add_argument("--repeats", type=int, default=7, help="timed rounds; the figures are medians")
    for name, default in more.items():
        kind = type(default[0]) if isinstance(default, list) else type(default)
        nargs = "+" if isinstance(default, list) else None
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, nargs=nargs, default=default, help=" ")
    return parser.parse_args()


class threads(threadpool_limits):
    """`with threads(n):` torch and the BLAS and OpenMP libraries use n threads."""

    def __init__(self, count: int):
        super().__init__(limits=count)
        self.before = torch.get_num_threads()
        torch.set_num_threads(count)

    def __exit__(self, *details):
        torch.set_num_threads(self.before)
        return super().__exit__(*details)


def alternate(
    candidates: dict[str, Callable[[], Any]], repeats: int = 7, warmup: int = 1
) -> dict[str, dict[str, float]]:
    """
    Time each candidate once per round, in turn, so that whatever else the machine does falls on all of them.

    Returns:
        per candidate the medians of wall clock `seconds` and `cpu_seconds` of one call, and the `seconds_min` and
        `seconds_max` of the rounds.
    """
    rounds: dict[str, list[tuple[float, float]]] = {name: [] for name in candidates}
    for turn in range(warmup + repeats):
        for name, call in candidates.items():
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            if turn >= warmup:
                rounds[name].append((wall, cpu))
    return {name: _summary(measured) for name, measured in rounds.items()}


def _summary(measured: Sequence[tuple[float, float]]) -> dict[str, float]:
    wall, cpu = zip(*measured, strict=True)
    return {
        "seconds": statistics.median(wall),
        "cpu_seconds": statistics.median(cpu),
        "seconds_min": min(wall),
        "seconds_max": max(wall),
    }


def peak_memory_mib() -> float:
    """The largest resident memory this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def environment() -> dict[str, Any]:
    """Machine, versions and date of a result."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "versions": {"python": platform.python_version(), **versions},
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def write_result(name: str, command: str, settings: dict[str, Any], results: Any) -> Path:
    """
    Write `benchmarks/results/<name>.json` with the environment beside the figures, whole or not at all: a line for each
    of these, and for each of the results.
    """
    path = RESULTS / f"{name}.json"
    content = {"command": command, **environment(), "settings": settings}
    lines = [f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in content.items()]
    if isinstance(results, dict):
        rows = [f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in results.items()]
        body = "{\n" + ",\n".join(rows) + "\n}"
    else:
        body = "[\n" + ",\n".join(json.dumps(value, allow_nan=False) for value in results) + "\n]"
    with whole_file(path) as temporary:
        temporary.write_text("{\n" + ",\n".join([*lines, f'"results": {body}']) + "\n}\n", encoding="utf-8")
    return path
