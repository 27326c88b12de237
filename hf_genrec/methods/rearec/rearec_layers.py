"""What ReaRec is made of: item tables, and layers that encode a history once and then reason one position at a time.

A *reading* is a position of a history from which the next item is predicted. One reading per row is the usual case;
packed rows have one per target. The reasoning steps of a reading attend to the items that the reading itself may attend
to, and to its own steps so far: never to those of another reading.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ...decoding.post_norm_layers import PostNormAttention, PostNormFeedForward, dropout
from .configuration_rearec import ReaRecConfig

# Added to what may not be attended to: its probability is exactly 0 as soon as one other score is not masked.
MASKED = -1e10


@dataclass
class LayerCache:
    """Keys and values of one layer, never changed in place: the noised steps go on from the same items."""

    keys: torch.Tensor  # (B, heads, T, D), of the items
    values: torch.Tensor  # (B, heads, T, D)
    step_keys: tuple[torch.Tensor, ...] = ()  # (B, heads, M, D) each, of the steps so far of each of M readings
    step_values: tuple[torch.Tensor, ...] = ()

    def with_step(self, key: torch.Tensor, value: torch.Tensor) -> "LayerCache":
        """One more step: `key` and `value` are (B, heads, M, D)."""
        return LayerCache(self.keys, self.values, (*self.step_keys, key), (*self.step_values, value))


def real_items(input_ids: torch.Tensor, attention_mask: torch.Tensor | None, pad: int) -> torch.Tensor:
    """Which of the positions (B, T) hold an item."""
    real = input_ids != pad
    return real if attention_mask is None else real & attention_mask.bool()


def last_items(real: torch.Tensor) -> torch.Tensor:
    """Position of each row's last item (B, 1), 0 of a row without items."""
    return (real * torch.arange(real.shape[1], device=real.device)).argmax(-1, keepdim=True)


def rows_at(states: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Of (B, T, n) those at the positions (B, M), (B, M, n); take_along_dim would fix the shapes of an export."""
    return states.gather(1, positions.unsqueeze(-1).expand(-1, -1, states.shape[-1]))


class ReaRecAttention(PostNormAttention):
    """The attention of a layer: of a history, and of one reasoning step after the other."""

    def encode(self, hidden: torch.Tensor, cache: LayerCache, allowed: torch.Tensor) -> torch.Tensor:
        """
        Args:
            hidden: (B, R, d), the positions that attend.
            allowed: (B, R, T) boolean, True = attended.

        Returns:
            (B, R, d)
        """
        return self.add(hidden, self(hidden, cache.keys, cache.values, allowed.unsqueeze(1)))

    def reason(self, hidden: torch.Tensor, cache: LayerCache, mask: torch.Tensor) -> tuple[torch.Tensor, LayerCache]:
        """
        One step of every reading: a softmax over the items' columns and the reading's own steps, this one included.

        Args:
            hidden: (B, M, d).
            mask: (B, M, T), 0 where items are attended, else `MASKED`.

        Returns:
            (B, M, d), and the cache with the step.
        """
        cache = cache.with_step(*self.keys_values(hidden))
        query = self.heads(self.query(hidden))
        query = query * query.shape[-1] ** -0.5
        # A product over the items wants one matrix per row, or copies the keys and values, at every step. So the heads
        # stay side by side, and a query is 0 where other heads' keys are.
        apart = torch.diag_embed(query.permute(0, 2, 3, 1), dim1=1, dim2=3).flatten(3)  # (B, heads, M, d)
        keys, values = (heads.transpose(1, 2).flatten(2) for heads in (cache.keys, cache.values))  # (B, T, d)
        of_items = (apart.flatten(1, 2) @ keys.mT).unflatten(1, apart.shape[1:3]) + mask.unsqueeze(1)
        of_steps = (query.unsqueeze(3) * torch.stack(cache.step_keys, 3)).sum(-1)  # (B, heads, M, k)
        weights = torch.cat([of_items, of_steps], -1).softmax(-1)
        weights = dropout(weights, self.dropout, self.training)
        to_items, to_steps = weights.split([keys.shape[1], of_steps.shape[-1]], -1)
        read = (to_items.flatten(1, 2) @ values).view(*query.shape[:3], *query.shape[1::2])  # (B, heads, M, heads, D)
        read = read.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)
        read = read + (to_steps.unsqueeze(-1) * torch.stack(cache.step_values, 3)).sum(3)
        return self.add(hidden, self.output(read.transpose(1, 2).flatten(2))), cache


class ReasoningAdapter(nn.Module):
    """What a layer does to reasoning steps alone (a bottleneck, arXiv 1902.00751); it starts next to doing nothing."""

    def __init__(self, config: ReaRecConfig):
        super().__init__()
        self.down = nn.Linear(config.hidden_size, config.reasoning_adapter_size)
        self.up = nn.Linear(config.reasoning_adapter_size, config.hidden_size)

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        return state + self.up(nn.functional.gelu(self.down(state)))


class ReaRecLayer(nn.Module):
    """One layer of the encoder; its weights serve the reasoning steps too, all of them but for an adapter's."""

    def __init__(self, config: ReaRecConfig):
        super().__init__()
        self.attention = ReaRecAttention(config)
        self.feed_forward = PostNormFeedForward(config)
        self.adapter = ReasoningAdapter(config) if config.reasoning_adapter_size else None

    def encode(
        self, hidden: torch.Tensor, allowed: torch.Tensor, positions: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, LayerCache]:
        """
        Args:
            hidden: (B, T, d).
            allowed: (B, T, T) boolean; (B, R, T) with `positions`.
            positions (*optional*): (B, R), the only positions whose states are wanted. The others have keys and values
                alone.

        Returns:
            (B, T, d), or (B, R, d) with `positions`, and the layer's cache.
        """
        cache = LayerCache(*self.attention.keys_values(hidden))
        if positions is not None:
            hidden = rows_at(hidden, positions)
        return self.feed_forward(self.attention.encode(hidden, cache, allowed)), cache

    def reason(self, hidden: torch.Tensor, cache: LayerCache, mask: torch.Tensor) -> tuple[torch.Tensor, LayerCache]:
        """One reasoning step, see [`ReaRecAttention.reason`]."""
        hidden, cache = self.attention.reason(hidden, cache, mask)
        hidden = self.feed_forward(hidden)
        return hidden if self.adapter is None else self.adapter(hidden), cache


def whole_table(embedding: Any) -> torch.Tensor:
    """All vectors of an embedding, (rows, d), with what an adapter around it adds: such a layer is asked, not read."""
    table = embedding.weight
    return table if isinstance(embedding, nn.Embedding) else embedding(torch.arange(len(table), device=table.device))


class IdItems(nn.Module):
    """A trained vector per item, and one for PAD."""

    def __init__(self, config: ReaRecConfig):
        super().__init__()
        self.embeddings = nn.Embedding(config.num_items + 1, config.hidden_size)

    def forward(self) -> torch.Tensor:
        """(N + 1, d), PAD last"""
        return whole_table(self.embeddings)


class TextItems(nn.Module):
    """Item vectors made from fixed text embeddings, which are saved with the weights; PAD's vector is trained."""

    vectors: torch.Tensor  # (N, D), NaN until they are set

    def __init__(self, config: ReaRecConfig):
        super().__init__()
        self.register_buffer("vectors", torch.full((config.num_items, config.item_vector_size or 0), float("nan")))
        self.adaptor = ExpertAdaptor(config) if config.backbone == "unisrec" else MlpAdaptor(config)
        self.pad = nn.Embedding(1, config.hidden_size)
        self._known_to_be_set = False

    def forward(self) -> torch.Tensor:
        """(N + 1, d), PAD last"""
        if not (self._known_to_be_set or torch.compiler.is_compiling()):
            if not self.vectors.isfinite().all():
                raise ValueError("The model has no text embeddings: call set_item_vectors with an array (N, D) first.")
            self._known_to_be_set = True
        return torch.cat([self.adaptor(self.vectors), whole_table(self.pad)])


class Whitening(nn.Module):
    """UniSRec's parametric whitening, (x - b) W: what it subtracts is learned, as the directions are."""

    def __init__(self, config: ReaRecConfig):
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(config.item_vector_size or 0))
        self.linear = nn.Linear(config.item_vector_size or 0, config.hidden_size, bias=False)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        return self.linear(vectors - self.mean)


class ExpertAdaptor(nn.Module):
    """UniSRec (arXiv 2206.05941): whitening experts, mixed by a softmax gate that reads the embedding."""

    def __init__(self, config: ReaRecConfig):
        super().__init__()
        self.dropout = config.adaptor_dropout
        self.experts = nn.ModuleList(Whitening(config) for _ in range(config.num_experts))
        self.gate = nn.Linear(config.item_vector_size or 0, config.num_experts, bias=False)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """(N, D) -> (N, d)"""
        shares = self.gate(vectors).softmax(-1)  # (N, experts)
        dropped = dropout(vectors, self.dropout, self.training)
        # Summed expert by expert: without gradients, a large catalogue needs no (N, experts, d).
        mixed = shares[:, :1] * self.experts[0](dropped)
        for index, expert in enumerate(self.experts[1:], start=1):
            mixed = mixed + shares[:, index : index + 1] * expert(dropped)
        return mixed


class AdaptorLinear(nn.Linear):
    """
    Starts with a standard deviation of 1 / sqrt(inputs): through two layers of the usual 0.02, item vectors would start
    next to nothing.
    """


class MlpAdaptor(nn.Module):
    """
    MoRec's projection of a text embedding to d, with one hidden layer: MoRec trains the text encoder with it, here the
    embeddings are fixed, and a single linear map could not do more than rotate and scale them.
    """

    def __init__(self, config: ReaRecConfig):
        super().__init__()
        self.up = AdaptorLinear(config.item_vector_size or 0, config.hidden_size)
        self.down = AdaptorLinear(config.hidden_size, config.hidden_size)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """(N, D) -> (N, d)"""
        return self.down(nn.functional.gelu(self.up(vectors)))
