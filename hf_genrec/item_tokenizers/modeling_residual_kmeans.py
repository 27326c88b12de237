"""Residual k-means item tokenizer: an item vector becomes one code per level, coarse to fine."""

import numpy as np
import torch

from .configuration_residual_kmeans import ResidualKMeansConfig
from .item_tokenizer import ItemTokenizer
from .nearest_centroid import nearest_centroid as nearest_centroid


class ResidualKMeansTokenizer(ItemTokenizer):
    """Codes of item vectors by residual k-means, the quantizer of RQ-VAE (arXiv 2305.05065, section 3.1) without
    the autoencoder: level l takes the nearest centroid of what levels 1..l-1 left over."""

    config_class = ResidualKMeansConfig

    def __init__(self, config: ResidualKMeansConfig):
        super().__init__(config)
        for level, size in enumerate(config.codebook_sizes):
            self.register_buffer(f"codebook_{level}", torch.empty(size, config.vector_dim, dtype=torch.float32))
        self.post_init()

    def _latents(self, vectors: np.ndarray) -> np.ndarray:
        return vectors

    @torch.no_grad()
    def decode(self, codes: torch.Tensor | np.ndarray) -> torch.Tensor:
        """The sum of the centroids of `codes` (N, l), l <= L; with fewer codes than levels, the coarser vector.

        Returns:
            (N, D) float32

        Raises:
            ValueError: a code outside its codebook, or more codes than levels.
        """
        vectors = self.part_mean.new_zeros(len(codes), self.config.vector_dim)
        for codewords in self._codewords(codes):
            vectors = vectors + codewords
        return vectors


ResidualKMeansTokenizer.register_for_auto_class("AutoModel")
