"""The states of a batch's targets: where a row has several, its history is encoded once for all of them."""

from typing import Any

import torch

from ...catalogue.device_waits import may_ask, require
from ...decoding.shared_batch import is_shared
from .rearec_layers import last_items


def states_of_targets(
    model: Any,
    input_ids: torch.Tensor,
    real: torch.Tensor,
    positions: torch.Tensor,
    is_target: torch.Tensor,
    readings: torch.Tensor,
    noise: torch.Tensor | None,
    **settings: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """
    r_0..r_K of n targets, and the same with noise or `None`, (n, K + 1, d) each.

    Args:
        model: a [`ReaRecModel`].
        input_ids, real: (B, T), `real` the positions that hold an item.
        positions, is_target: (B, M), see [`labelled_positions`].
        readings: (n,), where the targets stand among them, one row after the other.
        noise: (K, n, d)
        settings: `num_steps` and `item_table` of the model.
    """
    noise = None if noise is None else noise_of_readings(noise, is_target, readings)  # (K, B, M, d)
    # A GPU takes longer to start more operations than to read some padding. Processes that gather weights module by
    # module must call each of them equally often.
    if not may_ask(real) or is_shared():
        outputs = model(input_ids, real, noise=noise, positions=positions, **settings)
        states = outputs.reasoning_states.flatten(0, 1)[readings]
        return states, None if noise is None else outputs.noised_states.flatten(0, 1)[readings]
    numbers = is_target.flatten().cumsum(0).view_as(is_target) - 1
    parts, noised, order = [], [], []
    for rows in rows_alike(real, is_target):
        width, most = used_columns(real[rows]), used_columns(is_target[rows])
        chosen = is_target[rows, :most]
        outputs = model(
            input_ids[rows, :width],
            real[rows, :width],
            noise=None if noise is None else noise[:, rows, :most],
            positions=positions[rows, :most],
            **settings,
        )
        parts.append(outputs.reasoning_states[chosen])
        noised.append(outputs.noised_states[chosen] if noise is not None else parts[-1])
        order.append(numbers[rows, :most][chosen])
    back = torch.cat(order).argsort()
    return torch.cat(parts)[back], torch.cat(noised)[back] if noise is not None else None


def used_columns(used: torch.Tensor) -> int:
    """How many columns from the first one on hold all that is used (B, T), at least 1."""
    return int(last_items(used).max()) + 1


def rows_alike(real: torch.Tensor, is_target: torch.Tensor) -> list[torch.Tensor]:
    """
    The rows of a batch, parted so that little of what is computed for a part is padding: items and targets of its rows
    differ by less than a factor of two, or are at most four.

    Args:
        real: (B, T) boolean, the positions that hold an item.
        is_target: (B, M) boolean, the places that hold a target.
    """
    sizes = torch.stack([real.sum(-1), is_target.sum(-1)], -1).clamp(min=4)
    parts = (sizes - 1.0).frexp().exponent.unique(dim=0, return_inverse=True)[1]  # 1 + floor(log2(size - 1))
    return [(parts == part).nonzero().squeeze(-1) for part in range(int(parts.max()) + 1)]


def labelled_positions(
    real: torch.Tensor, sequence_labels: torch.Tensor, most_targets: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The readings of packed rows.

    Args:
        real: (B, T) boolean, the positions that hold an item.
        sequence_labels: (B, T), -100 where nothing is predicted.
        most_targets: M, labels of the row with most of them, where whoever made the batch knows it.

    Returns:
        the labelled positions of each row in order, filled up with 0, and which of them are no filling: (B, M) each.

    Raises:
        ValueError: for a label where there is no item.
    """
    labelled = sequence_labels != -100
    require(real | ~labelled, "sequence_labels has a target at a row and position where there is no item.")
    counts = labelled.sum(-1)
    most = int(counts.max()) if most_targets is None else most_targets
    is_target = torch.arange(most, device=real.device) < counts.unsqueeze(-1)
    in_order = (~labelled).to(torch.uint8).argsort(dim=-1, stable=True)[:, :most]
    return in_order.masked_fill(~is_target, 0), is_target


def noise_of_readings(noise: torch.Tensor, is_target: torch.Tensor, readings: torch.Tensor) -> torch.Tensor:
    """
    Noise of the targets (K, n, d), in order, at the places `readings` (n,) of (K, B, M, d).

    Raises:
        ValueError: if there is not one vector per step and target.
    """
    if noise.dim() != 3 or noise.shape[1] != len(readings):
        raise ValueError(f"noise has shape {tuple(noise.shape)}, expected (K, {len(readings)} targets, d).")
    spread = noise.new_zeros(len(noise), is_target.numel(), noise.shape[-1]).index_copy(1, readings, noise)
    return spread.unflatten(1, is_target.shape)
