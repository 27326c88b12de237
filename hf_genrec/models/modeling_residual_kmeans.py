"""Residual k-means item tokenizer: an item vector becomes one code per level, coarse to fine."""

from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from .configuration_residual_kmeans import ResidualKMeansConfig

# Numbers of the largest array that nearest_centroid holds at a time (float64: 128 MB)
MAX_NUMBERS = 2**24


@dataclass
class ResidualKMeansOutput(ModelOutput):
    """
    Args:
        codes: (N, L) int64, one code per level.
        reconstruction: (N, D) float32, the sum of the chosen centroids.
    """

    codes: torch.Tensor | None = None
    reconstruction: torch.Tensor | None = None


def nearest_centroid(residuals: torch.Tensor, codebook: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The nearest row of `codebook` (K, D) for each row of `residuals` (N, D); ties go to the lower code.

    Distances are computed pair by pair in float64, not by a matrix product, so the code of an item does not depend on
    which items it is encoded with.

    Returns:
        (codes (N,) int64, Euclidean distances (N,) float64)
    """
    codebook = codebook.double()
    rows = max(1, MAX_NUMBERS // max(codebook.shape))
    codes, distances = [], []
    for chunk in residuals.split(rows):
        pairwise = torch.cdist(chunk.double(), codebook, compute_mode="donot_use_mm_for_euclid_dist")  # (rows, K)
        code = pairwise.argmin(dim=1)  # the first of equal minima
        codes.append(code)
        distances.append(pairwise.gather(1, code[:, None])[:, 0])
    return torch.cat(codes), torch.cat(distances)


class ResidualKMeansTokenizer(PreTrainedModel):
    """Codes of item vectors by residual k-means, the quantizer of RQ-VAE (TIGER, arXiv 2305.05065, section 3.1) without
    the autoencoder: level l takes the nearest centroid of what levels 1..l-1 left over.

    Everything that turns the raw parts of an item (text embedding, collaborative vector) into the quantized vector is
    stored here, so a new item is encoded exactly as the items of the fit were:

    ```python
    tokenizer = AutoModel.from_pretrained(folder, trust_remote_code=True)
    codes = tokenizer.encode(tokenizer.join(text=embedding, collaborative=None))  # (N, L)
    ```

    With the collision policy `extra_code` the catalogue's ids have one level more than this quantizer.
    """

    config_class = ResidualKMeansConfig
    main_input_name = "embeddings"
    part_mean: torch.Tensor
    part_scale: torch.Tensor
    _keep_in_fp32_modules_strict = ("codebook", "part", "projection")  # type: ignore[assignment]

    def __init__(self, config: ResidualKMeansConfig):
        super().__init__(config)
        for level, size in enumerate(config.codebook_sizes):
            self.register_buffer(f"codebook_{level}", torch.empty(size, config.vector_dim, dtype=torch.float32))
        self.register_buffer("part_mean", torch.empty(config.input_dim, dtype=torch.float32))
        self.register_buffer("part_scale", torch.empty(len(config.part_dims), dtype=torch.float32))
        if config.projection_dim is not None:
            shape = (config.input_dim, config.projection_dim)
            self.register_buffer("projection", torch.empty(shape, dtype=torch.float32))
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        """Buffers are fitted or loaded; NaN marks those that are neither (`init` leaves loaded ones alone)."""
        for buffer in module.buffers(recurse=False):
            init.constant_(buffer, float("nan"))

    @property
    def device(self) -> torch.device:  # the base class looks at parameters only, and there are none
        return self.part_mean.device

    @property
    def dtype(self) -> torch.dtype:
        return self.part_mean.dtype

    @property
    def codebooks(self) -> list[torch.Tensor]:
        """One (K_l, D) float32 tensor per level."""
        return [self._fitted(f"codebook_{level}") for level in range(len(self.config.codebook_sizes))]

    def _fitted(self, name: str) -> torch.Tensor:
        buffer = self.get_buffer(name)
        if not buffer.isfinite().all():
            raise ValueError(f"{name} holds no values: the tokenizer was not fitted, or its checkpoint lacks {name}")
        return buffer

    @torch.no_grad()
    def join(self, **parts: torch.Tensor | np.ndarray | None) -> torch.Tensor:
        """The quantized vectors of raw part vectors: each part centred, scaled and weighted as at fit time, put side by
        side and, where the tokenizer has a projection, projected.

        A part that is None or not given, or a row of it that is all zero (an item that training never saw has no
        collaborative vector), is missing: it counts as the part's mean, which is zero after centring.

        Args:
            parts: by part name, (N, D_part) each.

        Returns:
            (N, D) float32

        Raises:
            ValueError: an unknown part, a wrong length, different numbers of rows, or no part at all.
        """
        joined = self.side_by_side(**parts)
        if self.config.projection_dim is None:
            return joined
        # In float64, so that an item's vector does not depend on which items it is joined with.
        return (joined.double() @ self._fitted("projection").double()).float()

    @torch.no_grad()
    def side_by_side(self, **parts: torch.Tensor | np.ndarray | None) -> torch.Tensor:
        """What `join` projects: the centred, scaled and weighted parts, (N, input_dim)."""
        names = self.config.part_names
        unknown = sorted(set(parts) - set(names))
        if unknown:
            raise ValueError(f"this tokenizer has no part {unknown[0]!r}; its parts are {', '.join(names)}")
        given = {
            name: torch.as_tensor(part, dtype=torch.float32, device=self.device)
            for name, part in parts.items()
            if part is not None
        }
        if not given:
            raise ValueError(f"no part was given; give at least one of {', '.join(names)}")
        rows = len(next(iter(given.values())))
        columns = []
        means = self._fitted("part_mean").split(self.config.part_dims)
        for name, mean, scale, weight in zip(
            names, means, self._fitted("part_scale"), self.config.part_weights, strict=True
        ):
            part = given.get(name)
            if part is None:
                columns.append(mean.new_zeros(rows, len(mean)))
                continue
            if part.shape != (rows, len(mean)):
                raise ValueError(f"part {name!r} has shape {tuple(part.shape)}, expected {(rows, len(mean))}")
            present = (part != 0).any(dim=1, keepdim=True)
            columns.append(torch.where(present, (part - mean) / scale * weight, 0.0))
        return torch.cat(columns, dim=1)

    @torch.no_grad()
    def encode(self, embeddings: torch.Tensor | np.ndarray) -> torch.Tensor:
        """Codes of quantized vectors (see `join`): the nearest centroid of the residual, level by level.

        Args:
            embeddings: (N, D)

        Returns:
            (N, L) int64

        Raises:
            ValueError: a wrong shape, or a vector with NaN or infinity.
        """
        residuals = torch.as_tensor(embeddings, dtype=torch.float32, device=self.device)
        if residuals.ndim != 2 or residuals.shape[1] != self.config.vector_dim:
            raise ValueError(f"embeddings have shape {tuple(residuals.shape)}, expected (N, {self.config.vector_dim})")
        finite = residuals.isfinite().all(dim=1)
        if not finite.all():
            raise ValueError(f"embeddings row {int((~finite).nonzero()[0, 0])} holds NaN or infinity")
        if not len(residuals):
            return torch.zeros(0, len(self.config.codebook_sizes), dtype=torch.int64, device=residuals.device)
        codes = []
        for codebook in self.codebooks:
            code, _ = nearest_centroid(residuals, codebook)
            residuals = residuals - codebook[code]
            codes.append(code)
        return torch.stack(codes, dim=1)

    @torch.no_grad()
    def decode(self, codes: torch.Tensor | np.ndarray) -> torch.Tensor:
        """The sum of the centroids of `codes` (N, l), l <= L; with fewer codes than levels, the coarser vector.

        Returns:
            (N, D) float32

        Raises:
            ValueError: a code outside its codebook, or more codes than levels.
        """
        codes = torch.as_tensor(codes, dtype=torch.int64, device=self.device)
        if codes.ndim != 2 or codes.shape[1] > len(self.config.codebook_sizes):
            levels = len(self.config.codebook_sizes)
            raise ValueError(f"codes have shape {tuple(codes.shape)}, expected (N, at most {levels})")
        vectors = self.part_mean.new_zeros(len(codes), self.config.vector_dim)
        for level, (column, codebook) in enumerate(zip(codes.unbind(dim=1), self.codebooks, strict=False)):
            wrong = (column < 0) | (column >= len(codebook))
            if wrong.any():
                row = int(wrong.nonzero()[0, 0])
                raise ValueError(f"row {row}, level {level}: code {int(column[row])} is not in 0..{len(codebook) - 1}")
            vectors = vectors + codebook[column]
        return vectors

    def forward(self, embeddings: torch.Tensor) -> ResidualKMeansOutput:
        """Codes and reconstruction of quantized vectors (N, D)."""
        codes = self.encode(embeddings)
        return ResidualKMeansOutput(codes=codes, reconstruction=self.decode(codes))


ResidualKMeansTokenizer.register_for_auto_class("AutoModel")
