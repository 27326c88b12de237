"""S3-Rec's losses: sums, as the published code has them."""

import torch
from torch import nn


def attribute_loss(logits: torch.Tensor, attributes: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """
    Binary cross-entropy of every attribute of every item that counts (AAP: those that are not masked; MAP: those that
    are).

    Args:
        logits, attributes: (n, A), the latter 0 or 1.
        counts: (n,) boolean.

    Example:

    ```python
    >>> attribute_loss(torch.zeros(2, 3), torch.ones(2, 3), torch.tensor([True, False])).item() / math.log(2)
    3.0
    ```
    """
    losses = nn.functional.binary_cross_entropy_with_logits(logits, attributes.to(logits.dtype), reduction="none")
    return (losses.sum(-1) * counts.to(losses.dtype)).sum()


def contrast_loss(
    positives: torch.Tensor, negatives: torch.Tensor, counts: torch.Tensor | None = None, on_logits: bool = False
) -> torch.Tensor:
    """
    MIP and SP: minus log sigmoid of the difference between what belongs there and what does not.

    Args:
        positives, negatives: (n,) scores.
        counts (*optional*): (n,) boolean, by default all.
        on_logits: difference of the scores; otherwise of their sigmoids, as published: from 0.31 to 1.31 each.

    Example:

    ```python
    >>> contrast_loss(torch.ones(2), torch.ones(2)).item() / math.log(2)
    2.0
    ```
    """
    if not on_logits:
        positives, negatives = positives.sigmoid(), negatives.sigmoid()
    losses = -nn.functional.logsigmoid(positives - negatives)
    return losses.sum() if counts is None else (losses * counts.to(losses.dtype)).sum()


def next_item_loss(
    states: torch.Tensor, table: torch.Tensor, labels: torch.Tensor, negatives: torch.Tensor | None
) -> torch.Tensor:
    """
    Fine-tuning's loss, summed over targets.

    Args:
        states: (n, d)
        table: (N, d), the items' vectors; with PAD and MASK behind them where there are negatives.
        labels: (n,) rows of the targets.
        negatives: (n,) rows of the items they are told from, by binary cross-entropy; `None`: softmax over the table.
    """
    if negatives is None:
        return nn.functional.cross_entropy((states @ table.T).float(), labels, reduction="sum")
    positive, negative = ((states * table[rows]).sum(-1) for rows in (labels, negatives))
    return -(nn.functional.logsigmoid(positive) + nn.functional.logsigmoid(-negative)).sum()
