"""LETTER item tokenizer: an RQ-VAE whose codes also say who an item is consumed with, and are used evenly."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional as F

from .configuration_letter import LetterConfig
from .item_tokenizer import ItemTokenizerOutput
from .learned_item_tokenizer import nearest
from .modeling_rq_vae import RqVaeTokenizer
from .sinkhorn import sinkhorn_codes


class LetterTokenizer(RqVaeTokenizer):
    """The learnable tokenizer of LETTER (arXiv 2405.07314, section 3.2). Its two further losses and the even assignment
    act in training only: `encode` takes the nearest codewords, as an RQ-VAE does.

    The published code works with numbers of about 1, this library with vectors of length about 1; the losses are those
    of the former: inner products of latents count `latent_dim` times, means over entries are sums here.
    """

    config_class = LetterConfig
    config: LetterConfig

    def __init__(self, config: LetterConfig):
        super().__init__(config)
        # Per level, of each code: the codes by cluster, its cluster's start there, its own place in it, its size
        self._clusters: list[tuple[torch.Tensor, ...]] | None = None

    def set_code_clusters(self, labels: Sequence[np.ndarray]) -> None:
        """Say which codes of a level are of one cluster, from which the diversity loss draws.

        Args:
            labels: per level, (K,) int, the cluster of each code; at least two codes in each.

        Raises:
            ValueError: a cluster of one code.
        """
        self._clusters = []
        for level, clusters in enumerate(labels):
            order = np.argsort(clusters, kind="stable")
            sizes = np.bincount(clusters)
            starts = np.cumsum(sizes) - sizes
            if 1 in sizes:
                raise ValueError(f"level {level} has a cluster of one code; each needs two at least")
            place = np.empty(len(order), dtype=np.int64)
            place[order] = np.arange(len(order)) - starts[clusters][order]
            table = (order, starts[clusters], place, sizes[clusters])
            self._clusters.append(tuple(torch.as_tensor(column, device=self.device) for column in table))

    def _others(self, codes: torch.Tensor) -> torch.Tensor:
        """For each of `codes` (B, L) another code of its cluster, by torch's generator."""
        if self._clusters is None:
            raise ValueError("the diversity loss needs the clusters of the codes: call set_code_clusters before")
        columns = []
        for column, (order, start, place, size) in zip(codes.T, self._clusters, strict=True):
            step = 1 + (torch.rand(len(column), device=column.device) * (size[column] - 1)).long()
            columns.append(order[start[column] + (place[column] + step) % size[column]])
        return torch.stack(columns, dim=1)

    def _choose(self, residual: torch.Tensor, codebook: torch.Tensor, level: int) -> torch.Tensor:
        epsilon = self.config.sinkhorn_epsilons[level]
        if not epsilon:
            return nearest(residual, codebook)
        squares = residual.square().sum(dim=1, keepdim=True) + codebook.square().sum(dim=1)
        distances = (squares - 2 * residual @ codebook.T).detach() * self.config.latent_dim
        return sinkhorn_codes(distances, epsilon, self.config.sinkhorn_iterations)

    def forward(
        self,
        embeddings: torch.Tensor,
        collaborative: torch.Tensor | None = None,
        positives: torch.Tensor | None = None,
    ) -> ItemTokenizerOutput:
        """Codes and reconstruction of quantized vectors (B, D), and in training mode the loss

            ||v - decoder(q)||^2 + quantization_weight mean_l (||sg[r_l] - z_l||^2
            + commitment_weight ||r_l - sg[z_l]||^2 + diversity_weight D_l) + alignment_weight A

        with D_l = -log softmax_j(d <z_l, e_j>) at another code of the cluster of z_l, z_l itself left out, and
        A = -log softmax_j(sqrt(d) <q, h_j>) at the item itself among those of the batch. Every level is quantized
        straight through: residuals after the first one send no gradient to the encoder.

        Args:
            collaborative: h, (B, d); a row of zeros is missing, and left out of A. None where alignment_weight is 0.
            positives: (B, L), the codes drawn for D; None draws them.

        Raises:
            ValueError: no collaborative vectors, or vectors of another length than the codewords.
        """
        if not self.training:
            return super().forward(embeddings)
        config = self.config
        latent = self.encoder(embeddings)
        codes, residuals, codewords, rest = self._quantize(latent)
        residuals = torch.cat([residuals[:, :1], residuals[:, 1:].detach()], dim=1)
        quantized = latent - rest.detach()
        reconstruction = self.decoder(quantized)
        losses = {
            "reconstruction": (embeddings - reconstruction).square().sum(dim=1).mean(),
            "codebook": (residuals.detach() - codewords).square().sum(dim=2).mean(),
            "commitment": (residuals - codewords.detach()).square().sum(dim=2).mean(),
        }
        quantization = losses["codebook"] + config.commitment_weight * losses["commitment"]
        if config.diversity_weight:
            losses["diversity"] = self._diversity(codes, self._others(codes) if positives is None else positives)
            quantization = quantization + config.diversity_weight * losses["diversity"]
        loss = losses["reconstruction"] + config.quantization_weight * quantization
        if config.alignment_weight or collaborative is not None:
            losses["alignment"] = self._alignment(quantized, collaborative)
            loss = loss + config.alignment_weight * losses["alignment"]
        return ItemTokenizerOutput(loss=loss, losses=losses, codes=codes, reconstruction=reconstruction)

    def _diversity(self, codes: torch.Tensor, positives: torch.Tensor) -> torch.Tensor:
        terms = []
        for level, (column, positive) in enumerate(zip(codes.T, positives.T, strict=True)):
            codebook = self.get_parameter(f"codebook_{level}")
            logits = self.config.latent_dim * codebook[column] @ codebook.T
            own = F.one_hot(column, len(codebook)).bool()
            terms.append(F.cross_entropy(logits.masked_fill(own, -torch.inf), positive))
        return torch.stack(terms).mean()

    def _alignment(self, quantized: torch.Tensor, collaborative: torch.Tensor | None) -> torch.Tensor:
        if collaborative is None or collaborative.shape != quantized.shape:
            found = "none" if collaborative is None else f"of shape {tuple(collaborative.shape)}"
            raise ValueError(
                f"the collaborative vectors are {found}, expected {tuple(quantized.shape)}: one per item, of the "
                f"codewords' length latent_dim"
            )
        present = collaborative.any(dim=1)
        logits = math.sqrt(self.config.latent_dim) * quantized[present] @ collaborative[present].T
        # Without any present the mean of nothing would be NaN
        aligned = -logits.log_softmax(dim=1).diagonal().sum()
        return aligned / present.sum().clamp(min=1)


LetterTokenizer.register_for_auto_class("AutoModel")
