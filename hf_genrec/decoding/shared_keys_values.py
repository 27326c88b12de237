"""
CollectiveKV (arXiv 2601.19178): of each key and value of a history only a thin part is the user's own; the rest is a
row of a pool that all users share, and what is kept of a user is the thin part and the row's number.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ..catalogue.saved_files import require_number

MAX_POOL = 2**16  # a row's number is kept in 16 bits


def require_shared_settings(pool_size: int, user_dim: int, key_value_size: int) -> None:
    """
    Raises:
        ValueError: for a pool of more rows than 16 bits number, or a thin part that leaves nothing to share.
    """
    require_number("shared_kv_pool_size", pool_size, 0)
    require_number("shared_kv_user_dim", user_dim, 0)
    if pool_size > MAX_POOL:
        raise ValueError(f"shared_kv_pool_size={pool_size}: give {MAX_POOL} rows or less, or 0 for no pool.")
    if pool_size and user_dim >= key_value_size:
        raise ValueError(
            f"shared_kv_user_dim={user_dim} of keys of {key_value_size} numbers leaves nothing to share: give less, or "
            f"shared_kv_pool_size=0."
        )


class SharedProjection(nn.Module):
    """
    The projection of states to keys, or to values: `[user part ; pool[argmax(router)]]` (section 2 of the paper).

    Args:
        hidden_size, size: numbers of a state, and of the keys of all heads together.
        user_dim: of these the user's own, d_u.
        pool_size: rows of the pool, m.

    Attributes:
        hardness (`float`): rho. In training a pool row is multiplied by gate + rho * (1 - gate), the gate's gradient
            being what it is at rho = 0; in evaluation by 1.
        losses: `peak` and `balance` of each forward (see [`route_losses`]) while [`shared_losses`] asks for them.
    """

    def __init__(self, hidden_size: int, size: int, user_dim: int, pool_size: int):
        super().__init__()
        self.user = nn.Linear(hidden_size, user_dim) if user_dim else None
        self.router = nn.Linear(hidden_size, pool_size)
        self.pool = nn.Embedding(pool_size, size - user_dim)
        self.user_dim = user_dim
        self.hardness = 0.0
        self.losses: list[tuple[torch.Tensor, torch.Tensor]] | None = None

    def forward(self, states: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """
        Keys (B, n, size) of states (B, n, hidden_size), in training; the losses are over positions `valid` (B, n).
        """
        scores = self.router(states)
        best, rows = scores.max(-1, keepdim=True)
        losses = route_losses(scores, best.squeeze(-1), valid)  # always: a checkpoint must do the same again
        if self.losses is not None:
            self.losses.append(losses)
        gate = best.sigmoid()
        gate = gate + (self.hardness * (1 - gate)).detach()
        shared = gate * self.pool(rows.squeeze(-1))
        return shared if self.user is None else torch.cat([self.user(states), shared], -1)

    def record(self, states: torch.Tensor) -> torch.Tensor:
        """What is kept of states (B, n, hidden_size): (B, n, d_u + 1) int16, float16 numbers and a row, bit by bit."""
        rows = self.router(states).argmax(-1, keepdim=True).to(torch.int32)
        rows = torch.where(rows < 2**15, rows, rows - 2**16).to(torch.int16)
        return rows if self.user is None else torch.cat([self.user(states).half().view(torch.int16), rows], -1)

    def look_up(self, record: torch.Tensor) -> torch.Tensor:
        """Keys (B, n, size) of what [`record`] gives."""
        rows = record[..., -1].long() % 2**16
        shared = self.pool(rows)
        if self.user is None:
            return shared
        return torch.cat([record[..., :-1].contiguous().view(torch.float16).to(shared.dtype), shared], -1)


class SharedKeysValues(nn.Module):
    """
    Keys and values of a layer's history, before their positions are rotated in.

    Args:
        hidden_size, size, user_dim, pool_size: as [`SharedProjection`] has them, for keys and values alike.
    """

    def __init__(self, hidden_size: int, size: int, user_dim: int, pool_size: int):
        super().__init__()
        self.key = SharedProjection(hidden_size, size, user_dim, pool_size)
        self.value = SharedProjection(hidden_size, size, user_dim, pool_size)

    def forward(
        self, states: torch.Tensor, valid: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """
        Args:
            states: (B, n, hidden_size).
            valid: (B, n) boolean, which of them are of a history.

        Returns:
            keys and values (B, n, size) and, outside training, what is kept of them, (B, n, 2 (d_u + 1)) int16.
        """
        if self.training:
            return self.key(states, valid), self.value(states, valid), None
        record = torch.cat([self.key.record(states), self.value.record(states)], -1)
        return *self.look_up(record), record

    def look_up(self, record: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values (B, n, size) of a record (B, n, 2 (d_u + 1))."""
        key, value = record.chunk(2, -1)
        return self.key.look_up(key), self.value.look_up(value)


def set_hardness(model: nn.Module, hardness: float) -> None:
    """Sets rho of every gate of a model."""
    for module in model.modules():
        if isinstance(module, SharedProjection):
            module.hardness = hardness


def keep_record(cache: Any, index: int, record: torch.Tensor | None) -> None:
    """Give a layer of a cache the record (B, n, R) of its new slots, if it keeps such."""
    if cache is not None and record is not None:
        layer: Any = next(iter(cache.layers[index:]), None)  # a plain cache adds layers as it fills
        if hasattr(layer, "keep_record"):
            layer.keep_record(record)


def route_losses(scores: torch.Tensor, best: torch.Tensor, valid: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The two losses of a router, over the valid positions alone.

    Args:
        scores, best: (B, n, m) and the largest of them, (B, n).
        valid: (B, n) boolean.

    Returns:
        peak, `-mean log sigmoid(best)`, and balance, `KL(mean softmax(scores) || uniform)`; both 0 where nothing is
        valid.
    """
    weights = valid.to(torch.float32 if scores.dtype != torch.float64 else scores.dtype)
    weights = weights / weights.sum().clamp(min=1)
    peak = -(nn.functional.logsigmoid(best.to(weights.dtype)) * weights).sum()
    mean = (scores.to(weights.dtype).softmax(-1) * weights.unsqueeze(-1)).sum((0, 1))
    balance = torch.special.xlogy(mean, mean * scores.shape[-1]).sum()
    return peak, balance


def add_shared_losses(loss: torch.Tensor, losses: Mapping[str, torch.Tensor], config: Any) -> torch.Tensor:
    """A loss with those of `losses` that are routers', `peak` and `balance`, by the weights of a configuration."""
    for name in ("peak", "balance"):
        if name in losses:
            loss = loss + getattr(config, f"shared_kv_{name}_weight") * losses[name]
    return loss


@contextmanager
def shared_losses(model: nn.Module, wanted: bool) -> Iterator[dict[str, torch.Tensor]]:
    """
    Gives a dictionary that holds, after a training forward within, its `peak` and `balance`, summed over layers, keys
    and values. It stays empty if they are not `wanted`, and outside training. Nothing is left on the modules, which
    what a checkpoint computes again in the backward pass would be.

    Raises:
        ValueError: for gradient checkpointing with `use_reentrant`, in which the losses have no gradient.
    """
    parts = [module for module in model.modules() if isinstance(module, SharedProjection)] if wanted else []
    found: dict[str, torch.Tensor] = {}
    for part in parts:
        part.losses = []
    try:
        yield found
        losses = [torch.stack(of_one) for part in parts for of_one in part.losses or []]
    finally:
        for part in parts:
            part.losses = None
    if losses:
        if torch.is_grad_enabled() and not losses[0].requires_grad and parts[0].router.weight.requires_grad:
            raise ValueError(
                "A shared pool's losses have no gradient under gradient checkpointing that re-enters: give "
                "gradient_checkpointing_kwargs: {use_reentrant: false}."
            )
        found |= dict(zip(("peak", "balance"), torch.stack(losses).sum(0), strict=True))
