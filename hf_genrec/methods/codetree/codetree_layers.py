"""What CodeTree is made of: the layers that read a history, the heads that go down the tree, and the tree's vectors."""

import torch
from torch import nn

from ...catalogue.item_trie import ItemTrie
from ...decoding.attention import FeedForward, MultiHeadAttention
from .configuration_codetree import CodeTreeConfig


class CodeTreeLayer(nn.Module):
    """Causal attention and a feed-forward part, with norms behind them, as SASRec's."""

    def __init__(self, config: CodeTreeConfig):
        super().__init__()
        size, eps = config.hidden_size, config.layer_norm_eps
        self.attention = MultiHeadAttention(size, config.num_attention_heads, config.attention_dropout)
        self.attention_norm = nn.LayerNorm(size, eps)
        self.feed_forward = FeedForward(size, config.intermediate_size, config.hidden_act)
        self.feed_forward_norm = nn.LayerNorm(size, eps)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, states: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
        """
        Args:
            states: (B, T, d).
            allowed: (B, 1, T, T) boolean, which places each may attend to.
        """
        read = self.attention(states, *self.attention.keys_values(states), allowed)
        states = self.attention_norm(states + self.dropout(read))
        return self.feed_forward_norm(states + self.dropout(self.feed_forward(states)))


class CodeHead(nn.Module):
    """From the state of a history and what its next item has been found to be so far, to what its next code is by."""

    def __init__(self, config: CodeTreeConfig, has_prefix: bool):
        super().__init__()
        size = config.hidden_size
        self.up = nn.Linear(2 * size if has_prefix else size, 2 * size)
        self.down = nn.Linear(2 * size, size)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.norm = nn.LayerNorm(size)

    def forward(self, states: torch.Tensor, prefix: torch.Tensor | None) -> torch.Tensor:
        """
        Args:
            states: (..., d).
            prefix: (..., d), the sum of the codes' vectors before; `None` at the first code.
        """
        read = states if prefix is None else torch.cat([states, prefix], -1)
        whole = states if prefix is None else states + prefix
        return self.norm(whole + self.dropout(self.down(nn.functional.gelu(self.up(read)))))


class HistoryReader:
    """
    A model's `encode` as what `generate` asks for: something that is called, with a `forward`.

    Args:
        model: a [`CodeTreeForConditionalGeneration`].
    """

    def __init__(self, model):
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs):
        return self.model.encode(input_ids, attention_mask)

    __call__ = forward


class CodeTreeVectors:
    """
    A vector of each node of the catalogue's trie: the mean over the items below it.

    Args:
        trie: of the catalogue.
        items: (N, d) vectors of the items, in catalogue order.

    Attributes:
        levels: per level 1..L, (nodes, d).
    """

    def __init__(self, trie: ItemTrie, items: torch.Tensor):
        self.trie = trie
        below, sizes = items[trie.items.long()], None
        self.levels: list[torch.Tensor] = []
        for level in range(trie.num_levels, 0, -1):
            counts = trie.child_starts[level].diff().long()
            parents = torch.arange(len(counts), device=items.device).repeat_interleave(counts, output_size=len(below))
            below = items.new_zeros(len(counts), items.shape[1]).index_add(0, parents, below)  # sums
            sizes = counts if sizes is None else counts.new_zeros(len(counts)).index_add(0, parents, sizes)
            self.levels.insert(0, below / sizes.unsqueeze(-1))

    def children(self, nodes: torch.Tensor, level: int) -> tuple[torch.Tensor, torch.Tensor]:
        """
        What nodes (...,) of a level (0..L-1) go on with: nodes (..., K) of the next level, and whether they are (a
        node has fewer children than the widest; -1 has none).
        """
        starts = self.trie.child_starts[level].long()
        first, end = starts[nodes.clamp(min=0)], starts[nodes + 1]
        places = first.unsqueeze(-1) + torch.arange(self.trie.max_children[level], device=nodes.device)
        legal = (places < end.unsqueeze(-1)) & (nodes >= 0).unsqueeze(-1)
        return places.clamp(max=len(self.trie.tokens[level]) - 1), legal

    def log_probs(self, states: torch.Tensor, nodes: torch.Tensor, level: int) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Log-probabilities (..., K) of the children of nodes (...,), -inf of what is none, by states (..., d); and the
        children (..., K).
        """
        children, legal = self.children(nodes, level)
        vectors = self.levels[level]
        # All nodes are children of the root.
        scores = (vectors[children] @ states.unsqueeze(-1)).squeeze(-1) if level else states @ vectors.T
        scores = scores.float().masked_fill(~legal, -torch.inf)
        return scores - scores.logsumexp(-1, keepdim=True).nan_to_num(neginf=0.0), children
