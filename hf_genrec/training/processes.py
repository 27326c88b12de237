"""How many processes were started, and whether the command at hand is work for as many."""

import os
from collections.abc import Callable, Mapping
from typing import Any

TORCHRUN = "torchrun --standalone --nproc_per_node"
# Of a launcher that starts processes by MPI, which accelerate asks for how many there are.
OF_MPI = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


def processes_started(environment: Mapping[str, str] = os.environ) -> int:
    """How many processes a launcher has started to work together, this one among them."""
    return int(environment.get("WORLD_SIZE", "1")) if "LOCAL_RANK" in environment else 1


def require_one_process(command: str, remedy: str = "start it without torchrun or accelerate") -> None:
    """
    Raises:
        ValueError: if several processes were started, each of which would do all the work and write the same files.
    """
    started = processes_started()
    if started > 1:
        raise ValueError(f"{command} is the work of one process, and {started} were started: {remedy}")


def require_as_many_as_asked_for(environment: Mapping[str, str] = os.environ) -> None:
    """
    Raises:
        ValueError: if `accelerate launch` was asked for several processes and has started one: on processors it does,
            and where it finds no or one GPU.
    """
    # It names them an address to meet at, and gives this one no rank.
    alone = "ACCELERATE_USE_CPU" in environment and "MASTER_ADDR" in environment and "WORLD_SIZE" not in environment
    if alone and not any(name in environment for name in OF_MPI):
        raise ValueError(
            "accelerate launch was asked for several processes and has started one, which would train alone: use "
            f"{TORCHRUN} 2 -m hf_genrec.trainers.train with the same options, or --num_processes 1"
        )


def require_gpus_to_shard(fsdp: bool, has_accelerator: bool) -> None:
    """
    Raises:
        ValueError: for FSDP on processors, where accelerate would train without it and say nothing.
    """
    if fsdp and not has_accelerator:
        raise ValueError(
            f"fsdp shards weights between GPUs, and there is none: on processors use {TORCHRUN} 2 -m "
            "hf_genrec.trainers.train, or DeepSpeed (configs/accelerate/zero3.yaml)"
        )


def start_group(use_cpu: bool) -> None:
    """Make a group of the processes that were started together; one that was started alone stays alone."""
    if processes_started() > 1:
        from accelerate import PartialState

        PartialState(cpu=use_cpu)


def end_group() -> None:
    """Wait until all processes of the group have come here, and end it."""
    import torch.distributed

    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def by_main_process(work: Callable[[], Any]) -> Any:
    """
    What the first of several processes finds, in all of them, or the error that it ends with: of work that writes or
    removes files. One process does it itself.
    """
    import torch.distributed

    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return work()
    found: list[Any] = [None, None]
    if torch.distributed.get_rank() == 0:
        try:
            found[0] = work()
        except (ValueError, OSError) as error:
            found[1] = error
    torch.distributed.broadcast_object_list(found, 0)
    if found[1] is not None:
        raise found[1]
    return found[0]
