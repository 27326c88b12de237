"""OPQ item tokenizer: the parts of a rotated vector, each by a codebook of its own, make an unordered set of codes."""

import numpy as np
import torch

from .configuration_opq import OpqConfig
from .item_tokenizer import ItemTokenizer


class OpqTokenizer(ItemTokenizer):
    """Optimized product quantization (Ge, He, Ke and Sun, CVPR 2013).

    The vector is rotated, y = v R, and cut into as many parts of d numbers as there are codebooks; each takes its
    nearest codeword. Column r of the codes is part r's; there is no order between them. R has orthonormal rows, so that
    distances are those of the vectors themselves; it has more columns than rows where d is rounded up.
    """

    config_class = OpqConfig
    ordered = False
    rotation: torch.Tensor
    _keep_in_fp32_modules_strict = (*ItemTokenizer._keep_in_fp32_modules_strict, "rotation")
    config: OpqConfig

    def __init__(self, config: OpqConfig):
        super().__init__(config)
        self.num_parts = len(config.codebook_sizes)
        shape = (config.vector_dim, self.num_parts * config.latent_dim)
        self.register_buffer("rotation", torch.empty(shape, dtype=torch.float32))
        for number, size in enumerate(config.codebook_sizes):
            self.register_buffer(f"codebook_{number}", torch.empty(size, config.latent_dim, dtype=torch.float32))
        self.post_init()

    def _latents(self, vectors: np.ndarray) -> np.ndarray:
        # In float64, so that an item's codes do not depend on which items it is encoded with.
        rotated = torch.as_tensor(vectors, device=self.device).double() @ self._fitted("rotation").double()
        return rotated.float().unflatten(1, (self.num_parts, -1)).cpu().numpy()

    @torch.no_grad()
    def decode(self, codes: torch.Tensor | np.ndarray) -> torch.Tensor:
        """The codewords of `codes` (N, L) side by side, rotated back.

        Returns:
            (N, D) float32

        Raises:
            ValueError: a code outside its codebook, or another number of codes than of codebooks.
        """
        codewords = self._codewords(codes)
        if len(codewords) != self.num_parts:
            raise ValueError(
                f"there are {len(codewords)} codes per item, expected {self.num_parts}: they have no order"
            )
        return (torch.cat(codewords, dim=1).double() @ self._fitted("rotation").double().T).float()


OpqTokenizer.register_for_auto_class("AutoModel")
