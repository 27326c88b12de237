"""Assignment of vectors to codewords such that all codewords are used alike: Sinkhorn's algorithm."""

import torch


def sinkhorn_plan(distances: torch.Tensor, epsilon: float, iterations: int) -> torch.Tensor:
    """
    The entropic transport plan between rows and codewords, every row and every codeword having the same mass.

    Args:
        distances: (B, K), which are first centred to about -1 .. 1.
        epsilon: temperature; the smaller, the nearer to the cheapest plan. From 0.003 on no row can underflow.
        iterations: rounds of scaling rows, then columns.

    Returns:
        (B, K) float64; columns sum to B / K, rows nearly to 1.
    """
    middle = (distances.max() + distances.min()) / 2
    centred = (distances - middle) / (distances.max() - middle + 1e-5)
    plan = torch.exp(-centred.double() / epsilon)
    plan = plan / plan.sum()
    rows, codes = plan.shape
    for _ in range(iterations):
        plan = plan / plan.sum(dim=1, keepdim=True) / rows
        plan = plan / plan.sum(dim=0, keepdim=True) / codes
    return plan * rows


@torch.no_grad()
def sinkhorn_codes(distances: torch.Tensor, epsilon: float, iterations: int) -> torch.Tensor:
    """The codeword (B,) that each row of `distances` (B, K) gives most of its mass to."""
    return sinkhorn_plan(distances, epsilon, iterations).argmax(dim=1)
