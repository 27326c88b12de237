"""The catalogue as a trie of token ids, in sorted integer arrays: a step costs what the legal children cost."""

import numpy as np
import torch
from transformers import LogitsProcessor


class ItemTrie:
    """
    Trie over the token ids of a catalogue's items.

    Level l has one node per distinct prefix of l tokens; level 0 is the root, level L the leaves. The nodes of a level
    are numbered in lexicographic order, so the children of a node, and the items below it, are contiguous ranges.

    Attributes:
        edges (`list[torch.Tensor]`): per level 1..L the sorted int64 keys `parent node * stride + token`, one per node.
        item_starts (`list[torch.Tensor]`): per level 0..L, (nodes + 1,) int64, where each node's range in `items`
        begins.
        items (`torch.Tensor`): (items,) int64, row numbers of the catalogue in lexicographic order; the items of one
        leaf stand in
            the order in which the caller wants them listed.
    """

    def __init__(self, edges: list[torch.Tensor], item_starts: list[torch.Tensor], items: torch.Tensor, stride: int):
        self.edges = edges
        self.item_starts = item_starts
        self.items = items
        self.stride = stride

    @classmethod
    def from_token_ids(cls, ids, rows=None, popularity=None) -> "ItemTrie":
        """
        Args:
            ids: (items, L) token ids, array or tensor. Items may share their ids; then a leaf holds several.
            rows (*optional*): (items,) row numbers to use for the items, instead of 0, 1, ...
            popularity (*optional*): (items,) the items of one leaf are listed by falling popularity, ties by row.

        Raises:
            ValueError: for an empty catalogue, or ids that are not a table of non-negative integers.
        """
        ids = np.asarray(ids)
        if ids.ndim != 2 or ids.shape[0] == 0 or ids.shape[1] == 0:
            raise ValueError(
                f"The catalogue is empty: token ids of shape {ids.shape}, expected (items, codes), at least one of "
                f"each."
            )
        if not np.issubdtype(ids.dtype, np.integer) or ids.min() < 0:
            raise ValueError("Token ids of items must be integers, 0 or more.")
        ids = ids.astype(np.int64)
        rows = np.arange(len(ids)) if rows is None else np.asarray(rows, dtype=np.int64)
        popularity = np.zeros(len(ids)) if popularity is None else np.asarray(popularity)

        order = np.lexsort((rows, -popularity, *ids.T[::-1]))
        sorted_ids = ids[order]
        stride = int(ids.max()) + 1
        is_new = np.zeros(len(ids), dtype=bool)  # whether the prefix differs from the line above
        is_new[0] = True
        node = np.zeros(len(ids), dtype=np.int64)
        edges, item_starts = [], [torch.tensor([0, len(ids)])]
        for level in range(ids.shape[1]):
            is_new[1:] |= sorted_ids[1:, level] != sorted_ids[:-1, level]
            starts = np.flatnonzero(is_new)
            edges.append(torch.from_numpy(node[starts] * stride + sorted_ids[starts, level]))
            item_starts.append(torch.from_numpy(np.append(starts, len(ids))))
            node = np.cumsum(is_new) - 1
        return cls(edges, item_starts, torch.from_numpy(rows[order]), stride)

    @property
    def num_levels(self) -> int:
        return len(self.edges)

    def __len__(self) -> int:
        """Number of items."""
        return len(self.items)

    def to(self, device) -> "ItemTrie":
        if self.items.device == torch.device(device):
            return self
        return ItemTrie(
            [e.to(device) for e in self.edges],
            [s.to(device) for s in self.item_starts],
            self.items.to(device),
            self.stride,
        )

    def allowed(self, nodes: torch.Tensor, level: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """
        The legal next tokens after the prefixes that end in nodes of one level.

        Args:
            nodes: (n,) node numbers at `level` (0..L-1); -1, a dead state, has none.

        Returns:
            three (c,) tensors, in the order of the rows and then of the tokens: index into `nodes`, token id, node at
            `level + 1`.
        """
        edges = self.edges[level]
        alive = nodes >= 0
        low = torch.searchsorted(edges, nodes.clamp(min=0) * self.stride)
        high = torch.searchsorted(edges, (nodes.clamp(min=0) + 1) * self.stride)
        count = torch.where(alive, high - low, 0)
        row = torch.repeat_interleave(torch.arange(len(nodes), device=nodes.device), count)
        child = torch.arange(len(row), device=nodes.device) + (low - (count.cumsum(0) - count))[row]
        return row, edges[child] % self.stride, child

    def walk(self, ids: torch.Tensor) -> torch.Tensor:
        """Nodes (n,) that prefixes `ids` (n, l) lead to, at level l; -1 where no item begins so."""
        node = torch.zeros(len(ids), dtype=torch.long, device=ids.device)
        for level in range(ids.shape[1]):
            edges, token = self.edges[level], ids[:, level].long()
            key = node * self.stride + token
            child = torch.searchsorted(edges, key).clamp(max=len(edges) - 1)
            known = (node >= 0) & (token < self.stride) & (token >= 0) & (edges[child] == key)
            node = torch.where(known, child, -1)
        return node

    def items_below(self, nodes: torch.Tensor, level: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Ranges [start, end) in `items` of what lies below nodes of a level, two (n,) tensors."""
        starts = self.item_starts[level]
        return starts[nodes], starts[nodes + 1]

    def token_ids(self) -> torch.Tensor:
        """(items, L) token ids, in the order of `items`."""
        columns = []
        nodes = torch.repeat_interleave(torch.arange(len(self.edges[-1])), self.item_starts[-1].diff())
        for edges in reversed(self.edges):
            columns.append(edges[nodes] % self.stride)
            nodes = edges[nodes] // self.stride
        return torch.stack(columns[::-1], dim=1)

    def restrict(self, candidates) -> "ItemTrie":
        """
        The trie of a part of the catalogue, with the same row numbers and the same order within leaves.

        Args:
            candidates: row numbers of the items to keep.

        Raises:
            ValueError: if none of the items is left.
        """
        keep = np.isin(self.items.cpu().numpy(), np.asarray(candidates))
        if not keep.any():
            raise ValueError("The candidates leave no item to recommend: pass at least one item of the catalogue.")
        rows = self.items.cpu().numpy()[keep]
        place = np.arange(len(self.items))[keep]
        return ItemTrie.from_token_ids(self.token_ids().cpu().numpy()[keep], rows, popularity=-place).to(
            self.items.device
        )

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The arrays by name, for safetensors."""
        tensors = {"items": self.items, "stride": torch.tensor([self.stride])}
        for level, starts in enumerate(self.item_starts):
            tensors[f"item_starts.{level}"] = starts
        for level, edges in enumerate(self.edges, start=1):
            tensors[f"edges.{level}"] = edges
        return tensors

    @classmethod
    def from_state_dict(cls, tensors: dict[str, torch.Tensor]) -> "ItemTrie":
        levels = sum(name.startswith("edges.") for name in tensors)
        return cls(
            [tensors[f"edges.{level}"] for level in range(1, levels + 1)],
            [tensors[f"item_starts.{level}"] for level in range(levels + 1)],
            tensors["items"],
            int(tensors["stride"]),
        )


class TrieLogitsProcessor(LogitsProcessor):
    """
    Lets `model.generate` (greedy, beam search, sampling) write items of the catalogue only.

    The codes already written are what follows the last answer token. Scores of tokens that lead to no item become
    -inf, without renormalising. After L codes every row is finished and its scores are left as they are.

    Args:
        trie ([`ItemTrie`]): the catalogue, or a part of it.
        answer_token_id (`int`): the token that ends the history.

    Raises:
        ValueError: for a row without an answer token.
    """

    def __init__(self, trie: ItemTrie, answer_token_id: int):
        self.trie = trie
        self.answer_token_id = answer_token_id

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        trie = self.trie.to(input_ids.device)
        from_end = (input_ids == self.answer_token_id).flip(-1)
        if not from_end.any(-1).all():
            raise ValueError(
                f"A row holds no answer token ({self.answer_token_id}): end each prompt with it, as GenRecProcessor "
                f"does."
            )
        written = from_end.int().argmax(-1)  # (rows,) number of codes after the answer token
        masked = torch.full_like(scores, -torch.inf)
        for level in written.unique().tolist():
            at = (written == level).nonzero().squeeze(-1)
            if level >= trie.num_levels:
                masked[at] = scores[at]
                continue
            nodes = trie.walk(input_ids[at, input_ids.shape[1] - level :])
            row, token, _ = trie.allowed(nodes, level)
            masked[at[row], token] = scores[at[row], token]
            # A row that left the catalogue (a beam that was never alive) keeps its scores: all -inf is not a
            # distribution.
            dead = at[nodes < 0]
            masked[dead] = scores[dead]
        return masked
