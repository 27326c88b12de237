"""REG4Rec's pretraining losses: the next code of every unused codebook, and the item's category, at every step."""

from collections.abc import Iterable

import torch
from torch import nn

from ...catalogue.device_waits import may_ask
from ...decoding.code_loss import at_least_float32


def teacher_path(labels: torch.Tensor, orders: torch.Tensor, start_token_id: int) -> torch.Tensor:
    """
    What the decoder reads in training.

    Args:
        labels: (n, M), a target's token ids, column r of codebook r.
        orders: (n, M), the codebook that is chosen at each step.

    Returns:
        (n, M): the start token, then the codes of all steps but the last.
    """
    start = torch.full_like(labels[:, :1], start_token_id)
    return torch.cat([start, labels.gather(1, orders)[:, :-1]], 1)


def token_losses(
    states: torch.Tensor,
    heads: Iterable[nn.Module],
    labels: torch.Tensor,
    orders: torch.Tensor,
    next_only: bool = False,
) -> torch.Tensor:
    """
    Equation (6), a sum over the steps of a path; at each step the mean over the codebooks not used before it, or with
    `next_only` the codebook that is chosen there alone.

    (6) has one term per step, the cross-entropy of the code that is chosen there. With the next codebook drawn
    uniformly from the unused ones, its expectation given the path so far is the mean of their cross-entropies. One
    state predicts them all, so the mean stands in for the draw: the same expectation, and every state teaches all heads
    that may read it.

    Args:
        states: (n, M, d), state i after the first i codes of the path.
        heads: of each codebook, d -> its codes.
        labels: (n, M), token ids, column r of codebook r.
        orders: (n, M), the codebook that is chosen at each step.

    Returns:
        (n,), float32 or wider
    """
    num_targets, num_steps, size = states.shape
    chosen_at = orders.argsort(1)  # (n, M), by codebook
    steps = torch.arange(num_steps, device=states.device)
    flat, start = states.reshape(-1, size), 0
    parts, targets = [], []
    for codebook, head in enumerate(heads):
        own = chosen_at[:, codebook, None]
        read = steps == own if next_only else steps <= own  # (n, M)
        if not may_ask(states):  # waiting for their number takes longer than reading the others, too
            logits = at_least_float32(head(flat))
            wanted = labels[:, codebook, None].expand(-1, num_steps).flatten() - start
            of_states = nn.functional.cross_entropy(logits, wanted, reduction="none").view(num_targets, num_steps)
            of_states = of_states if next_only else of_states / (num_steps - steps)
            parts.append(of_states.masked_fill(~read, 0).sum(1))
            start += logits.shape[-1]
            continue
        # Only the states that come before the codebook's own choice: half of them on average.
        target, step = read.nonzero(as_tuple=True)
        logits = at_least_float32(head(flat.index_select(0, target * num_steps + step)))
        of_states = nn.functional.cross_entropy(logits, labels[target, codebook] - start, reduction="none")
        parts.append(of_states if next_only else of_states / (num_steps - step))
        targets.append(target)
        start += logits.shape[-1]
    if not targets:
        return torch.stack(parts).sum(0)
    of_all = torch.cat(parts)
    return of_all.new_zeros(num_targets).index_add(0, torch.cat(targets), of_all)


def category_losses(logits: torch.Tensor, categories: torch.Tensor) -> torch.Tensor:
    """
    Equation (7), the mean over the steps.

    Args:
        logits: (n, M, G).
        categories: (n,)

    Returns:
        (n,)
    """
    steps = logits.shape[1]
    every_step = categories.repeat_interleave(steps)
    losses = nn.functional.cross_entropy(logits.flatten(0, 1), every_step, reduction="none")
    return losses.view(-1, steps).mean(1)
