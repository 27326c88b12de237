"""What others do, in our own words, where it cannot be installed: each class says whose method it is."""

from collections.abc import Sequence

import numpy as np
import torch


class DictTrie:
    """
    A trie of nested dicts, walked from the root for every beam at every step: the `prefix_allowed_tokens_fn` of the
    published CARE, MiniOneRec and LC-Rec code.
    """

    def __init__(self, token_ids: np.ndarray):
        self.root: dict = {}
        for ids in token_ids.tolist():
            node = self.root
            for token in ids:
                node = node.setdefault(token, {})

    def allowed(self, prefix: list[int]) -> list[int]:
        """Tokens that may follow a prefix; none if no item begins so."""
        node = self.root
        for token in prefix:
            node = node.get(token)
            if node is None:
                return []
        return list(node)


class StaticTrie:
    """
    STATIC (arXiv 2602.22647): the first two levels as dense tables of codes by codes, the levels below as rows of one
    sparse matrix of (token, next state), read in blocks as wide as the widest node of a level.

    The tokens of a level are `first_tokens[level] + code`, codes below `num_codes`. As published, all levels share the
    model's whole vocabulary (`[0] * L` and its size): then the tables take 5 bytes times the square of the vocabulary.

    State 0 is the end of an item, state 1 + code a node of level 1; the nodes below are numbered in lexicographic
    order, those of level l from `first_states[l]` on. The root, one mask for all beams, is left out.

    Args:
        token_ids: (items, L) with L >= 3, in lexicographic order.
        first_tokens: (L,) the token of code 0 of each level.
        num_codes: codes of a level.
    """

    def __init__(self, token_ids: np.ndarray, first_tokens: Sequence[int], num_codes: int):
        self.first_tokens, self.num_codes = list(first_tokens), num_codes
        num_items, levels = token_ids.shape
        head = tuple(torch.from_numpy(token_ids[:, level] - first_tokens[level]).long() for level in (0, 1))
        states = head[0].numpy() + 1  # (items,) of each item's prefix so far
        self.first_states, next_state = [0, 1], num_codes + 1
        is_new = np.append(True, states[1:] != states[:-1])  # whether the prefix differs from the line above
        parents, edges, self.max_children = [], [], [num_codes]
        for level in range(1, levels):
            column = token_ids[:, level]
            is_new[1:] |= column[1:] != column[:-1]
            lines = np.flatnonzero(is_new)
            is_last = level == levels - 1
            children = np.zeros(num_items, dtype=int) if is_last else next_state - 1 + np.cumsum(is_new)
            parents.append(states[lines])
            edges.append(np.stack([column[lines], children[lines]], axis=1).astype(np.int32))
            self.max_children.append(int(np.bincount(parents[-1]).max()))
            if level == 1:
                self.dense_mask = torch.zeros(num_codes, num_codes, dtype=torch.bool)
                self.dense_states = torch.zeros(num_codes, num_codes, dtype=torch.int32)
                self.dense_mask[head] = True
                self.dense_states[head] = torch.from_numpy(children).int()
            if not is_last:
                self.first_states.append(next_state)
                states, next_state = children, next_state + len(lines)
        self.edges = torch.from_numpy(np.concatenate(edges))
        counts = np.bincount(np.concatenate(parents), minlength=next_state)
        self.row_starts = torch.from_numpy(np.append(0, counts.cumsum()).astype(np.int32))

    @property
    def num_bytes(self) -> int:
        return sum(table.nbytes for table in (self.dense_mask, self.dense_states, self.edges, self.row_starts))

    def masked(self, scores: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        """(rows, num_codes) scores of level 1's codes after states (rows,), -inf where illegal, by the dense mask."""
        first = self.first_tokens[1]
        scores = scores[:, first : first + self.num_codes]
        return torch.where(self.dense_mask.index_select(0, states - 1), scores, -torch.inf)

    def candidates(
        self, scores: torch.Tensor, states: torch.Tensor, level: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """
        What may follow states (rows,) of a level (1..L-1).

        Returns:
            tokens, their masked scores and the states they lead to, each (rows, K); anything where a score is -inf.
        """
        if level == 1:
            tokens = self.first_tokens[1] + torch.arange(self.num_codes).expand(len(states), -1)
            return tokens, self.masked(scores, states), self.dense_states.index_select(0, states - 1)
        tokens, legal, next_states = self._rows(states, level)
        gathered = scores.gather(1, tokens.long())
        return tokens, torch.where(legal, gathered, -torch.inf), next_states

    def _rows(self, states: torch.Tensor, level: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Tokens, whether they are legal, and next states, (rows, K), from the sparse matrix."""
        start = self.row_starts.index_select(0, states)
        length = self.row_starts.index_select(0, states + 1) - start
        offset = torch.arange(self.max_children[level])
        at = (start[:, None] + offset).clamp(max=len(self.edges) - 1)
        tokens, next_states = self.edges.index_select(0, at.flatten()).view(*at.shape, 2).unbind(-1)
        return tokens, offset < length[:, None], next_states

    def walk(self, prefixes: torch.Tensor) -> torch.Tensor:
        """States (rows,) after legal prefixes (rows, l), l >= 1."""
        states = prefixes[:, 0] - self.first_tokens[0] + 1
        for level in range(1, prefixes.shape[1]):
            tokens, legal, next_states = self._rows(states, level)
            states = next_states[legal & (tokens == prefixes[:, level, None])]
        return states.int()
