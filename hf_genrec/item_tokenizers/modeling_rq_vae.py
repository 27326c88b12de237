"""RQ-VAE item tokenizer: residual quantization of what an encoder makes of an item vector."""

import numpy as np
import torch

from .configuration_rq_vae import RqVaeConfig
from .item_tokenizer import ItemTokenizerOutput
from .learned_item_tokenizer import LearnedItemTokenizer, Network, nearest


class RqVaeTokenizer(LearnedItemTokenizer):
    """The residual-quantized autoencoder of arXiv 2305.05065, section 3.1: r_0 = E(v), level l takes the
    codeword nearest to r_l, and r_(l+1) is what it leaves over; the decoder reads the sum of the codewords."""

    config_class = RqVaeConfig
    _keep_in_fp32_modules_strict = (*LearnedItemTokenizer._keep_in_fp32_modules_strict, "encoder")
    config: RqVaeConfig

    def __init__(self, config: RqVaeConfig):
        super().__init__(config)
        self.encoder = Network([config.vector_dim, *config.hidden_sizes, config.latent_dim])
        self.post_init()

    def _latents(self, vectors: np.ndarray) -> np.ndarray:
        return self._exactly(self.encoder, vectors).cpu().numpy()

    @torch.no_grad()
    def decode(self, codes: torch.Tensor | np.ndarray) -> torch.Tensor:
        """The decoder's vector of the sum of the codewords of `codes` (N, l), l <= L; with fewer codes than levels, a
        coarser vector.

        Returns:
            (N, D) float32

        Raises:
            ValueError: a code outside its codebook, or more codes than levels.
        """
        quantized = self.part_mean.new_zeros(len(codes), self.config.latent_dim)
        for codewords in self._codewords(codes):
            quantized = quantized + codewords
        return self._exactly(self.decoder, quantized)

    def forward(self, embeddings: torch.Tensor) -> ItemTokenizerOutput:
        """Codes and reconstruction of quantized vectors (B, D), and in training mode the loss

            ||v - decoder(q)||^2 + sum_l ||sg[r_l] - z_l||^2 + commitment_weight ||r_l - sg[z_l]||^2

        with q = r_0 + sg[sum_l z_l - r_0]: the decoder's gradient passes to the encoder as if nothing were quantized. A
        residual moves the encoder, not the codewords of the levels before it.
        """
        if not self.training:
            return super().forward(embeddings)
        latent = self.encoder(embeddings)
        codes, residuals, codewords, rest = self._quantize(latent)
        return self._output(embeddings, latent - rest.detach(), codes, residuals, codewords, **self._regularizers())

    def _regularizers(self) -> dict[str, tuple[float, torch.Tensor]]:
        """Further terms of the loss: by name, weight and value."""
        return {}

    def _quantize(self, latent: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of latents (B, d) in training: codes (B, L), what each level quantized and its codewords (B, L, d), and what
        the last level left over (B, d)."""
        codes, residuals, codewords, residual = [], [], [], latent
        for level in range(len(self.config.codebook_sizes)):
            codebook = self.get_parameter(f"codebook_{level}")
            codes.append(self._choose(residual, codebook, level))
            residuals.append(residual)
            codewords.append(codebook[codes[-1]])
            residual = residual - codewords[-1].detach()
        return torch.stack(codes, dim=1), torch.stack(residuals, dim=1), torch.stack(codewords, dim=1), residual

    def _choose(self, residual: torch.Tensor, codebook: torch.Tensor, level: int) -> torch.Tensor:
        """The codes (B,) of a level in training."""
        return nearest(residual, codebook)


RqVaeTokenizer.register_for_auto_class("AutoModel")
