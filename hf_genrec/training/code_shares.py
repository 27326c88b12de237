"""Scores of items, summed to the codes that a prefix goes on with."""

import numpy as np
import torch

from hf_genrec.catalogue.item_trie import ItemTrie


class CodeShares:
    """
    How, level by level, a softmax over the items below an item's prefix divides among the next codes (TCA4Rec, arXiv
    2601.18457, the collaborative tokenizer).

    Items stand in the order of the trie, in which those below a prefix, and its next codes, are neighbours: the sums
    are over contiguous ranges. Only the first level reads all items. Those of the others lie below the first code.

    Args:
        trie: of the catalogue.
        candidates (*optional*): (C,) the rows whose scores count; by default all.

    Attributes:
        order (`torch.Tensor`): (N,) catalogue rows in the order in which their scores are given.
        widths (`list[int]`): per level, the most codes that a prefix goes on with.
    """

    def __init__(self, trie: ItemTrie, candidates: np.ndarray | None = None):
        self.trie, self.order = trie, trie.items.long()
        self.widths = trie.max_children[:-1]
        self.nodes = self.path(trie.token_ids()).T.contiguous()  # (L, N) of every item, at levels 1..L
        places = torch.arange(len(trie.tokens[0]), device=self.order.device)
        self.first_items = trie.items_below(places, 1)[0]  # of each first code
        self.closed = None
        if candidates is not None:
            rows = torch.from_numpy(np.asarray(candidates)).to(self.order.device)
            self.closed = (~torch.isin(self.order, rows)).nonzero()[:, 0]

    def path(self, token_ids: torch.Tensor) -> torch.Tensor:
        """(n, L) nodes at levels 1..L that the token ids (n, L) of items lead to."""
        nodes, path = torch.zeros(len(token_ids), dtype=torch.long, device=token_ids.device), []
        for level in range(self.trie.num_levels):
            nodes = self.trie.step(nodes, token_ids[:, level], level)
            path.append(nodes)
        return torch.stack(path, 1)

    def next_codes(self, path: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """
        The ranges [first, end), (n, L) each, of the nodes at levels 1..L that the prefixes of 0..L - 1 codes of items
        go on with; `path` (n, L) as [`path`] gives it.
        """
        parents = torch.nn.functional.pad(path, (1, 0))[:, :-1]
        starts = self.trie.child_starts[:-1]
        first = torch.stack([begin[parents[:, level]] for level, begin in enumerate(starts)], 1)
        end = torch.stack([begin[parents[:, level] + 1] for level, begin in enumerate(starts)], 1)
        return first.long(), end.long()

    def shares(self, scores: torch.Tensor, path: torch.Tensor) -> torch.Tensor:
        """
        Args:
            scores: (N, n) of the items in `order`, a column per target. Written to where items are no candidates.
            path: (n, L) of the targets, which must be candidates.

        Returns:
            (n, sum of `widths`), level by level: what the candidates below the target's first codes have by next code,
            in the order of the trie; 0 where there are fewer codes. Each level's add up to 1.
        """
        device, lines = scores.device, torch.arange(len(scores), device=scores.device)
        if self.closed is not None:
            scores[self.closed] = -torch.inf
        weights = (scores - scores.amax(0)).exp_()
        # Sums of neighbouring lines.
        sums = torch.nn.functional.embedding_bag(lines, weights, self.first_items, mode="sum")  # (first codes, n)
        found = [(sums / sums.sum(0)).T]
        if len(self.widths) == 1:
            return found[0]

        firsts, _ = self.next_codes(path)
        start, end = self.trie.items_below(path[:, 0], 1)
        places = start[:, None] + torch.arange(int((end - start).max()), device=device)  # (n, W)
        is_below, places = places < end[:, None], places.clamp(max=len(scores) - 1)
        near = scores[places, torch.arange(len(path), device=device)[:, None]]
        nodes = self.nodes[:, places]  # (L, n, W)
        for level, width in enumerate(self.widths[1:], start=1):
            below = is_below & (nodes[level - 1] == path[:, level - 1 : level])
            code = torch.where(below, nodes[level] - firsts[:, level : level + 1], 0)
            of_level = near.masked_fill(~below, -torch.inf).softmax(-1)
            found.append(scores.new_zeros(len(path), width).scatter_add_(1, code, of_level))
        return torch.cat(found, 1)
