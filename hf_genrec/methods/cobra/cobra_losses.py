"""The two losses of COBRA: the codes of the next item, and its dense vector."""

import torch
from torch import nn

from ...decoding.code_loss import at_least_float32


def dense_loss(
    predicted: torch.Tensor, candidates: torch.Tensor, labels: torch.Tensor, temperature: float
) -> torch.Tensor:
    """
    InfoNCE over cosines, summed over the targets (the paper's dense loss, whose temperature is 1).

    Args:
        predicted: (n, d), the states behind the targets' codes.
        candidates: (m, d), vectors of different items.
        labels: (n,) which candidate each target is.
    """
    predicted, candidates = (
        nn.functional.normalize(at_least_float32(part), dim=-1) for part in (predicted, candidates)
    )
    return nn.functional.cross_entropy(predicted @ candidates.T / temperature, labels, reduction="sum")


def other_users_loss(
    predicted: torch.Tensor, targets: torch.Tensor, users: torch.Tensor, temperature: float, start: int = 0
) -> torch.Tensor:
    """
    The community's form: each target is told from those of other users, equal items among them, and its vector gets no
    gradient.

    Args:
        predicted: (n, d).
        targets: (m, d), among them from `start` on the n that were predicted.
        users: (m,) whose each target is.
    """
    predicted, targets = (
        nn.functional.normalize(at_least_float32(part), dim=-1) for part in (predicted, targets.detach())
    )
    logits = predicted @ targets.T / temperature
    own = start + torch.arange(len(predicted), device=users.device)
    itself = own[:, None] == torch.arange(len(users), device=users.device)
    logits = logits.masked_fill((users[own, None] == users) & ~itself, -1e4)
    return nn.functional.cross_entropy(logits, own, reduction="sum")
