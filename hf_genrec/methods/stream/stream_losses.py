"""What SFT teaches beside the tokens (arXiv 2504.09627): states near the target, codes near residuals, and to think."""

import torch
from torch import nn

COMMITMENT = 0.25  # weight of drawing residuals to codes, against drawing codes to residuals


def state_target_losses(
    states: torch.Tensor, targets: torch.Tensor, labels: torch.Tensor, temperature: float, start: int = 0
) -> torch.Tensor:
    """
    The target among the targets of the batch (InfoNCE), for each state s_1 to s_l; the i-th has weight i/l. Rows of the
    same item are not set against each other.

    Args:
        states: (B, l, d), of length 1.
        targets: (m, d), of length 1; those of `states` from `start` on.
        labels: (m, L), the targets' codes.

    Returns:
        (B,)
    """
    number, length = states.shape[:2]
    rows = start + torch.arange(number, device=states.device)
    itself = rows[:, None] == torch.arange(len(labels), device=states.device)
    same = (labels[rows, None, :] == labels).all(-1) & ~itself  # (B, m)
    scores = (states @ targets.T / temperature).masked_fill(same[:, None], -torch.inf)
    losses = nn.functional.cross_entropy(scores.flatten(0, 1), rows.repeat_interleave(length), reduction="none")
    weights = torch.arange(1, length + 1, device=states.device, dtype=losses.dtype) / length
    return losses.view(number, length) @ weights


def quantization_losses(residuals: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """
    ||sg[r] - c||^2 + 0.25 ||r - sg[c]||^2, added up over the thinking tokens; sg stops the gradient.

    Args:
        residuals, codes: (B, l, d).

    Returns:
        (B,)
    """
    to_codes = (residuals.detach() - codes).square().sum((1, 2))
    return to_codes + COMMITMENT * (residuals - codes.detach()).square().sum((1, 2))


def preference_losses(
    chosen: torch.Tensor, rejected: torch.Tensor, reference_margins: torch.Tensor, beta: float
) -> torch.Tensor:
    """
    -log sigmoid(beta ((chosen - rejected) - reference margin)), DPO (arXiv 2305.18290).

    Args:
        chosen, rejected: (B,) log-probabilities of two items behind the same thinking tokens.
        reference_margins: (B,) what the former has more than the latter in a model without thinking.

    Returns:
        (B,)
    """
    return -nn.functional.logsigmoid(beta * (chosen - rejected - reference_margins))
