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
        trainer: a transformers `Trainer`. Under DeepSpeed ZeRO-3 its weights are gathered meanwhile, under FSDP2 this
            is a copy.
    """
    accelerator = trainer.accelerator
    model = accelerator.unwrap_model(trainer.model)
    if accelerator.distributed_type == DistributedType.DEEPSPEED and accelerator.state.deepspeed_plugin.zero_stage == 3:
        from trl.models import unwrap_model_for_generation

        with unwrap_model_for_generation(trainer.model_wrapped, accelerator) as model, _loading_alone():
            yield model
    elif accelerator.distributed_type == DistributedType.FSDP:
        yield unsharded_copy(model)
    else:
        yield model


@contextmanager
def _loading_alone() -> Iterator[None]:
    """What a process loads meanwhile is its own: transformers would have all processes load parts of it together."""
    from transformers.integrations import deepspeed

    kept = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = kept


def unsharded_copy(model: Any) -> Any:
    """
    A copy of a model that torch's `fully_shard` has sharded, whole in every process and in evaluation mode.

    Raises:
        ValueError: for a model that older code has sharded.
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    from torch.distributed.fsdp import FSDPModule

    kept: Any = model  # which the check below takes for a FSDPModule and nothing else
    if not isinstance(model, FSDPModule):
        raise ValueError("this library's models are not made for FSDP1: set fsdp_version: 2, as in fsdp2.yaml")
    weights = get_model_state_dict(kept, options=StateDictOptions(full_state_dict=True))
    # `fully_shard` gives a model a class of its own, which inherits from what it was.
    own_class: Any = next(found for found in type(model).__mro__ if not issubclass(found, FSDPModule))
    copied = own_class(kept.config)
    copied.load_state_dict(weights)
    copied.processor = kept.processor
    return copied.to(kept.device).eval()
