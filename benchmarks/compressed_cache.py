"""
A finished CARE's cached keys and values in fewer bytes, without training: what CollectiveKV is measured beside.

Each stands where the shared pool does ([`hf_genrec.decoding.shared_keys_values.SharedKeysValues`]): of the keys of a
history, before their positions are rotated in, it keeps a record of bytes, and attention reads what the record gives
back.
"""

import copy
from collections.abc import Callable
from typing import Any, Protocol

import torch
from sklearn.cluster import KMeans
from torch import nn

from hf_genrec.methods.care.care_layers import CareAttention
from hf_genrec.methods.care.modeling_care import CareForCausalLM
from hf_genrec.semantic_ids.parts import one_thread

CENTROIDS = 256  # of a product quantizer's part: a byte each


class Codec(Protocol):
    """Vectors (B, n, size) to bytes (B, n, R) uint8 and back."""

    def encode(self, vectors: torch.Tensor) -> torch.Tensor: ...

    def decode(self, record: torch.Tensor) -> torch.Tensor: ...


class Int8:
    """A byte a number, and for each head the largest of its numbers in float16."""

    def __init__(self, heads: int):
        self.heads = heads

    def encode(self, vectors: torch.Tensor) -> torch.Tensor:
        vectors = vectors.unflatten(-1, (self.heads, -1))
        scale = vectors.abs().amax(-1, keepdim=True).clamp(min=1e-4).half()
        numbers = (vectors / scale.float() * 127).round().clamp(-127, 127).to(torch.int8)
        return torch.cat([numbers.view(torch.uint8), scale.view(torch.uint8)], -1).flatten(-2)

    def decode(self, record: torch.Tensor) -> torch.Tensor:
        record = record.unflatten(-1, (self.heads, -1))
        scale = record[..., -2:].contiguous().view(torch.float16).float()
        return (record[..., :-2].contiguous().view(torch.int8).float() / 127 * scale).flatten(-2)


class LowRank:
    """Coordinates on the `rank` first principal directions of some vectors (N, size), in float16."""

    def __init__(self, vectors: torch.Tensor, rank: int):
        self.mean = vectors.mean(0)
        self.directions = torch.linalg.svd(vectors - self.mean, full_matrices=False).Vh[:rank]

    def encode(self, vectors: torch.Tensor) -> torch.Tensor:
        return ((vectors - self.mean) @ self.directions.T).half().view(torch.uint8)

    def decode(self, record: torch.Tensor) -> torch.Tensor:
        return record.contiguous().view(torch.float16).float() @ self.directions + self.mean


class ProductQuantizer:
    """The nearest of 256 centroids in each of `parts` equal parts of a vector, found by k-means on some (N, size)."""

    def __init__(self, vectors: torch.Tensor, parts: int, seed: int):
        with one_thread():
            fitted = [
                KMeans(CENTROIDS, n_init=1, max_iter=50, random_state=seed).fit(part.numpy())
                for part in vectors.chunk(parts, -1)
            ]
        self.centroids = torch.stack([torch.from_numpy(means.cluster_centers_) for means in fitted])  # (parts, 256, D)

    def encode(self, vectors: torch.Tensor) -> torch.Tensor:
        parts = vectors.unflatten(-1, (len(self.centroids), -1)).flatten(0, -3).transpose(0, 1)  # (parts, B * n, D)
        nearest = torch.cdist(parts, self.centroids).argmin(-1).T
        return nearest.to(torch.uint8).unflatten(0, vectors.shape[:-1])

    def decode(self, record: torch.Tensor) -> torch.Tensor:
        return self.centroids[torch.arange(len(self.centroids)), record.long()].flatten(-2)


class CompressedKeysValues(nn.Module):
    """Keys and values of a layer through a codec each; before there are any, plain ones, and the states are kept."""

    def __init__(self, attention: CareAttention):
        super().__init__()
        self.projections = (attention.k_proj, attention.v_proj)  # a tuple: they stay the layer's own
        self.codecs: tuple[Codec, Codec] | None = None
        self.states: list[torch.Tensor] = []

    def forward(self, states: torch.Tensor, valid: torch.Tensor):
        key, value = (projection(states) for projection in self.projections)
        if self.codecs is None:
            self.states.append(states[valid])
            return key, value, None
        record = torch.cat([codec.encode(part) for codec, part in zip(self.codecs, (key, value), strict=True)], -1)
        return *self.look_up(record), record

    def look_up(self, record: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        assert self.codecs is not None
        key, value = (codec.decode(half) for codec, half in zip(self.codecs, record.chunk(2, -1), strict=True))
        return key, value


@torch.no_grad()
def compressed(
    model: CareForCausalLM, codec: Callable[[torch.Tensor], Codec], batches: list[dict[str, Any]]
) -> CareForCausalLM:
    """
    A copy of a CARE without a pool whose history's keys and values go through codecs.

    Args:
        codec: makes one from keys, or values, of `batches`, (N, size).
        batches: what the model reads; a later layer's are taken when the earlier ones go through theirs.
    """
    model = copy.deepcopy(model).eval()
    model.config.shared_kv_pool_size = 1  # the slots of the history go their own way
    for layer in model.model.layers:
        layer.self_attn.shared = shared = CompressedKeysValues(layer.self_attn)
        for batch in batches:
            model(**batch)
        states = torch.cat(shared.states)
        key, value = (codec(projection(states)) for projection in shared.projections)
        shared.codecs, shared.states = (key, value), []
    return model
