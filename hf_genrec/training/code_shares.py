"""Scores of items, summed to the codes that a prefix goes on with."""

import numpy as np
import torch

from hf_genrec.catalogue.item_trie import ItemTrie


class CodeShares:
    """
    Of each target, level by level, how a softmax over the items below the target's prefix divides among their next
    codes (TCA4Rec, arXiv 2601.18457, the collaborative tokenizer).

    Items stand in the order of their codes, in which those below a prefix are neighbours: the sums are over contiguous
    ranges. Only the first level reads all items. All others lie below the target's first code.

    Args:
        token_ids: (N, L) token ids of the catalogue's items. Items may share them.
        candidates (*optional*): (C,) the rows whose scores count; by default all.
        device: where scores will be.

    Attributes:
        order (`torch.Tensor`): (C,) catalogue rows in the order in which their scores are given.
        tokens (`torch.Tensor`): (L, K) int64, rising, the tokens that stand for the columns of each level; K is the
            number of tokens of the level that has most. Columns to spare hold the level's last token.
    """

    def __init__(self, token_ids: np.ndarray, candidates: np.ndarray | None = None, device="cpu"):
        trie = ItemTrie.from_token_ids(token_ids)
        levels = [trie.level_tokens(level) for level in range(trie.num_levels)]
        width = max(map(len, levels))
        self.tokens = torch.stack([torch.cat([tokens, tokens[-1:].expand(width - len(tokens))]) for tokens in levels])
        self.trie = trie.to(device)
        self.scored = (trie if candidates is None else trie.restrict(candidates)).to(device)
        self.tokens, self.order = self.tokens.to(device), self.scored.items.long()
        self._columns = self.columns(self.scored.token_ids()).T.contiguous()  # (L, C)
        self._firsts = torch.searchsorted(self._columns[0], torch.arange(width, device=device))

    def columns(self, token_ids: torch.Tensor) -> torch.Tensor:
        """(n, L) the columns of items given by their token ids (n, L)."""
        return torch.searchsorted(self.tokens, token_ids.T.contiguous()).T

    def shares(self, scores: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
        """
        Args:
            scores: (C, n) of the candidates in `order`, a column per target.
            token_ids: (n, L) of the targets, which must be candidates.

        Returns:
            (n, L, K), each line adds up to 1: what the candidates below the target's first codes have, by next code.
        """
        count, device = len(token_ids), scores.device
        found = scores.new_zeros(count, *self.tokens.shape)
        weights = (scores - scores.amax(0)).exp_()
        lines = torch.arange(len(scores), device=device)
        # Sums of neighbouring lines; a code without candidates has none.
        sums = torch.nn.functional.embedding_bag(lines, weights, self._firsts, mode="sum")  # (K, n)
        found[:, 0] = (sums / sums.sum(0)).T

        ranges = self._ranges(token_ids)
        if not ranges:
            return found
        first, end = ranges[0]
        places = first[:, None] + torch.arange(int((end - first).max()), device=device)  # (n, W)
        near = scores[places.clamp(max=len(scores) - 1), torch.arange(count, device=device)[:, None]]
        columns = self._columns[:, places.clamp(max=len(scores) - 1)]  # (L, n, W)
        for level, (first, end) in enumerate(ranges, start=1):
            below = (places >= first[:, None]) & (places < end[:, None])
            weights = near.masked_fill(~below, -torch.inf).softmax(-1)
            found[:, level].scatter_add_(1, columns[level], weights)
        return found

    def _ranges(self, token_ids: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Where the candidates below the first 1 .. L - 1 codes stand in `order`."""
        nodes, ranges = torch.zeros(len(token_ids), dtype=torch.long, device=token_ids.device), []
        for level in range(token_ids.shape[1] - 1):
            nodes = self.scored.step(nodes, token_ids[:, level], level)
            ranges.append(self.scored.items_below(nodes, level + 1))
        return ranges

    def legal(self, token_ids: torch.Tensor) -> torch.Tensor:
        """
        (n, L, K) boolean: the codes that any item of the catalogue, candidate or not, goes on with after the first
        codes of the targets (n, L).
        """
        found = torch.zeros(len(token_ids), *self.tokens.shape, dtype=torch.bool, device=token_ids.device)
        nodes = torch.zeros(len(token_ids), dtype=torch.long, device=token_ids.device)
        for level in range(token_ids.shape[1]):
            tokens, _, mask = self.trie.allowed(nodes, level)
            line, place = (mask == 0).nonzero(as_tuple=True)
            column = torch.searchsorted(self.tokens[level], tokens[line, place].long())
            found[line, level, column] = True
            nodes = self.trie.step(nodes, token_ids[:, level], level)
        return found
