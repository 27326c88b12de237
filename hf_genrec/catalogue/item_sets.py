"""The catalogue as sets of unordered codes, in flat integer arrays: which codes may still be chosen, in any order."""

from dataclasses import dataclass

import numpy as np
import torch

from .flat_lists import expand_ranges
from .item_trie import ItemTrie
from .trie_arrays import LIMIT, is_division, require_items

MAX_COMPLETIONS = 2**20  # leaves times states whose completions are summed at once


@dataclass
class SetStates:
    """
    What the codes chosen so far leave of the catalogue, for S states at once.

    Attributes:
        used: (S, M) boolean, the codebooks of which a code has been chosen.
        leaves: (n,) int64, the leaves that hold all chosen codes, state after state and rising in each. Empty while
            nothing is chosen: then every leaf does, but for those `excluded`.
        offsets: (S + 1,) int64, where each state's leaves begin.
        excluded: sorted keys `state * num_leaves + leaf` of leaves that a state must not lead to; `None` once codes are
            chosen, when `leaves` has none of them.
    """

    used: torch.Tensor
    leaves: torch.Tensor
    offsets: torch.Tensor
    excluded: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.used)

    @property
    def counts(self) -> torch.Tensor:
        """(S,) leaves that are left to each state, after the first code."""
        return self.offsets.diff()

    @property
    def owners(self) -> torch.Tensor:
        """(n,) the state that each of `leaves` is left to."""
        return torch.repeat_interleave(torch.arange(len(self), device=self.used.device), self.counts)

    def at(self, places: torch.Tensor) -> "SetStates":
        """The states at `places` (n,), after the first code."""
        begin, end = self.offsets[places], self.offsets[places + 1]
        flat, _ = expand_ranges(begin, end)
        offsets = torch.nn.functional.pad((end - begin).cumsum(0), (1, 0))
        return SetStates(self.used[places], self.leaves[flat], offsets)

    def first_leaves(self) -> torch.Tensor:
        """(S,) the lowest leaf of each state, -1 for a dead state, after the first code."""
        padded = torch.nn.functional.pad(self.leaves, (0, 1), value=-1)
        return torch.where(self.counts > 0, padded[self.offsets[:-1]], -1)


class ItemSets:
    """
    Index of items whose M codes are chosen in any order, each from a codebook of its own.

    A *leaf* is a distinct set of M codes; it holds one item, or several that share their codes. Leaves are numbered in
    lexicographic order of their token ids. All arrays are int32.

    Attributes:
        leaf_tokens (`torch.Tensor`): (leaves, M), the token of each codebook.
        item_starts (`torch.Tensor`): (leaves + 1,), where each leaf's items begin in `items`.
        items (`torch.Tensor`): (items,) row numbers of the catalogue; those of one leaf stand in the order in which
            they are listed.
        postings (`torch.Tensor`): (leaves * M,) the leaves that hold each token, token after token and rising in each.
        posting_starts (`torch.Tensor`): (V + 1,) where each token's postings begin; V - 1 is the largest token id.
    """

    ARRAYS = ("leaf_tokens", "item_starts", "items", "postings", "posting_starts")

    def __init__(
        self,
        leaf_tokens: torch.Tensor,
        item_starts: torch.Tensor,
        items: torch.Tensor,
        postings: torch.Tensor,
        posting_starts: torch.Tensor,
    ):
        self.leaf_tokens = leaf_tokens
        self.item_starts = item_starts
        self.items = items
        self.postings = postings
        self.posting_starts = posting_starts
        # The codebook that a token belongs to, -1 for a token that no item has.
        self.codebook_of = torch.full((self.num_tokens,), -1, device=items.device)
        for codebook in range(self.num_codebooks):
            self.codebook_of[leaf_tokens[:, codebook].long()] = codebook

    @classmethod
    def from_token_ids(cls, token_ids, popularity=None) -> "ItemSets":
        """
        Args:
            token_ids: (items, M) token ids, column r of codebook r. Items may share theirs.
            popularity (*optional*): (items,) the items of one leaf are listed by falling popularity, ties by row.

        Raises:
            ValueError: as [`ItemTrie.from_token_ids`], or if two codebooks share a token.
        """
        # A trie has the order of the leaves and of their items already.
        trie = ItemTrie.from_token_ids(token_ids, popularity=popularity)
        item_starts = trie.child_starts[-1]
        leaf_tokens = trie.token_ids(item_starts[:-1].long()).int()
        tokens_of = [set(column.unique().tolist()) for column in leaf_tokens.T]
        if len(set().union(*tokens_of)) != sum(map(len, tokens_of)):
            raise ValueError("Two codebooks share a token: a code must say which codebook it is of.")
        return cls(leaf_tokens, item_starts, trie.items, *_postings(leaf_tokens))

    @property
    def num_codebooks(self) -> int:
        return self.leaf_tokens.shape[1]

    @property
    def num_leaves(self) -> int:
        return len(self.leaf_tokens)

    @property
    def num_tokens(self) -> int:
        """V, one more than the largest token id of an item."""
        return len(self.posting_starts) - 1

    def __len__(self) -> int:
        """Number of items."""
        return len(self.items)

    def to(self, device) -> "ItemSets":
        if self.items.device == torch.device(device):
            return self
        return ItemSets(**{name: tensor.to(device) for name, tensor in self.state_dict().items()})

    # ---- choosing codes ----

    def start(self, num_states: int, excluded: torch.Tensor | None = None) -> SetStates:
        """
        States in which no code is chosen.

        Args:
            excluded (*optional*): sorted keys `state * num_leaves + leaf` of leaves that the states must not lead to.
        """
        device = self.items.device
        used = torch.zeros(num_states, self.num_codebooks, dtype=torch.bool, device=device)
        nothing = torch.empty(0, dtype=torch.long, device=device)
        offsets = torch.zeros(num_states + 1, dtype=torch.long, device=device)
        return SetStates(used, nothing, offsets, nothing if excluded is None else excluded)

    def allowed(self, states: SetStates, order: str = "confidence") -> torch.Tensor:
        """
        The codes that each state may choose next: those of unused codebooks that one of its leaves has; with
        `order="fixed"` of the first unused codebook alone.

        Beside the mask itself, a byte where logits have four, it costs what the leaves of the states cost.

        Returns:
            (S, V) boolean
        """
        if order == "fixed":
            return self.allowed(states) & (self.codebook_of == states.used.sum(1, keepdim=True))
        size = (len(states), self.num_tokens)
        if states.excluded is not None:
            counts = self.posting_starts.diff().expand(size)
            state, leaf = states.excluded // self.num_leaves, states.excluded % self.num_leaves
            keys = (state * self.num_tokens)[:, None] + self.leaf_tokens[leaf]
            gone = torch.bincount(keys.flatten(), minlength=size[0] * size[1]).view(size)
            return counts > gone
        legal = torch.zeros(size, dtype=torch.bool, device=states.used.device)
        keys = (states.owners * self.num_tokens)[:, None] + self.leaf_tokens[states.leaves]
        legal.view(-1)[keys.flatten()] = True
        # All leaves of a state share the chosen codes, so the first one tells them.
        alive = states.counts > 0
        state, codebook = (states.used & alive[:, None]).nonzero(as_tuple=True)
        legal[state, self.leaf_tokens[states.first_leaves()[state], codebook].long()] = False
        return legal

    def best_completions(self, states: SetStates, log_probs: torch.Tensor, codebooks: torch.Tensor) -> torch.Tensor:
        """
        What the codes that may be chosen next promise: the best sum of the log-probabilities that a state gives to all
        codes it still needs, over the leaves that have the code.

        It reads M numbers for every leaf that is left: of a state without a code, of the whole catalogue.

        Args:
            log_probs: (S, V), what each state says of the codes.
            codebooks: (S,), the unused codebook of which each state chooses next.

        Returns:
            (S, V) in the dtype of `log_probs`, -inf for a code that may not be chosen
        """
        num_states, num_tokens = len(states), self.num_tokens
        best = log_probs.new_full((num_states, num_tokens), -torch.inf)
        if states.excluded is None:
            owner = states.owners
            needed = ~states.used[owner]
            worth = torch.zeros(len(owner), dtype=best.dtype, device=best.device)
            for codebook in range(self.num_codebooks):
                value = log_probs[owner, self.leaf_tokens[states.leaves, codebook].long()]
                worth += value.masked_fill(~needed[:, codebook], 0.0)
            token = self.leaf_tokens[states.leaves, codebooks[owner]].long()
            best.view(-1).scatter_reduce_(0, owner * num_tokens + token, worth, "amax")
            return best

        # No code is chosen: all states have all leaves, but for those excluded.
        excluded_of, excluded_leaf = states.excluded // self.num_leaves, states.excluded % self.num_leaves
        width = max(1, MAX_COMPLETIONS // num_states)
        for first in range(0, self.num_leaves, width):
            tokens = self.leaf_tokens[first : first + width].long()
            worth = torch.zeros(num_states, len(tokens), dtype=best.dtype, device=best.device)
            for column in tokens.unbind(1):
                worth += log_probs.index_select(1, column)
            here = (excluded_leaf >= first) & (excluded_leaf < first + width)
            worth[excluded_of[here], excluded_leaf[here] - first] = -torch.inf
            best.scatter_reduce_(1, tokens.T[codebooks], worth, "amax")
        return best

    def advance(self, states: SetStates, parents: torch.Tensor, tokens: torch.Tensor) -> SetStates:
        """
        The states after one more code each.

        Args:
            parents: (n,) int64, which of the states goes on.
            tokens: (n,) int64, any tokens. One that is not allowed leads to a dead state, one without leaves.

        Returns:
            n states
        """
        known = (tokens >= 0) & (tokens < self.num_tokens)
        token = torch.where(known, tokens, 0)
        codebook = torch.where(known, self.codebook_of[token], -1)
        column = codebook.clamp(min=0)
        fits = (codebook >= 0) & ~states.used[parents].gather(1, column[:, None]).squeeze(1)
        if states.excluded is not None:
            begin, end = self.posting_starts[token].long(), self.posting_starts[token + 1].long()
            flat, owner = expand_ranges(begin, torch.where(fits, end, begin))
            leaves = self.postings[flat].long()
            keep = torch.ones_like(leaves, dtype=torch.bool)
            if len(states.excluded):
                keys = parents[owner] * self.num_leaves + leaves
                place = torch.searchsorted(states.excluded, keys).clamp(max=len(states.excluded) - 1)
                keep = states.excluded[place] != keys
        else:
            begin, end = states.offsets[parents], states.offsets[parents + 1]
            flat, owner = expand_ranges(begin, torch.where(fits, end, begin))
            leaves = states.leaves[flat]
            keep = self.leaf_tokens[leaves, column[owner]] == token[owner]
        used = states.used[parents].scatter(1, column[:, None], True)
        return SetStates(used, *_kept(leaves, owner, keep, len(parents)))

    def walk(self, tokens: torch.Tensor) -> SetStates:
        """States after the codes `tokens` (S, s), any tokens."""
        states = self.start(len(tokens))
        everyone = torch.arange(len(tokens), device=tokens.device)
        for column in tokens.unbind(1):
            states = self.advance(states, everyone, column)
        return states

    def outcomes(self, states: SetStates) -> torch.Tensor:
        """
        A number for what each state can still lead to, (S,) int64, after the first code; -1 for a dead state.

        States with the same single leaf left have the same number, whatever codes are chosen; other states have the
        same number exactly if the same codes are chosen and their lowest leaf is the same.
        """
        first = states.first_leaves()
        # The chosen codes are those of the first leaf in the used codebooks.
        bits = 2 ** torch.arange(self.num_codebooks, device=first.device)
        which = (states.used * bits).sum(1)
        return torch.where(states.counts > 1, self.num_leaves * which + first, first)

    # ---- items ----

    def leaves_of(self, rows: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
        """
        The leaves that hold catalogue rows, (n,) int64, -1 for rows that are not in the index.

        Args:
            rows: (n,)
            token_ids: (n, M) their token ids.
        """
        leaves = self.walk(token_ids).first_leaves()
        begin, end = self.item_ranges(leaves)
        flat, owner = expand_ranges(begin, end)
        holds = torch.zeros_like(leaves, dtype=torch.bool)
        holds[owner[self.items[flat] == rows[owner]]] = True
        return torch.where(holds, leaves, -1)

    def item_ranges(self, leaves: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Ranges [start, end) in `items` of the items of leaves (n,), two (n,) int64; empty for -1."""
        start = self.item_starts[leaves.clamp(min=0)].long()
        return start, torch.where(leaves < 0, start, self.item_starts[leaves + 1].long())

    def restrict(self, candidates) -> "ItemSets":
        """
        The index of a part of the catalogue, with the same row numbers and the same order within leaves.

        Args:
            candidates: row numbers of the items to keep.

        Raises:
            ValueError: if none of the items is left.
        """
        items = self.items.cpu().numpy()
        kept = np.isin(items, np.asarray(candidates))
        if not kept.any():
            raise ValueError("The candidates leave no item to recommend: pass at least one item of the catalogue.")
        leaf_of = np.repeat(np.arange(self.num_leaves), self.item_starts.cpu().diff().numpy())
        leaves, sizes = np.unique(leaf_of[kept], return_counts=True)
        leaf_tokens = self.leaf_tokens.cpu()[torch.from_numpy(leaves)]
        starts = torch.from_numpy(np.append(0, sizes.cumsum()).astype(np.int32))
        part = ItemSets(leaf_tokens, starts, torch.from_numpy(items[kept]), *_postings(leaf_tokens))
        return part.to(self.items.device)

    # ---- files ----

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The arrays by name, for safetensors."""
        return {name: getattr(self, name) for name in self.ARRAYS}

    @classmethod
    def from_state_dict(cls, tensors: dict[str, torch.Tensor]) -> "ItemSets":
        """
        The index of [`state_dict`].

        Raises:
            ValueError: if arrays are missing or do not belong together.
        """
        if tensors.keys() != set(cls.ARRAYS):
            raise ValueError(
                f"No item sets of this version: they hold {', '.join(sorted(tensors))}. Build them anew from the "
                f"catalogue and save them again."
            )
        advice = "build them anew from the catalogue and save them again."
        leaves, starts, items, postings, posting_starts = (tensors[name] for name in cls.ARRAYS)
        if any(array.dtype != torch.int32 or not len(array) or (array < 0).any() for array in tensors.values()) or [
            array.dim() for array in (leaves, items, postings, posting_starts)
        ] != [2, 1, 1, 1]:
            raise ValueError(f"The arrays of the item sets must be int32 numbers, 0 or more: {advice}")
        num_leaves, num_codebooks = leaves.shape
        if (
            not num_codebooks
            or not is_division(starts, num_leaves, len(items))
            or len(postings) != leaves.numel()
            or len(posting_starts) != int(leaves.max()) + 2
            or posting_starts[0] != 0
            or posting_starts[-1] != len(postings)
            or (posting_starts.diff() < 0).any()
            or postings.max() >= num_leaves
        ):
            raise ValueError(f"The arrays of the item sets do not belong together: {advice}")
        sets = cls(**tensors)
        # Each token's leaves rise and have the token: as there are as many as codes, they are all leaves that do.
        token = torch.repeat_interleave(posting_starts.diff())
        rises = (postings[1:] > postings[:-1]) | (token[1:] != token[:-1])
        column = sets.codebook_of[token]
        if (
            not rises.all()
            or (column < 0).any()
            or (leaves[postings.long(), column] != token).any()
            or (sets.codebook_of[leaves.long()] != torch.arange(num_codebooks)).any()
            or not _ascending(leaves)
        ):
            raise ValueError(f"The leaves and postings of the item sets do not belong together: {advice}")
        return sets

    def require_catalogue(self, token_ids: np.ndarray, popularity: np.ndarray) -> None:
        """
        Raises, unless these are the sets that [`from_token_ids`] makes of a catalogue.

        Args:
            token_ids: (N, M) of the catalogue's items.
            popularity: (N,) of the catalogue's items.

        Raises:
            ValueError: if they are of another catalogue.
        """
        require_items(self.items, self.item_starts, self.leaf_tokens, token_ids, popularity)


def _ascending(lines: torch.Tensor) -> bool:
    """Whether the lines (n, M) stand in lexicographic order and differ."""
    step = lines.diff(dim=0)
    first = (step != 0).int().argmax(1, keepdim=True)  # the first column that differs
    return bool((step.gather(1, first) > 0).all())


def _kept(leaves: torch.Tensor, owner: torch.Tensor, keep: torch.Tensor, num_states: int):
    """`leaves` (n,) of the states `owner` (n,) that are kept, and the states' offsets among them."""
    counts = torch.bincount(owner[keep], minlength=num_states)
    return leaves[keep], torch.nn.functional.pad(counts.cumsum(0), (1, 0))


def _postings(leaf_tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The leaves of each token and where they begin, see [`ItemSets`]."""
    tokens = leaf_tokens.flatten()
    if len(tokens) >= LIMIT:
        raise ValueError(f"{len(tokens)} codes are more than the int32 arrays of item sets can number.")
    order = tokens.argsort(stable=True)  # rising leaves for each token
    counts = torch.bincount(tokens, minlength=int(tokens.max()) + 1)
    starts = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    return (order // leaf_tokens.shape[1]).int(), starts.int()
