"""CoBa RQ-VAE item tokenizer: an RQ-VAE whose codewords keep apart and are used alike."""

import torch

from .configuration_coba import CobaConfig
from .modeling_rq_vae import RqVaeTokenizer

CLOSE = 0.5  # of the median distance to the nearest codeword: nearer ones are pushed apart


class CobaTokenizer(RqVaeTokenizer):
    """The collaborative and balanced RQ-VAE (arXiv 2601.18664). What makes it collaborative is its input: item
    vectors carried along the graph of who is consumed with whom (`hf_genrec.semantic_ids.propagation`). The paper gives
    no formulas of the two terms here; they act in training only, `encode` takes the nearest codewords."""

    config_class = CobaConfig
    config: CobaConfig

    def __init__(self, config: CobaConfig):
        super().__init__(config)
        self._uses: list[torch.Tensor] = []  # per level, (K,): decayed counts of training

    def _choose(self, residual: torch.Tensor, codebook: torch.Tensor, level: int) -> torch.Tensor:
        """The codeword of the least ||r - e_j||^2 clip(1 + eta log((n_j + 1) / (mean n + 1)), 1 - delta, 1 + delta), n
        the decayed counts of how often each was taken."""
        if level == len(self._uses):
            self._uses.append(torch.zeros(len(codebook), device=codebook.device))
        uses, strength, limit = self._uses[level], self.config.balance_strength, self.config.balance_limit
        with torch.no_grad():
            factor = 1 + strength * ((uses + 1) / (uses.mean() + 1)).log()
            squares = residual.square().sum(dim=1, keepdim=True) + codebook.square().sum(dim=1)
            distances = (squares - 2 * residual @ codebook.T).clamp(min=0)
            codes = (distances * factor.clamp(1 - limit, 1 + limit)).argmin(dim=1)
            uses.mul_(self.config.use_decay).add_(torch.bincount(codes, minlength=len(codebook)))
        return codes

    def _regularizers(self) -> dict[str, tuple[float, torch.Tensor]]:
        """uniformity: per level, the mean over pairs of codewords of max(0, m - distance)^2, m half the median distance
        to the nearest other codeword; summed over levels."""
        levels = [self.get_parameter(f"codebook_{level}") for level in range(len(self.config.codebook_sizes))]
        total = sum((_closeness(codebook) for codebook in levels if len(codebook) > 1), levels[0].new_zeros(()))
        return {"uniformity": (self.config.uniformity_weight, total)}


def _closeness(codebook: torch.Tensor) -> torch.Tensor:
    distances = torch.pdist(codebook)  # of equal codewords the gradient is 0
    with torch.no_grad():
        rows, columns = torch.triu_indices(len(codebook), len(codebook), 1, device=codebook.device)
        nearest = codebook.new_full((len(codebook),), torch.inf)
        for ends in (rows, columns):
            nearest.scatter_reduce_(0, ends, distances, "amin")
        margin = CLOSE * nearest.median()
    return (margin - distances).clamp(min=0).square().mean()


CobaTokenizer.register_for_auto_class("AutoModel")
