"""Whether a model's weights are still those of before, found out for next to nothing."""

from typing import Any

import torch

SAMPLE = 4096  # numbers of a tensor that are looked at


def weights_mark(model: torch.nn.Module) -> list[tuple[Any, ...]]:
    """What changes when a weight is written to, exchanged or moved, or an adapter switched: a few facts of each."""
    return [
        # An adapter that is switched on or off tells by its gradients.
        (tensor.data_ptr(), tensor.dtype, tensor.requires_grad, 0 if tensor.is_inference() else tensor._version)
        for tensors in (model.parameters(), model.buffers())
        for tensor in tensors
    ]


def weights_sample(model: torch.nn.Module) -> torch.Tensor:
    """
    A weighted sum of some numbers of each weight, float64: it changes, too, where `weight.data` is written to, as
    merging adapters does, which counts as no write.
    """
    sums = []
    for tensors in (model.parameters(), model.buffers()):
        for tensor in tensors:
            numbers = tensor.detach().reshape(-1)[:: max(1, tensor.numel() // SAMPLE)].double()
            ramp = torch.linspace(1, 2, len(numbers), dtype=torch.float64, device=numbers.device)
            sums.append((numbers @ ramp).cpu())
    return torch.stack(sums) if sums else torch.empty(0)
