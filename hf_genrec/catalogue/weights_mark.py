"""Whether a model's weights are still those of before, found out for next to nothing."""

from typing import Any

import torch

WHOLE = 2**22  # numbers of a model whose weights are compared whole: 16 MB in float32
SAMPLE = 512  # numbers of each weight of a larger one


def weights_mark(model: torch.nn.Module) -> list[tuple[Any, ...]]:
    """What changes when a weight is written to, exchanged or moved, or an adapter switched: a few facts of each."""
    weights = [
        (tensor.data_ptr(), tensor.dtype, tensor.requires_grad, 0 if tensor.is_inference() else tensor._version)
        for tensor in _weights(model)
    ]
    return weights + [
        (module.disable_adapters, *module.active_adapters, *getattr(module, "scaling", {}).items())
        for module in model.modules()
        if "_disable_adapters" in vars(module)
    ]


def _weights(model: torch.nn.Module) -> list[torch.Tensor]:
    return [*model.parameters(), *model.buffers()]


class WeightsCopy:
    """
    The weights of a model as they are now, and their numbers, to be compared with what they are later.

    Weights that others take the place of are held, so that none of the new ones can have their address. Writing to
    `weight.data`, as merging adapters does, counts as no change anywhere. Of up to `WHOLE` numbers all are kept, and
    every change is seen. Of a larger model, whose weights would take long to read for each request, only `SAMPLE` of
    each weight are: a change to other numbers alone is not seen.
    """

    def __init__(self, model: torch.nn.Module):
        self.weights = _weights(model)
        self.numbers = [tensor.clone() for tensor in self._looked_at(self.weights)]

    def is_of(self, model: torch.nn.Module) -> bool:
        """Whether the weights are those of before, and all numbers that are looked at."""
        weights = _weights(model)
        if len(weights) != len(self.weights) or any(a is not b for a, b in zip(weights, self.weights, strict=True)):
            return False
        return all(map(torch.equal, self._looked_at(weights), self.numbers))

    @staticmethod
    def _looked_at(weights: list[torch.Tensor]) -> list[torch.Tensor]:
        weights = [tensor.detach() for tensor in weights]
        if sum(tensor.numel() for tensor in weights) <= WHOLE:
            return weights
        return [tensor.reshape(-1)[:: max(1, tensor.numel() // SAMPLE)] for tensor in weights]
