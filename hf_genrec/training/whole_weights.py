"""The model of a trainer with all its weights, where each process keeps a part of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from accelerate.utils import DistributedType


@contextmanager
def whole_model(trainer: Any) -> Iterator[Any]:
    """
    The model as one process has it, to recommend with or to save. All processes must enter and leave together.

    Args:
        trainer: a transformers `Trainer`. Under DeepSpeed ZeRO-3 the weights are gathered meanwhile.
    """
    accelerator = trainer.accelerator
    model = accelerator.unwrap_model(trainer.model)
    plugin = accelerator.state.deepspeed_plugin if accelerator.distributed_type == DistributedType.DEEPSPEED else None
    if plugin is None or plugin.zero_stage != 3:
        yield model
        return
    from trl.models import unwrap_model_for_generation

    with unwrap_model_for_generation(trainer.model_wrapped, accelerator) as model:
        yield model
