"""Settings that transformers' `Trainer` reads when it is built or at its first step, tried before any work is done."""

from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from typing import Any

import torch
from transformers import get_scheduler
from transformers.integrations import get_reporting_integration_callbacks
from transformers.training_args import ParallelMode


def check_of_trainer(arguments: Any) -> None:
    """
    Raises:
        ValueError: for an upload while training, a reporter, optimizer or schedule that cannot be made, or sharding in
            one process; names the key.
    """
    if arguments.push_to_hub:
        raise ValueError("push_to_hub: true uploads while it trains: leave it out, `hf-genrec push` uploads the run")
    if arguments.fsdp and arguments.parallel_mode != ParallelMode.DISTRIBUTED:
        raise ValueError("fsdp: this is the only process: start several by torchrun, or leave it out")
    with _naming("report_to", arguments.report_to, "install its package, or name another, or none"):
        for callback in get_reporting_integration_callbacks(arguments.report_to):
            callback()
    weight = torch.nn.Parameter(torch.zeros(1))
    if arguments.optim_args:
        from transformers import Trainer  # takes long, and few set this

        with _naming("optim_args", arguments.optim_args, f"give key=value, of {_value(arguments.optim)}"):
            kind, options = Trainer.get_optimizer_cls_and_kwargs(arguments)
            kind([weight], **options)
    kind, options = arguments.lr_scheduler_type, dict(arguments.lr_scheduler_kwargs or {})
    with _naming("lr_scheduler_kwargs", options, f"give what lr_scheduler_type {_value(kind)} has"):
        optimizer = torch.optim.SGD([weight], lr=arguments.learning_rate)
        schedule: Any = get_scheduler(kind, optimizer, 1, 4, scheduler_specific_kwargs=options)
        for _ in range(4):
            optimizer.step()
            schedule.step(**({"metrics": 0.0} if "metrics" in signature(schedule.step).parameters else {}))


def _value(choice: Any) -> str:
    return str(getattr(choice, "value", choice))


@contextmanager
def _naming(key: str, value: Any, remedy: str) -> Iterator[None]:
    """Whatever goes wrong meanwhile as one line that names the key."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{key}: {str(value)[:80]} cannot be used ({reason}): {remedy}") from error
