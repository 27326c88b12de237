"""MPQ item tokenizer: parallel experts with a codebook each make an unordered set of codes."""

import math

import numpy as np
import torch
from torch import nn

from .configuration_mpq import MpqConfig
from .item_tokenizer import ItemTokenizerOutput
from .learned_item_tokenizer import LearnedItemTokenizer, nearest


class Experts(nn.Module):
    """The projections e^r = W_r v + b_r of all experts at once, (B, D) -> (B, M, d), for vectors of length about 1."""

    def __init__(self, input_dim: int, num_experts: int, latent_dim: int):
        super().__init__()
        self.projection = nn.Linear(input_dim, num_experts * latent_dim)  # rows: those of W_1, then those of W_2, ...
        self.num_experts = num_experts
        self.scale = math.sqrt(input_dim), math.sqrt(latent_dim)  # so that the numbers inside are about 1

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        return self.projection(vectors * self.scale[0]).unflatten(1, (self.num_experts, -1)) / self.scale[1]

    def orthogonality(self) -> torch.Tensor:
        """Equation (3): ||W'W - I||_F^2, the columns of W being the rows of all W_r, scaled to length 1."""
        columns = nn.functional.normalize(self.projection.weight, dim=1)  # transposed: (M d, D)
        if len(columns) <= columns.shape[1]:
            return (columns @ columns.T - torch.eye(len(columns), device=columns.device)).square().sum()
        # The same from the smaller product: ||W'W - I||^2 = ||WW'||^2 - 2 tr(W'W) + M d, and the columns have length 1
        return (columns.T @ columns).square().sum() - len(columns)


class MpqTokenizer(LearnedItemTokenizer):
    """The mixture-of-experts parallel quantization of arXiv 2508.15308, section 3.3.1.

    Expert r projects the vector, e^r = W_r v + b_r, and takes its nearest codeword z^r (equation 1). The decoder reads
    q = sum_r h^r(v) z^r, h(v) a softmax gate. Column r of the codes is codebook r's; there is no order between them.

    Codes alone do not say what the gate was: `decode` takes its mean over the items of the fit, kept in `mean_gate`.
    """

    config_class = MpqConfig
    ordered = False
    mean_gate: torch.Tensor
    _keep_in_fp32_modules_strict = (*LearnedItemTokenizer._keep_in_fp32_modules_strict, "experts", "gate")
    config: MpqConfig

    def __init__(self, config: MpqConfig):
        super().__init__(config)
        self.num_experts = len(config.codebook_sizes)
        self.experts = Experts(config.vector_dim, self.num_experts, config.latent_dim)
        self.gate = nn.Linear(config.vector_dim, self.num_experts)
        self.register_buffer("mean_gate", torch.empty(self.num_experts))
        self.post_init()

    def _latents(self, vectors: np.ndarray) -> np.ndarray:
        return self._exactly(self.experts, vectors).cpu().numpy()

    def route(self, embeddings: torch.Tensor) -> torch.Tensor:
        """h(v), (N, M), rows sum to 1."""
        return self.gate(embeddings * self.experts.scale[0]).softmax(dim=1)

    @torch.no_grad()
    def set_mean_gate(self, embeddings: torch.Tensor | np.ndarray) -> None:
        """Keep the mean gate of `embeddings` (N, D), the items of the fit, for `decode`."""
        chunks = (torch.as_tensor(rows, dtype=torch.float32, device=self.device) for rows in self._rows(embeddings))
        sums = torch.stack([self.route(chunk).double().sum(dim=0) for chunk in chunks])
        self.mean_gate.copy_(sums.sum(dim=0) / len(embeddings))

    @torch.no_grad()
    def decode(self, codes: torch.Tensor | np.ndarray) -> torch.Tensor:
        """The decoder's vector of the codewords of `codes` (N, M), weighted by the mean gate.

        Returns:
            (N, D) float32

        Raises:
            ValueError: a code outside its codebook, or another number of codes than of codebooks.
        """
        codewords = self._codewords(codes)
        if len(codewords) != self.num_experts:
            raise ValueError(
                f"there are {len(codewords)} codes per item, expected {self.num_experts}: they have no order"
            )
        gate = self._fitted("mean_gate")
        return self._exactly(self.decoder, sum(weight * words for weight, words in zip(gate, codewords, strict=True)))

    def forward(self, embeddings: torch.Tensor) -> ItemTokenizerOutput:
        """Codes and reconstruction of quantized vectors (B, D), and in training mode the loss, equation (4), with the
        two terms of straight-through quantization that the paper does not list:

            ||v - decoder(q)||^2 + orthogonality_weight ||W'W - I||_F^2
            + sum_r ||sg[e^r] - z^r||^2 + commitment_weight ||e^r - sg[z^r]||^2

        W of equation (3) has the rows of all W_r, scaled to length 1, as columns. q is made of e^r + sg[z^r - e^r]: the
        decoder's gradient passes to experts and gate, and the codewords move by their own term.
        """
        if not self.training:
            return super().forward(embeddings)
        latents = self.experts(embeddings)  # (B, M, d)
        codes, codewords = [], []
        for number in range(self.num_experts):
            codebook = self.get_parameter(f"codebook_{number}")
            codes.append(nearest(latents[:, number], codebook))
            codewords.append(codebook[codes[-1]])
        stacked = torch.stack(codewords, dim=1)
        straight = latents + (stacked - latents).detach()
        quantized = torch.einsum("br,brd->bd", self.route(embeddings), straight)
        return self._output(
            embeddings,
            quantized,
            torch.stack(codes, dim=1),
            latents,
            stacked,
            orthogonality=(self.config.orthogonality_weight, self.experts.orthogonality()),
        )


MpqTokenizer.register_for_auto_class("AutoModel")
