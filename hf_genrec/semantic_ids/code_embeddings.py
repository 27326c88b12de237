"""Embeddings of codes that begin as the item tokenizer's centroids, so that codes of like items begin alike."""

from collections.abc import Sequence

import numpy as np
import torch


@torch.no_grad()
def start_from_centroids(
    table: torch.Tensor, code_token_ids: Sequence[np.ndarray], codebooks: Sequence[torch.Tensor], std: float, seed: int
) -> None:
    """
    Start the rows of codes in a table of embeddings as centroids.

    Each codebook is centred, turned into the table's width by a random map of orthonormal columns (the same for all
    levels) and scaled to the spread of the random embeddings it replaces. A level the tokenizer does not have (the
    extra code of colliding items) stays as it is.

    Args:
        table: (tokens, width), changed in place.
        code_token_ids: (K_l,) per level, the rows of its codes.
        codebooks: (K_l, D) per level.
        std: the spread.
    """
    width, generator = table.shape[1], torch.Generator().manual_seed(seed)
    dim = codebooks[0].shape[1]
    rotation = torch.linalg.qr(torch.randn(max(dim, width), min(dim, width), generator=generator)).Q
    rotation = rotation if dim >= width else rotation.mT
    for token_ids, codebook in zip(code_token_ids, codebooks, strict=False):
        vectors = (codebook - codebook.mean(0)) @ rotation
        table[torch.from_numpy(token_ids)] = vectors * (std / vectors.std())
