"""The catalogue as a trie of token ids, in flat integer arrays: a step costs what the legal children cost."""

from collections.abc import Sequence

import numpy as np
import torch

from .flat_lists import expand_ranges
from .trie_arrays import (
    LIMIT,
    LevelTable,
    ended,
    first_of,
    gather_last,
    is_division,
    most_children,
    packed_keys,
    require_items,
    row_numbers,
    shifted,
    take,
    token_table,
)


class ItemTrie:
    """
    Trie over the token ids of a catalogue's items.

    Level l has one node per distinct prefix of l tokens; level 0 is the root, level L the leaves. The nodes of a level
    are numbered in lexicographic order, so the children of a node, and the items below it, are contiguous ranges.

    Attributes:
        tokens (`list[torch.Tensor]`): per level 1..L, (nodes,) int32, the token that leads to each node; ascending
            among the children of a node.
        child_starts (`list[torch.Tensor]`): per level 0..L, (nodes + 1,) int32, where each node's children begin among
            the nodes of the next level; at level L, where each leaf's items begin in `items`.
        items (`torch.Tensor`): (items,) int32, row numbers of the catalogue in lexicographic order; the items of one
            leaf stand in the order in which the caller wants them listed.
        max_children (`list[int]`): per level 0..L, the most children (items, at level L) of any node.
    """

    def __init__(
        self,
        tokens: Sequence[torch.Tensor],
        child_starts: Sequence[torch.Tensor],
        items: torch.Tensor,
        max_children: Sequence[int] | None = None,
        tables: Sequence[LevelTable | None] | None = None,
    ):
        self.child_starts = list(child_starts)
        self.items = items
        if max_children is None:
            max_children = [most_children(starts) for starts in child_starts]
        self.max_children = list(max_children)
        # Behind each level's tokens stand as many zeros as a node may have children, so that a window of that width
        # may begin at every node. Tokens that come with them (from a file, or another trie) are not copied.
        counts = [len(starts) - 1 for starts in self.child_starts[1:]]
        self._padded = [
            array if len(array) > count else torch.nn.functional.pad(array, (0, width))
            for array, count, width in zip(tokens, counts, self.max_children, strict=False)
        ]
        self.tokens = [array[:count] for array, count in zip(self._padded, counts, strict=True)]
        if tables is None:
            tables = [LevelTable.of(*level) for level in zip(self.tokens, self.child_starts, strict=False)]
        self._tables = list(tables)
        # Overlapping windows: one copy of neighbours per node instead of single reads.
        self._windows = [
            array.unfold(0, width, 1) for array, width in zip(self._padded, self.max_children, strict=False)
        ]
        self._places = [torch.arange(width, dtype=torch.int32, device=items.device) for width in self.max_children[:-1]]
        self._masks = [first_of(width, items.device) for width in self.max_children[:-1]]
        # Tensors: numbers of Python cost the CPU three times as much to add.
        self._widths = [torch.tensor(width, dtype=torch.int32, device=items.device) for width in self.max_children[:-1]]
        self._level_tokens: dict[int, torch.Tensor] = {}

    @classmethod
    def from_token_ids(cls, ids, rows=None, popularity=None) -> "ItemTrie":
        """
        Args:
            ids: (items, L) token ids, array or tensor. Items may share their ids; then a leaf holds several.
            rows (*optional*): (items,) row numbers to use for the items, instead of 0, 1, ...
            popularity (*optional*): (items,) the items of one leaf are listed by falling popularity, ties by row.

        Raises:
            ValueError: for an empty catalogue, ids that are not a table of non-negative integers, or numbers that do
                not fit into int32.
        """
        ids = token_table(ids)
        within_leaf = []  # keys of the order within a leaf, the last one first
        if rows is not None:
            rows = row_numbers(rows, len(ids))
            within_leaf.append(rows)
        if popularity is not None:
            within_leaf.append(-np.asarray(popularity, dtype=np.float64))
        order = np.lexsort([*within_leaf, *packed_keys(ids)[::-1]])

        is_new = np.zeros(len(ids), dtype=bool)  # whether the prefix differs from the line above
        is_new[0] = True
        starts = np.zeros(1, dtype=np.int64)  # first line of each node
        tokens, child_starts = [], []
        for level in range(ids.shape[1]):
            column = ids[order, level]
            is_new[1:] |= column[1:] != column[:-1]
            node = np.cumsum(is_new, dtype=np.int32)
            child_starts.append(ended(node[starts] - 1, node[-1]))
            starts = np.flatnonzero(is_new)
            tokens.append(torch.from_numpy(column[starts].astype(np.int32, copy=False)))
        child_starts.append(ended(starts, len(ids)))
        items = order if rows is None else rows[order]
        return cls(tokens, child_starts, torch.from_numpy(items.astype(np.int32, copy=False)))

    @property
    def num_levels(self) -> int:
        return len(self.tokens)

    @property
    def num_leaves(self) -> int:
        """Different token ids of items; at most the number of items."""
        return len(self.tokens[-1])

    def __len__(self) -> int:
        """Number of items."""
        return len(self.items)

    def to(self, device) -> "ItemTrie":
        if self.items.device == torch.device(device):
            return self
        return ItemTrie(
            [tokens.to(device) for tokens in self._padded],
            [starts.to(device) for starts in self.child_starts],
            self.items.to(device),
            self.max_children,
            [None if table is None else table.to(device) for table in self._tables],
        )

    # ---- walking ----

    def allowed(self, nodes: torch.Tensor, level: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """
        The legal next tokens after the prefixes that end in nodes of one level.

        Each node gets the same number of candidates, K. Where most nodes go on with most of a level's tokens, they are
        all from the first of these tokens to the last. Elsewhere K is `max_children[level]`: a node's children are
        neighbours at `level + 1` and are read in one piece, with what follows them. Shapes do not depend on the data
        and nothing waits for the device, so that this can be part of a CUDA graph.

        Args:
            nodes: (...,) int64 node numbers at `level` (0..L-1); -1, a dead state, has no legal candidate.

        Returns:
            tokens (..., K) int32, rising where legal; children (..., K) int32, the nodes at `level + 1` that they lead
            to; and a mask (..., K) float32 to add to their scores, 0 where legal and -inf elsewhere (on the CPU adding
            is ten times faster than choosing by a boolean). Tokens and children that are not legal mean nothing.
        """
        rows, table = nodes.flatten(), self._tables[level]
        if table is not None:
            shape = (*nodes.shape, len(table.tokens))
            children, mask = (lines.index_select(0, rows + 1).view(shape) for lines in (table.children, table.mask))
            return table.tokens.expand(shape), children, mask
        starts, shape = self.child_starts[level], (*nodes.shape, self.max_children[level])
        first, end = starts.index_select(0, rows.clamp(min=0)), starts.index_select(0, rows + 1)  # dead: from 0 to 0
        tokens = self._windows[level].index_select(0, first).view(shape)
        children = (first[:, None] + self._places[level]).view(shape)
        return tokens, children, self._masks[level].index_select(0, first - end + self._widths[level]).view(shape)

    def gather(self, scores: torch.Tensor, tokens: torch.Tensor, level: int) -> torch.Tensor:
        """
        The scores (..., K) of the candidates among those of the whole vocabulary (..., V).

        Args:
            tokens: (..., K), those that [`allowed`] returned for this level.
        """
        table = self._tables[level]
        return gather_last(scores, tokens) if table is None else scores[..., table.span]

    def step(self, nodes: torch.Tensor, tokens: torch.Tensor, level: int) -> torch.Tensor:
        """
        Nodes at `level + 1` that tokens lead to from nodes of a level (0..L-1), -1 where there is no such child.

        Without waiting for the device, as [`allowed`].

        Args:
            nodes: (...,) int64 node numbers, -1 for dead states.
            tokens: any integers of a shape that fits.
        """
        starts = self.child_starts[level]
        begin, end = take(starts, nodes.clamp(min=0)).long(), take(starts, nodes + 1).long()
        child, found = self._find(begin, end, tokens.long(), level)
        return torch.where(found, child, -1)

    def _find(self, begin, end, tokens: torch.Tensor, level: int) -> tuple[torch.Tensor, torch.Tensor]:
        """First nodes in the ranges [begin, end) of `level + 1` whose token is not smaller, and whether it is equal."""
        sorted_tokens = self.tokens[level]
        last = len(sorted_tokens) - 1
        low, high = begin, end
        for _ in range(self.max_children[level].bit_length()):
            middle = (low + high) >> 1
            smaller = (low < high) & (take(sorted_tokens, middle.clamp(max=last)) < tokens)
            low, high = torch.where(smaller, middle + 1, low), torch.where(smaller, high, middle)
        return low, (low < end) & (take(sorted_tokens, low.clamp(max=last)) == tokens)

    def walk(self, ids: torch.Tensor) -> torch.Tensor:
        """Nodes (n,) that prefixes `ids` (n, l), any integers, lead to, at level l; -1 where no item begins so."""
        nodes = torch.zeros(len(ids), dtype=torch.long, device=ids.device)
        for level in range(ids.shape[1]):
            nodes = self.step(nodes, ids[:, level], level)
        return nodes

    def items_below(self, nodes: torch.Tensor, level: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Ranges [start, end) in `items` of what lies below nodes of a level, two (...,) int64; empty where -1."""
        start, end = nodes.clamp(min=0), nodes + 1
        for starts in self.child_starts[level:]:
            start, end = take(starts, start), take(starts, end)
        return start.long(), end.long()

    def level_tokens(self, level: int) -> torch.Tensor:
        """(n,) int64, rising: the tokens with which some node at `level` (0..L-1) goes on. Found once and kept."""
        if level not in self._level_tokens:  # threads that find them at once find the same
            self._level_tokens[level] = self.tokens[level].unique().long()
        return self._level_tokens[level]

    # ---- items ----

    def token_ids(self, places: torch.Tensor | None = None) -> torch.Tensor:
        """(n, L) int64 token ids of the items at `places` (n,) in `items`, by default of all in their order."""
        if places is None:
            places = torch.arange(len(self), device=self.items.device)
        ids = torch.empty(len(places), self.num_levels, dtype=torch.long, device=places.device)
        nodes = places
        for level in range(self.num_levels, 0, -1):
            nodes = torch.searchsorted(self.child_starts[level], nodes.int(), right=True) - 1
            ids[:, level - 1] = self.tokens[level - 1][nodes]
        return ids

    def places(self, rows, ids: torch.Tensor | None = None) -> torch.Tensor:
        """
        Where catalogue rows stand in `items`, (n,) int64, -1 for rows that are not in the trie.

        Args:
            rows: (n,) row numbers.
            ids (*optional*): (n, L) their token ids, if the caller knows them: then only their leaves are read, instead
                of all `items`.
        """
        if ids is None:
            items = self.items.cpu().numpy()
            found = self._places_of(rows)
            found = np.append(found[items[found].argsort()], -1)  # by row, and one that stands for "not there"
            at = np.searchsorted(items[found[:-1]], rows)
            return torch.from_numpy(np.where(items[found[at]] == rows, found[at], -1)).to(self.items.device)
        rows = torch.as_tensor(rows, device=ids.device)
        start, end = self.items_below(self.walk(ids), self.num_levels)
        place, line = expand_ranges(start, end)
        same = self.items[place] == rows[line]
        places = torch.full_like(start, -1)
        places[line[same]] = place[same]
        return places

    def _places_of(self, rows) -> np.ndarray:
        """Rising places in `items` of those rows that are in the trie."""
        return np.flatnonzero(np.isin(self.items.cpu().numpy(), np.asarray(rows)))

    def restrict(self, candidates) -> "ItemTrie":
        """
        The trie of a part of the catalogue, with the same row numbers and the same order within leaves.

        Args:
            candidates: row numbers of the items to keep.

        Raises:
            ValueError: if none of the items is left.
        """
        places = self._places_of(candidates)
        if not len(places):
            raise ValueError("The candidates leave no item to recommend: pass at least one item of the catalogue.")
        trie = self.to("cpu")
        tokens, child_starts = [], []
        kept = places  # of the level below, in rising order
        for level in range(self.num_levels, -1, -1):
            node = np.searchsorted(trie.child_starts[level].numpy(), kept.astype(np.int32), side="right") - 1
            starts = np.flatnonzero(np.append(True, node[1:] != node[:-1]))
            child_starts.append(ended(starts, len(kept)))
            kept = node[starts]
            if level > 0:
                tokens.append(trie.tokens[level - 1][torch.from_numpy(kept)])
        return ItemTrie(tokens[::-1], child_starts[::-1], trie.items[torch.from_numpy(places)]).to(self.items.device)

    def insert(self, ids, rows) -> "ItemTrie":
        """
        The trie with further items; in a leaf they stand after those already there, in the order given.

        What changes is merged in, nothing is sorted anew; arrays that stay the same are shared with this trie.

        Args:
            ids: (n, L) token ids of the new items.
            rows: (n,) their row numbers.

        Raises:
            ValueError: for ids of another number of levels, or a row that is in the trie or stands twice.
        """
        if not len(ids):
            return self
        ids = token_table(ids)
        if ids.shape[1] != self.num_levels:
            raise ValueError(f"New items have {ids.shape[1]} token ids, those of the trie {self.num_levels}.")
        rows = row_numbers(rows, len(ids))
        unique, count = np.unique(rows, return_counts=True)
        known = self._places_of(rows)
        if len(known) or (count > 1).any():
            row = self.items[known[0]].item() if len(known) else unique[count > 1][0]
            raise ValueError(f"Row {row} is already in the trie, or given twice: each item needs a row of its own.")
        if len(self) + len(rows) >= LIMIT:
            raise ValueError(
                f"The trie would hold {len(self) + len(rows)} items, more than its int32 arrays can number."
            )

        trie, new = self.to("cpu"), ItemTrie.from_token_ids(ids)
        tokens, child_starts = list(trie.tokens), list(trie.child_starts)
        # Each new node is the old node `at`, where `found`, and otherwise goes in front of it.
        at, found = np.zeros(1, dtype=np.int64), np.ones(1, dtype=bool)
        for level in range(self.num_levels + 1):
            starts = trie.child_starts[level].numpy()
            parent = np.repeat(np.arange(len(at)), np.diff(new.child_starts[level].numpy()))
            begin, end = starts[at], starts[at + found]  # of the children; a node that is not there has none yet
            if level < self.num_levels:
                low, high = (torch.from_numpy(bound[parent]).long() for bound in (begin, end))
                child, child_found = (t.numpy() for t in trie._find(low, high, new.tokens[level], level))
                added = ~child_found
                if added.any():
                    more = new.tokens[level].numpy()[added]
                    tokens[level] = torch.from_numpy(np.insert(trie.tokens[level].numpy(), child[added], more))
            else:
                child, child_found = end[parent], np.zeros(len(new), dtype=bool)
                added = ~child_found
                items = torch.from_numpy(np.insert(trie.items.numpy(), child, rows[new.items.numpy()]))
            if added.any():
                merged = np.insert(starts, at[~found], begin[~found])
                node = at + np.cumsum(~found) - ~found  # numbers of the new nodes in the merged level
                count = np.bincount(parent[added], minlength=len(at))
                child_starts[level] = torch.from_numpy(shifted(merged, node, count))
            at, found = child, child_found
        return trie._changed(tokens, child_starts, items).to(self.items.device)

    def remove(self, rows) -> "ItemTrie":
        """
        The trie without some of its items, merged as in [`insert`].

        Args:
            rows: row numbers of the items to remove.

        Raises:
            ValueError: for a row that is not in the trie, or if no item is left.
        """
        rows = np.unique(rows)
        gone = self._places_of(rows)
        if len(gone) < len(rows):
            missing = rows[~np.isin(rows, self.items.cpu().numpy()[gone])][0]
            raise ValueError(f"Row {missing} is not in the trie: remove only what it holds.")
        if len(gone) == len(self):
            raise ValueError("Removing all items leaves an empty trie: keep at least one.")
        if not len(gone):
            return self
        trie = self.to("cpu")
        tokens, child_starts = list(trie.tokens), list(trie.child_starts)
        items = torch.from_numpy(np.delete(trie.items.numpy(), gone))
        for level in range(self.num_levels, -1, -1):
            starts = trie.child_starts[level].numpy()
            parents, fewer = np.unique(
                np.searchsorted(starts, gone.astype(np.int32), side="right") - 1, return_counts=True
            )
            left = shifted(starts, parents, -fewer)
            gone = parents[starts[parents + 1] - starts[parents] == fewer]
            child_starts[level] = torch.from_numpy(np.delete(left, gone))
            if not len(gone):  # all parents keep a child: the levels above stay
                break
            tokens[level - 1] = torch.from_numpy(np.delete(trie.tokens[level - 1].numpy(), gone))
        return trie._changed(tokens, child_starts, items).to(self.items.device)

    def _changed(self, tokens, child_starts, items: torch.Tensor) -> "ItemTrie":
        """The trie of these arrays, of which some are this trie's own."""
        max_children = [
            most if starts is own else most_children(starts)
            for most, own, starts in zip(self.max_children, self.child_starts, child_starts, strict=True)
        ]
        shared = [
            padded if array is own else array
            for array, own, padded in zip(tokens, self.tokens, self._padded, strict=True)
        ]
        return ItemTrie(shared, child_starts, items, max_children)

    # ---- files ----

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The arrays by name, for safetensors."""
        tensors = {"items": self.items, "max_children": torch.tensor(self.max_children)}
        for level, tokens in enumerate(self._padded, start=1):
            tensors[f"tokens.{level}"] = tokens
        for level, starts in enumerate(self.child_starts):
            tensors[f"child_starts.{level}"] = starts
        return tensors

    @classmethod
    def from_state_dict(cls, tensors: dict[str, torch.Tensor]) -> "ItemTrie":
        """
        The trie of [`state_dict`]. Its arrays are used as they are: those of a mapped file stay on disk until read.

        Raises:
            ValueError: if arrays are missing or do not belong together.
        """
        levels = sum(name.startswith("tokens.") for name in tensors)
        names = {"items", "max_children", "child_starts.0"}
        names |= {f"{kind}.{level}" for kind in ("tokens", "child_starts") for level in range(1, levels + 1)}
        if levels == 0 or set(tensors) != names:
            raise ValueError(
                f"No item trie of this version: it holds {', '.join(sorted(tensors))}. Build the trie anew from the "
                f"catalogue and save it again."
            )
        tokens = [tensors[f"tokens.{level}"] for level in range(1, levels + 1)]
        child_starts = [tensors[f"child_starts.{level}"] for level in range(levels + 1)]
        items, max_children = tensors["items"], tensors["max_children"]
        advice = "build the trie anew from the catalogue and save it again."
        if max_children.dtype != torch.int64 or max_children.shape != (levels + 1,):
            raise ValueError(f"The item trie's arrays do not belong together: {advice}")
        if any(array.dtype != torch.int32 or array.dim() != 1 for array in (*tokens, items)) or (items < 0).any():
            raise ValueError(f"The item trie's tokens and rows must be int32 numbers, rows 0 or more: {advice}")
        widths = max_children.tolist()
        nodes = [1, *(len(array) - width for array, width in zip(tokens, widths, strict=False)), len(items)]
        for level, starts in enumerate(child_starts):
            if not is_division(starts, nodes[level], nodes[level + 1]) or most_children(starts) != widths[level]:
                raise ValueError(f"The item trie's arrays of level {level} do not belong together: {advice}")
        for level, (array, count) in enumerate(zip(tokens, nodes[1:], strict=False)):
            rises = array[1:count] > array[: count - 1]
            rises[child_starts[level][1:-1].long() - 1] = True  # the first child of the next node
            if (array[:count] < 0).any() or array[count:].any() or not rises.all():
                raise ValueError(f"The item trie's tokens of level {level + 1} do not rise under a node: {advice}")
        return cls(tokens, child_starts, items, widths)

    def require_catalogue(self, token_ids: np.ndarray, popularity: np.ndarray) -> None:
        """
        Raises, unless this is the trie that [`from_token_ids`] makes of a catalogue.

        Args:
            token_ids: (N, L) of the catalogue's items.
            popularity: (N,) of the catalogue's items.

        Raises:
            ValueError: if it is of another catalogue.
        """
        starts = self.child_starts[-1]
        require_items(self.items, starts, self.token_ids(starts[:-1].long()), token_ids, popularity)
