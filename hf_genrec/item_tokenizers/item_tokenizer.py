"""What all item tokenizers share: from the parts of an item to its vector, and from the vector to its codes."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from ..catalogue.flat_code import FlatModelCode
from ..catalogue.saved_files import hub_place, naming, saved_file
from ..catalogue.saved_weights import read_config, require_finite, require_weights
from ..catalogue.transformers_bridge import initialization as init
from .configuration_item_tokenizer import ItemTokenizerConfig
from .nearest_centroid import MAX_NUMBERS, nearest_centroid


@dataclass
class ItemTokenizerOutput(ModelOutput):
    """
    Args:
        loss: scalar, in training mode only.
        losses: the unweighted terms of the loss by name, in training mode only.
        codes: (N, L) int64, one code per codebook.
        reconstruction: (N, D) float32.
    """

    loss: torch.Tensor | None = None
    losses: dict[str, torch.Tensor] | None = None
    codes: torch.Tensor | None = None
    reconstruction: torch.Tensor | None = None


class ItemTokenizer(FlatModelCode, PreTrainedModel):
    """Codes of item vectors. Everything that turns the raw parts of an item (text embedding, collaborative vector) into
    the quantized vector is stored here, so a new item is encoded exactly as the items of the fit were:

    ```python
    tokenizer = AutoModel.from_pretrained(folder, trust_remote_code=True)
    codes = tokenizer.encode(tokenizer.join(text=embedding, collaborative=None))  # (N, L)
    codes = tokenizer.encode_parts(text=np.load("embeddings.npy", mmap_mode="r"))  # the same, read chunk by chunk
    ```

    A class of its own says what its codebooks quantize (`_latents`), whether they do so one after another (`ordered`),
    and what codes stand for (`decode`). With the collision policy `extra_code` the catalogue's ids have one code more
    than this quantizer.
    """

    config_class = ItemTokenizerConfig
    main_input_name = "embeddings"
    ordered: ClassVar[bool] = (
        True  # each codebook quantizes what those before it left over; else each a latent of its own
    )
    part_mean: torch.Tensor
    part_scale: torch.Tensor
    _keep_in_fp32_modules_strict: tuple[str, ...] = ("codebook", "part", "projection")  # type: ignore[assignment]

    def __init__(self, config: ItemTokenizerConfig):
        super().__init__(config)
        self.register_buffer("part_mean", torch.empty(config.input_dim, dtype=torch.float32))
        self.register_buffer("part_scale", torch.empty(len(config.part_dims), dtype=torch.float32))
        if config.projection_dim is not None:
            shape = (config.input_dim, config.projection_dim)
            self.register_buffer("projection", torch.empty(shape, dtype=torch.float32))

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """
        A fitted tokenizer from a folder or a repository on the Hub.

        Raises:
            OSError: if a file is missing.
            ValueError: if one is damaged, or the tokenizer was never fitted. It names the file.
        """
        folder = pretrained_model_name_or_path
        if saved_file(folder, "adapter_config.json", required=False, **hub_place(kwargs)):
            raise ValueError(f"{folder} holds an adapter_config.json: remove it.")
        config = read_config(cls.config_class, folder, **hub_place(kwargs))
        found = require_weights(cls, config, folder, kwargs)
        with naming(folder):
            loaded = super().from_pretrained(folder, *args, use_safetensors=True, **kwargs)
        require_finite(loaded[0] if isinstance(loaded, tuple) else loaded, found, folder)
        return loaded

    def _init_weights(self, module: torch.nn.Module) -> None:
        """What is fitted to the items is set by the fit or loaded; NaN marks what is neither (`init` leaves loaded ones
        alone)."""
        if module is self:
            for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
                init.constant_(tensor, float("nan"))

    @property
    def device(self) -> torch.device:  # the base class looks at parameters only, and there may be none
        return self.part_mean.device

    @property
    def dtype(self) -> torch.dtype:
        return self.part_mean.dtype

    @property
    def codebooks(self) -> list[torch.Tensor]:
        """One (K, d) float32 tensor per codebook."""
        return [self._fitted(f"codebook_{number}") for number in range(len(self.config.codebook_sizes))]

    def _fitted(self, name: str) -> torch.Tensor:
        tensor = getattr(self, name).detach()
        if not tensor.isfinite().all():
            raise ValueError(f"{name} holds no values: the tokenizer was not fitted, or its checkpoint lacks {name}")
        return tensor

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
        """Codes of quantized vectors (see `join`): each codebook's nearest codeword. They depend neither on the other
        rows nor on the number of threads.

        Args:
            embeddings: (N, D); an array may be a memory map, which is read in chunks.

        Returns:
            (N, L) int64

        Raises:
            ValueError: a wrong shape, or a vector with NaN or infinity.
        """
        return self._encode(self._rows(embeddings))

    @torch.no_grad()
    def encode_parts(self, **parts: torch.Tensor | np.ndarray | None) -> torch.Tensor:
        """The codes (N, L) int64 of raw part vectors: `encode(join(**parts))` without the joined vectors in memory.

        Args:
            parts: by part name, (N, D_part) each, as for `join`; arrays may be memory maps.

        Raises:
            ValueError: as `join` and `encode`.
        """
        return self._encode(self._project(self.side_by_side(**chunk)) for chunk in self.chunks(**parts))

    @torch.no_grad()
    def latents(self, embeddings: torch.Tensor | np.ndarray) -> np.ndarray:
        """What the codebooks quantize of `embeddings` (N, D), row by row alike whatever the other rows are.

        Returns:
            float32, (N, d) where the codebooks are `ordered`, else (N, L, d), one latent per codebook

        Raises:
            ValueError: as `encode`.
        """
        return np.concatenate([self._latents(vectors) for vectors in _finite(self._rows(embeddings))])

    def _latents(self, vectors: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def _rows(self, embeddings: torch.Tensor | np.ndarray) -> Iterator[torch.Tensor | np.ndarray]:
        """`embeddings`, whose shape is checked, in chunks, at least one."""
        if not isinstance(embeddings, torch.Tensor):
            embeddings = np.asarray(embeddings)
        if embeddings.ndim != 2 or embeddings.shape[1] != self.config.vector_dim:
            raise ValueError(f"embeddings have shape {tuple(embeddings.shape)}, expected (N, {self.config.vector_dim})")
        step = max(1, MAX_NUMBERS // self.config.vector_dim)
        for start in range(0, max(1, len(embeddings)), step):
            yield embeddings[start : start + step]

    def _encode(self, chunks: Iterable[torch.Tensor | np.ndarray]) -> torch.Tensor:
        codebooks = [codebook.cpu().numpy() for codebook in self.codebooks]
        codes = [np.zeros((0, len(codebooks)), dtype=np.int64)]
        for vectors in _finite(chunks):
            latents = self._latents(vectors)
            codes.append(np.empty((len(vectors), len(codebooks)), dtype=np.int64))
            for number, codebook in enumerate(codebooks):
                codes[-1][:, number] = nearest_centroid(latents if self.ordered else latents[:, number], codebook)
                if self.ordered:
                    latents = latents - codebook[codes[-1][:, number]]
        return torch.from_numpy(np.concatenate(codes)).to(self.device)

    def decode(self, codes: torch.Tensor | np.ndarray) -> torch.Tensor:
        """The vectors (N, D) float32 that `codes` stand for."""
        raise NotImplementedError

    def _codewords(self, codes: torch.Tensor | np.ndarray) -> list[torch.Tensor]:
        """Of codes (N, l), l <= L, the codewords (N, d) of each codebook in turn.

        Raises:
            ValueError: a code outside its codebook, or more codes than codebooks.
        """
        codes = torch.as_tensor(codes, dtype=torch.int64, device=self.device)
        if codes.ndim != 2 or codes.shape[1] > len(self.config.codebook_sizes):
            levels = len(self.config.codebook_sizes)
            raise ValueError(f"codes have shape {tuple(codes.shape)}, expected (N, at most {levels})")
        codewords = []
        for level, (column, codebook) in enumerate(zip(codes.unbind(dim=1), self.codebooks, strict=False)):
            wrong = (column < 0) | (column >= len(codebook))
            if wrong.any():
                row = int(wrong.nonzero()[0, 0])
                raise ValueError(f"row {row}, level {level}: code {int(column[row])} is not in 0..{len(codebook) - 1}")
            codewords.append(codebook[column])
        return codewords

    def forward(self, embeddings: torch.Tensor) -> ItemTokenizerOutput:
        """Codes and reconstruction of quantized vectors (N, D)."""
        codes = self.encode(embeddings)
        return ItemTokenizerOutput(codes=codes, reconstruction=self.decode(codes))


def _as_array(vectors: torch.Tensor | np.ndarray) -> np.ndarray:
    if isinstance(vectors, torch.Tensor):
        vectors = vectors.detach().cpu().float().numpy()
    return np.asarray(vectors, dtype=np.float32)


def _finite(chunks: Iterable[torch.Tensor | np.ndarray]) -> Iterator[np.ndarray]:
    """The chunks as float32 arrays; a row with NaN or infinity is named."""
    start = 0
    for chunk in chunks:
        vectors = _as_array(chunk)
        if not np.isfinite(vectors).all():
            row = start + int((~np.isfinite(vectors).all(axis=1)).argmax())
            raise ValueError(f"embeddings row {row} holds NaN or infinity")
        yield vectors
        start += len(vectors)
