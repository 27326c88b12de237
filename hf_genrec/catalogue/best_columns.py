"""The largest of many scores, in an order that does not depend on how they are found."""

import torch

MAX_SCORES = 2**23  # scores held at once: 32 MB


def best_columns(scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The k largest of each row and their columns, (B, min(k, columns)) each, best first; ties go to the lower column.
    """
    k = min(k, scores.shape[1])
    values, columns = scores.topk(min(k + 1, scores.shape[1]))
    columns = columns[:, :k]
    # topk takes any of the equal scores at its end. Where it had a choice, the row is sorted whole.
    last = values[:, k - 1]
    crowded = (values[:, k:] == last.unsqueeze(-1)).any(-1) & last.isfinite()
    if crowded.any():
        columns[crowded] = scores[crowded].sort(dim=-1, descending=True, stable=True).indices[:, :k]
    columns = columns.sort(-1).values
    values, order = scores.gather(1, columns).sort(dim=-1, descending=True, stable=True)
    return values, columns.gather(1, order)
