"""Residual k-means item tokenizer: an item vector becomes one code per level, coarse to fine."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from .configuration_residual_kmeans import ResidualKMeansConfig

# Numbers of the largest array that is made of a chunk of vectors (float32: 8 MB)
MAX_NUMBERS = 2**21


@dataclass
class ResidualKMeansOutput(ModelOutput):
    """
    Args:
        codes: (N, L) int64, one code per level.
        reconstruction: (N, D) float32, the sum of the chosen centroids.
    """

    codes: torch.Tensor | None = None
    reconstruction: torch.Tensor | None = None


def nearest_centroid(vectors: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    """The nearest row of `codebook` (K, D) for each row of `vectors` (N, D), both float32; ties go to the lower code.

    The codes are those of distances computed pair by pair in float64, so the code of an item depends neither on which
    items it is encoded with nor on the number of threads. The rounding of a float32 matrix product does; it only rules
    out the centroids that its rounding error cannot make the nearest, and what is left is compared pair by pair.

    Returns:
        (N,) int64
    """
    rows = max(1, MAX_NUMBERS // max(codebook.shape))
    chunks = [_nearest_of_chunk(vectors[start : start + rows], codebook) for start in range(0, len(vectors), rows)]
    return np.concatenate([np.zeros(0, dtype=np.int64), *chunks])


def _nearest_of_chunk(vectors: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(codebook.astype(np.float64), axis=1)
    rounding = np.finfo(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # infinity and NaN rule nothing out
        # numpy's product, as torch's may be set to less than float32. Half the squared distance less |x|^2/2: (rows, K)
        scores = (np.square(norms) / 2).astype(np.float32) - vectors @ codebook.T
        # A dot product over D is off by at most about D * eps/2 * |x| |c|, in whichever order it is added up, and D
        # underflows; this is twice the error of the difference of two scores, so it covers the float64 rounding too.
        scale = np.square(np.linalg.norm(vectors, axis=1) + norms.max())
        margin = ((codebook.shape[1] + 8) * (rounding.eps * scale + rounding.tiny)).astype(np.float32)
        codes = scores.argmin(axis=1)
        limit = scores[np.arange(len(codes)), codes] + margin
        scores[np.arange(len(codes)), codes] = np.inf
        unsure = np.flatnonzero(~(scores.min(axis=1) > limit))
        near = ~(scores[unsure] > limit[unsure, None])
    near[np.arange(len(unsure)), codes[unsure]] = True
    row, code = near.nonzero()
    apart = vectors[unsure[row]].astype(np.float64) - codebook[code]
    distances = np.full(near.shape, np.inf)
    distances[row, code] = np.einsum("nd,nd->n", apart, apart)  # adds up each row alike, however many there are
    codes[unsure] = distances.argmin(axis=1)  # the first of equal minima
    return codes


def _as_array(vectors: torch.Tensor | np.ndarray) -> np.ndarray:
    if isinstance(vectors, torch.Tensor):
        vectors = vectors.detach().cpu().float().numpy()
    return np.asarray(vectors, dtype=np.float32)


class ResidualKMeansTokenizer(PreTrainedModel):
    """Codes of item vectors by residual k-means, the quantizer of RQ-VAE (TIGER, arXiv 2305.05065, section 3.1) without
    the autoencoder: level l takes the nearest centroid of what levels 1..l-1 left over.

    Everything that turns the raw parts of an item (text embedding, collaborative vector) into the quantized vector is
    stored here, so a new item is encoded exactly as the items of the fit were:

    ```python
    tokenizer = AutoModel.from_pretrained(folder, trust_remote_code=True)
    codes = tokenizer.encode(tokenizer.join(text=embedding, collaborative=None))  # (N, L)
    codes = tokenizer.encode_parts(text=np.load("embeddings.npy", mmap_mode="r"))  # the same, read chunk by chunk
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
        joined = self.part_mean.new_empty(self._number_of_rows(parts), self.config.vector_dim)
        start = 0
        for chunk in self.chunks(**parts):
            vectors = self._project(self.side_by_side(**chunk))
            joined[start : start + len(vectors)] = vectors
            start += len(vectors)
        return joined

    def _project(self, side_by_side: torch.Tensor) -> torch.Tensor:
        if self.config.projection_dim is None:
            return side_by_side
        # In float64, so that an item's vector does not depend on which items it is joined with.
        return (side_by_side.double() @ self._fitted("projection").double()).float()

    def chunks(self, **parts: torch.Tensor | np.ndarray | None) -> Iterator[dict[str, torch.Tensor | np.ndarray]]:
        """The given parts, some thousand rows at a time and in order; a memory map is not read before its turn."""
        rows = self._number_of_rows(parts)
        given = {name: part for name, part in parts.items() if part is not None}
        step = max(1, MAX_NUMBERS // self.config.input_dim)
        for start in range(0, rows, step):
            yield {name: part[start : start + step] for name, part in given.items()}

    def _number_of_rows(self, parts: dict[str, torch.Tensor | np.ndarray | None]) -> int:
        """Of the parts, whose names and shapes are checked."""
        dims = dict(zip(self.config.part_names, self.config.part_dims, strict=True))
        unknown = sorted(set(parts) - set(dims))
        if unknown:
            raise ValueError(f"this tokenizer has no part {unknown[0]!r}; its parts are {', '.join(dims)}")
        given = {name: part for name, part in parts.items() if part is not None}
        if not given:
            raise ValueError(f"no part was given; give at least one of {', '.join(dims)}")
        rows = len(next(iter(given.values())))
        for name, part in given.items():
            if part.shape != (rows, dims[name]):
                raise ValueError(f"part {name!r} has shape {tuple(part.shape)}, expected {(rows, dims[name])}")
        return rows

    @torch.no_grad()
    def side_by_side(self, **parts: torch.Tensor | np.ndarray | None) -> torch.Tensor:
        """What `join` projects: the centred, scaled and weighted parts, (N, input_dim)."""
        rows = self._number_of_rows(parts)
        # In numpy: with torch the threads would wait for each other at each of these small steps.
        joined = np.zeros((rows, self.config.input_dim), dtype=np.float32)
        means, scales = self._fitted("part_mean").cpu().numpy(), self._fitted("part_scale").cpu().numpy()
        ends = np.cumsum(self.config.part_dims)
        for name, scale, weight, start, end in zip(
            self.config.part_names, scales, self.config.part_weights, ends - self.config.part_dims, ends, strict=True
        ):
            given = parts.get(name)
            if given is not None:
                part = _as_array(given)
                present = (part != 0).any(axis=1, keepdims=True)
                np.copyto(joined[:, start:end], (part - means[start:end]) / scale * weight, where=present)
        return torch.from_numpy(joined).to(self.device)

    @torch.no_grad()
    def encode(self, embeddings: torch.Tensor | np.ndarray) -> torch.Tensor:
        """Codes of quantized vectors (see `join`): the nearest centroid of the residual, level by level.

        Args:
            embeddings: (N, D); an array may be a memory map, which is read in chunks.

        Returns:
            (N, L) int64

        Raises:
            ValueError: a wrong shape, or a vector with NaN or infinity.
        """
        if not isinstance(embeddings, torch.Tensor):
            embeddings = np.asarray(embeddings)
        if embeddings.ndim != 2 or embeddings.shape[1] != self.config.vector_dim:
            raise ValueError(f"embeddings have shape {tuple(embeddings.shape)}, expected (N, {self.config.vector_dim})")
        step = max(1, MAX_NUMBERS // self.config.vector_dim)
        return self._encode(embeddings[start : start + step] for start in range(0, len(embeddings), step))

    @torch.no_grad()
    def encode_parts(self, **parts: torch.Tensor | np.ndarray | None) -> torch.Tensor:
        """The codes (N, L) int64 of raw part vectors: `encode(join(**parts))` without the joined vectors in memory.

        Args:
            parts: by part name, (N, D_part) each, as for `join`; arrays may be memory maps.

        Raises:
            ValueError: as `join` and `encode`.
        """
        return self._encode(self._project(self.side_by_side(**chunk)) for chunk in self.chunks(**parts))

    def _encode(self, chunks: Iterable[torch.Tensor | np.ndarray]) -> torch.Tensor:
        codebooks = [codebook.cpu().numpy() for codebook in self.codebooks]
        codes = [np.zeros((0, len(codebooks)), dtype=np.int64)]
        start = 0
        for chunk in chunks:
            residuals = _as_array(chunk)
            if not np.isfinite(residuals).all():
                row = start + int((~np.isfinite(residuals).all(axis=1)).argmax())
                raise ValueError(f"embeddings row {row} holds NaN or infinity")
            codes.append(np.empty((len(residuals), len(codebooks)), dtype=np.int64))
            for level, codebook in enumerate(codebooks):
                codes[-1][:, level] = nearest_centroid(residuals, codebook)
                residuals = residuals - codebook[codes[-1][:, level]]
            start += len(residuals)
        return torch.from_numpy(np.concatenate(codes)).to(self.device)

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
