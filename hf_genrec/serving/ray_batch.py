"""The parts of a batch by a pool of Ray actors: each holds the model once, reads its rows and writes its parts.

The rows do not pass through the cluster: what is sent are numbers of parts and their records, so all machines must see
the files under the same paths. The parts are those that one process makes, byte for byte, if it computes with as many
threads as an actor.
"""

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from hf_genrec.serving.batch import Batch, PartMaker
from hf_genrec.serving.ray_cluster import connect, load_ray

OBJECT_STORE = 100 * 2**20  # bytes; nothing large is kept there


class PartActor:
    """Called by Ray Data with the number of a part; loads the model for the first one."""

    def __init__(self, batch: Batch, settings: Mapping[str, Any], threads: int):
        import torch

        torch.set_num_threads(threads)
        self._batch, self._settings = batch, settings
        self._make: PartMaker | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, str]:
        """The part's `record` as JSON, or what was `refused`: of errors Ray keeps the text of their trace alone."""
        try:
            self._make = self._make or PartMaker(self._batch, self._settings)
            return {"record": json.dumps(self._make(int(row["number"]))), "refused": ""}
        except (ValueError, OSError) as error:
            return {"record": "", "refused": str(error) or type(error).__name__}


def on_ray(
    batch: Batch,
    settings: Mapping[str, Any],
    numbers: Sequence[int],
    advance: Callable[[int], Any],
    workers: int | None = None,
) -> Iterator[dict[str, Any]]:
    """
    The records of parts, in the order in which they are finished.

    Args:
        workers: how many actors; by default as many as the cluster has cores for. Each uses the threads that torch
            uses here (OMP_NUM_THREADS).

    Raises:
        ValueError: no machine of the cluster has as many cores as an actor has threads; what an actor raised.
        ImportError: Ray is not installed.
    """
    ray = load_ray("--engine ray")
    import torch
    from ray.data import ActorPoolStrategy, DataContext, from_items

    threads = torch.get_num_threads()
    started = not ray.is_initialized()
    if started:
        _connect(ray, threads, workers, len(numbers))
    try:
        DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        actors = min(workers or _room(ray, threads), len(numbers))
        _require_room(ray, threads)
        actor: Any = PartActor  # Ray's annotation of `map` knows functions alone
        parts = from_items([{"number": number} for number in numbers], override_num_blocks=len(numbers))
        pool = ActorPoolStrategy(size=actors)
        records = parts.map(actor, fn_constructor_args=(batch, settings, threads), compute=pool, num_cpus=threads)
        for row in records.iter_rows():
            if row["refused"]:
                raise ValueError(row["refused"])
            record = json.loads(row["record"])
            advance(record[batch.work.unit])
            yield record
    except ray.exceptions.RayError as error:
        raise RuntimeError(f"Ray gave up: {' '.join(str(error).split())[-300:]}") from error
    finally:
        if started:
            ray.shutdown()


def _connect(ray: Any, threads: int, workers: int | None, parts: int) -> None:
    count = min(workers or max(1, (os.cpu_count() or 1) // threads), parts)
    own = {"num_cpus": count * threads, "object_store_memory": OBJECT_STORE}
    connect(ray, own, logging_level="ERROR", log_to_driver=False)


def _room(ray: Any, threads: int) -> int:
    """How many actors the cluster has cores for."""
    return max(1, sum(_cores(node) // threads for node in ray.nodes()))


def _require_room(ray: Any, threads: int) -> None:
    most = max((_cores(node) for node in ray.nodes()), default=0)
    if most < threads:
        raise ValueError(
            f"an actor computes with {threads} threads, as this process does, and no machine of the cluster offers "
            f"more than {most} cores: set OMP_NUM_THREADS={max(most, 1)}"
        )


def _cores(node: dict[str, Any]) -> int:
    return int(node["Resources"].get("CPU", 0)) if node["Alive"] else 0
