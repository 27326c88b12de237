"""Whether a model's weights are still those of before, found out for next to nothing."""

from typing import Any

import torch

SAMPLE = 512  # numbers of a tensor that are looked at


def weights_mark(model: torch.nn.Module) -> list[tuple[Any, ...]]:
    """What changes when a weight is written to, exchanged or moved, or an adapter switched: a few facts of each."""
    weights = [
        (tensor.data_ptr(), tensor.dtype, tensor.requires_grad, 0 if tensor.is_inference() else tensor._version)
        for tensors in (model.parameters(), model.buffers())
        for tensor in tensors
    ]
    return weights + [
        (module.disable_adapters, *module.active_adapters, *getattr(module, "scaling", {}).items())
        for module in model.modules()
        if "_disable_adapters" in vars(module)
    ]


def weights_sample(model: torch.nn.Module) -> torch.Tensor:
    """
    Some numbers of each weight, in a flat copy: they change, too, where `weight.data` is written to, as merging
    adapters does, which counts as no write.
    """
    tensors = [tensor.detach() for tensors in (model.parameters(), model.buffers()) for tensor in tensors]
    numbers = [tensor.reshape(-1)[:: max(1, tensor.numel() // SAMPLE)] for tensor in tensors]
    return torch.cat([some.to(numbers[0].device) for some in numbers])
