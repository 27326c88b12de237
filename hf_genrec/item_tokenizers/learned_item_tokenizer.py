"""What the item tokenizers that are trained share: codebooks as parameters, a decoder, and their losses."""

import math
from itertools import pairwise

import numpy as np
import torch
from torch import nn

from ..catalogue.transformers_bridge import initialization as init
from .configuration_item_tokenizer import LearnedItemTokenizerConfig
from .item_tokenizer import ItemTokenizer, ItemTokenizerOutput


class Network(nn.Module):
    """Linear layers from `sizes[0]` to `sizes[-1]` numbers with ReLU between them, for vectors of length about 1: what
    goes in is scaled by the root of its size, so that its numbers are about 1, and what comes out is scaled back."""

    def __init__(self, sizes: list[int]):
        super().__init__()
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(sizes):
            layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])
        self.scale_in, self.scale_out = math.sqrt(sizes[0]), math.sqrt(sizes[-1])

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        return self.layers(vectors * self.scale_in) / self.scale_out


def nearest(latents: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    """The nearest row of `codebook` (K, d) for each of `latents` (B, d), as float32 products tell: good enough to train
    with; `encode` is exact."""
    with torch.no_grad():
        return (codebook.square().sum(dim=1) / 2 - latents @ codebook.T).argmin(dim=1)


class LearnedItemTokenizer(ItemTokenizer):
    """An autoencoder of item vectors with codebooks in its middle.

    `forward` in training mode gives losses with gradients; `encode`, `decode` and `forward` in evaluation mode give
    codes and vectors without. The codebooks are NaN until they are set to centroids of the items' latents
    (`hf_genrec.semantic_ids.learned`), from where training moves them.
    """

    _keep_in_fp32_modules_strict = (*ItemTokenizer._keep_in_fp32_modules_strict, "decoder")
    config: LearnedItemTokenizerConfig

    def __init__(self, config: LearnedItemTokenizerConfig):
        super().__init__(config)
        for number, size in enumerate(config.codebook_sizes):
            self.register_parameter(f"codebook_{number}", nn.Parameter(torch.empty(size, config.latent_dim)))
        self.decoder = Network([config.latent_dim, *reversed(config.hidden_sizes), config.vector_dim])

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
            init.zeros_(module.bias)

    def _exactly(self, module: nn.Module, vectors: torch.Tensor | np.ndarray) -> torch.Tensor:
        """`module(vectors)` computed in float64 and rounded to float32, so that a row does not depend on the others."""
        weights = {name: weight.double() for name, weight in module.named_parameters()}
        inputs = torch.as_tensor(vectors, device=self.device).double()
        return torch.func.functional_call(module, weights, (inputs,)).float()

    def _output(
        self,
        embeddings: torch.Tensor,
        quantized: torch.Tensor,
        codes: torch.Tensor,
        latents: torch.Tensor,
        codewords: torch.Tensor,
        **regularizers: tuple[float, torch.Tensor],
    ) -> ItemTokenizerOutput:
        """
        The loss of a batch: ||v - decoder(q)||^2, and per codebook ||sg[e] - z||^2 and, by `commitment_weight`,
        ||e - sg[z]||^2; means over the batch, sums over the codebooks.

        Args:
            embeddings: v, (B, D).
            quantized: q, (B, d), with straight-through gradients.
            codes: (B, L).
            latents, codewords: e and z, (B, L, d): what each codebook quantized, and its nearest codeword.
            regularizers: by name, weight and value.
        """
        reconstruction = self.decoder(quantized)
        losses = {
            "reconstruction": (embeddings - reconstruction).square().sum(dim=1).mean(),
            "codebook": (latents.detach() - codewords).square().sum(dim=(1, 2)).mean(),
            "commitment": (latents - codewords.detach()).square().sum(dim=(1, 2)).mean(),
        }
        loss = losses["reconstruction"] + losses["codebook"] + self.config.commitment_weight * losses["commitment"]
        for name, (weight, value) in regularizers.items():
            losses[name] = value
            loss = loss + weight * value
        return ItemTokenizerOutput(loss=loss, losses=losses, codes=codes, reconstruction=reconstruction)
