"""Forward passes that do not wait for their device: what Python asks of a tensor on it stops the queue of a GPU."""

import torch


def may_ask(tensor: torch.Tensor) -> bool:
    """Whether Python may ask for numbers of a tensor: on a processor, and not while a graph is compiled, which every
    such question would cut in two."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()


def require(holds: torch.Tensor, message: str) -> None:
    """
    Refuses a batch unless a condition holds everywhere.

    Args:
        holds: boolean, of any shape; the index of a place is said unless it is a single number.
        message: of the error.

    Raises:
        ValueError: on a processor. An accelerator is not waited for: it ends the process with the message itself. A
            compiled graph raises RuntimeError.
    """
    if not may_ask(holds):
        torch._assert_async(holds.all(), message)
    elif not holds.all():
        place = f" The first place is {(~holds).nonzero()[0].tolist()}." if holds.dim() else ""
        raise ValueError(message + place)


def places_of(is_chosen: torch.Tensor, places: torch.Tensor | None = None) -> torch.Tensor:
    """
    Where a boolean tensor of any shape is true, flat and in order, (n,) int64.

    Args:
        places: the answer, where whoever made the batch has it already; then nothing is waited for.
    """
    return is_chosen.flatten().nonzero().squeeze(1) if places is None else places


def places_in_rows(is_chosen: torch.Tensor, count: int) -> torch.Tensor:
    """[`places_of`] a boolean (B, M) whose rows begin with what is true; that `count` places are is known."""
    counts = is_chosen.sum(-1)
    ends = counts.cumsum(0)
    place = torch.arange(count, device=is_chosen.device)
    row = torch.searchsorted(ends, place, right=True)
    return row * is_chosen.shape[1] + place - (ends - counts)[row]
