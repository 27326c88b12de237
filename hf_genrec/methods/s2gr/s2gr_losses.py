"""What the thinking vectors are taught: the cluster of the code to come, and at first the whole item."""

import torch
from torch import nn


def cluster_losses(
    thoughts: torch.Tensor, centres: torch.Tensor, clusters: torch.Tensor, temperature: float
) -> torch.Tensor:
    """
    -log softmax(cos(t, c_k) / temperature) at the right cluster.

    Args:
        thoughts: (B, D) in the space of the codebook.
        centres: (K, D).
        clusters: (B,) of the target's codes.

    Returns:
        (B,)
    """
    return nn.functional.cross_entropy(cosines(thoughts, centres) / temperature, clusters, reduction="none")


def item_losses(
    vectors: torch.Tensor, items: torch.Tensor, labels: torch.Tensor, temperature: float, start: int = 0
) -> torch.Tensor:
    """
    The target among the targets of the batch; rows of the same item are not set against each other.

    Args:
        vectors: (B, d) of the auxiliary decoder.
        items: (m, d), the mean of each target's code embeddings; those of `vectors` from `start` on.
        labels: (m, L), the targets' codes.

    Returns:
        (B,)
    """
    scores = cosines(vectors, items) / temperature
    rows = start + torch.arange(len(vectors), device=labels.device)
    itself = rows[:, None] == torch.arange(len(labels), device=labels.device)
    same = (labels[rows, None, :] == labels).all(-1) & ~itself
    return nn.functional.cross_entropy(scores.masked_fill(same, -torch.inf), rows, reduction="none")


def cosines(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """(B, K) of vectors (B, D) and (K, D)."""
    return nn.functional.normalize(left, dim=-1) @ nn.functional.normalize(right, dim=-1).T
