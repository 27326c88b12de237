"""Where targets, states and codes are compared: directions in the space of the code embeddings.

T5's states and embeddings differ in length, so all three have length 1.
"""

from collections.abc import Callable

import torch
from torch import nn


def item_directions(table: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """(..., d) for the codes (..., L) of items: the direction of the mean of their embeddings in `table`."""
    return nn.functional.normalize(table[codes].mean(-2), dim=-1)


def thinking_states(hidden: torch.Tensor, state_map: Callable | None = None) -> torch.Tensor:
    """
    s_i = MLP(d_0 + ... + d_i), of length 1.

    Args:
        hidden: (B, n, d), the decoder's states d_0, d_1, ... behind the start token and each thinking token.
        state_map: the MLP; by default none.

    Returns:
        (B, n, d)
    """
    sums = hidden.cumsum(1)
    return nn.functional.normalize(sums if state_map is None else state_map(sums), dim=-1)


def residuals(targets: torch.Tensor, states: torch.Tensor, residual_map: Callable | None = None) -> torch.Tensor:
    """
    r_i = MLP(t - s_(i-1)).

    Args:
        targets: (B, d) directions of the targets.
        states: (B, n, d), s_0 to s_(n-1).
        residual_map: the MLP; by default none.

    Returns:
        (B, n, d)
    """
    found = targets[:, None] - states
    return found if residual_map is None else residual_map(found)


def nearest_codes(residual: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """(B,) rows of the directions in `table` (K, d) that are nearest to residuals (B, d); of equal ones the first."""
    return torch.cdist(residual, nn.functional.normalize(table, dim=-1)).argmin(-1)
