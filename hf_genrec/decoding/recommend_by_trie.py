"""`recommend` and `score_items`: from histories of item ids to items, for every generative model."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from ..catalogue.best_columns import MAX_SCORES, best_columns
from ..catalogue.catalogue import ProcessorCarrier
from ..catalogue.evaluation_mode import evaluation_mode
from ..catalogue.flat_lists import different_items, expand_ranges, rank_in_list
from ..catalogue.item_trie import ItemTrie
from ..catalogue.request_checks import (
    RowRequest,
    checked_beams,
    checked_request,
    checked_row_histories,
    checked_rows,
)
from ..catalogue.sound_scores import require_sound, require_sound_weights
from .beam_search import beam_search, check_normalize, score_leaves
from .item_generation import ItemGeneration
from .processing_sequences import GenRecProcessor
from .user_cache import UserCache, check_user_cache


class GenerativeRecommenderMixin(ItemGeneration, ProcessorCarrier):
    """
    Placed before a model class with aligned logits.

    Attributes:
        processor ([`GenRecProcessor`], *optional*): histories, catalogue and trie. Loaded and saved together with the
            model.
    """

    processor_class = GenRecProcessor
    reads_whole_histories = False  # anew, when an item is added
    level_decay = 0.5  # each code of an ordered semantic ID refines the ones before it

    def recommend_rows(
        self,
        histories: Sequence[np.ndarray],
        k: int = 10,
        exclude_seen: bool = False,
        candidates: np.ndarray | None = None,
        num_beams: int | None = None,
        batch_size: int = 64,
        normalize: str = "vocabulary",
        user_cache: UserCache | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """
        By beam search over the trie. A score is the sum of the L log-probabilities over the full vocabulary.

        Args:
            num_beams (*optional*): defaults to `max(2 * k, 20)`.
            batch_size: histories decoded at a time.
            normalize: what a code's probability is relative to: the full `"vocabulary"`, the codes of its `"level"`, or
                those that are `"legal"` behind the codes before it.
            user_cache (*optional*): keeps encoded histories between calls: a user who comes back with some items more
                costs only these.

        Returns:
            rows (B, n) int64, -1 where fewer items are allowed, and scores (B, n) float32, -inf there; n is k or, if
            that is less, the number of candidates.

        Raises:
            ValueError: for a row outside the catalogue, numbers that make no sense, or scores that are NaN.
        """
        processor = self._require_processor()
        num_items = len(processor.item_ids)
        request = checked_request(num_items, histories, k, exclude_seen, candidates, batch_size)
        require_sound_weights(self)
        check_normalize(normalize)
        check_user_cache(user_cache, self.reads_whole_histories)
        num_beams = checked_beams(request.count, num_beams)
        trie = processor.trie if candidates is None else processor.trie.restrict(request.candidates)
        trie = trie.to(self.device)

        def recommend_batch(inputs, seen):
            return self._recommend_batch(inputs, request.count, seen, trie, num_beams, normalize, user_cache)

        return self._in_batches(request, exclude_seen, user_cache, recommend_batch)

    def _in_batches(
        self, request: RowRequest, exclude_seen: bool, user_cache: UserCache | None, recommend_batch: Callable
    ) -> tuple[np.ndarray, np.ndarray]:
        """
        The answer to a request.

        Args:
            recommend_batch: from prompts and their histories (`None` where nothing is excluded) to rows and scores, (B,
                count) each.
        """
        processor = self._require_processor()
        with evaluation_mode(self):
            for start in range(0, len(request.histories), request.batch_size):
                batch = np.arange(start, min(start + request.batch_size, len(request.histories)))
                prompts = processor.prompts([request.histories[int(i)] for i in batch])
                known = np.zeros(len(batch), dtype=bool)
                if user_cache is not None:
                    known = np.array(user_cache.known(**prompts, num_levels=processor.tokens_per_item)) > 0
                # Known histories have little left to encode: apart from the others, they are not padded to them.
                for part in filter(len, (np.flatnonzero(known), np.flatnonzero(~known))):
                    inputs = {name: tensor[part].to(self.device) for name, tensor in prompts.items()}
                    seen = [request.histories[int(i)] for i in batch[part]] if exclude_seen else None
                    rows, scores = (tensor.cpu().numpy() for tensor in recommend_batch(inputs, seen))
                    request.rows[batch[part]], request.scores[batch[part]] = rows, scores
        return request.rows, request.scores

    def _by_item_scores(
        self, request: RowRequest, exclude_seen: bool, user_cache: UserCache | None, find: Callable
    ) -> tuple[np.ndarray, np.ndarray]:
        """
        The answer to a request where candidates have a score each; equal ones in catalogue order.

        Args:
            find: from prompts, their histories (`None` where nothing is excluded), and which items a user must not get,
                (B, N) boolean, to the scores (B, N), -inf of what is not found or must not be.
        """
        num_items = len(self._require_processor().item_ids)
        open_items = torch.full((num_items,), request.candidates is None, device=self.device)
        if request.candidates is not None:
            open_items[torch.from_numpy(request.candidates)] = True
        size = max(1, MAX_SCORES // num_items)  # users whose scores of all items are held at once

        def recommend_batch(inputs, seen):
            found = []
            for start in range(0, len(inputs["input_ids"]), size):
                some = {name: tensor[start : start + size] for name, tensor in inputs.items()}
                seen_by_some = None if seen is None else seen[start : start + size]
                closed = ~open_items.repeat(len(some["input_ids"]), 1)
                if seen_by_some is not None:
                    places = (torch.from_numpy(array).to(self.device) for array in different_items(seen_by_some))
                    closed[tuple(places)] = True
                found.append(best_columns(find(some, seen_by_some, closed), request.count))
            values, rows = (torch.cat(tensors) for tensors in zip(*found, strict=True))
            return rows.masked_fill(values == -torch.inf, -1), values

        with torch.no_grad():
            return self._in_batches(request, exclude_seen, user_cache, recommend_batch)

    def _recommend_batch(self, inputs, k: int, seen, trie: ItemTrie, num_beams: int, normalize: str, user_cache):
        num_users = len(inputs["input_ids"])
        excluded = None if seen is None else self._item_keys(trie, seen)
        leaves, leaf_scores = beam_search(self, inputs, trie, num_beams, excluded, normalize, user_cache)
        require_sound(self, leaf_scores)

        # A leaf holds one item, or several that share their codes.
        start, end = trie.items_below(leaves.clamp(min=0), trie.num_levels)
        end = torch.where(leaves >= 0, end, start)
        place, leaf = expand_ranges(start.flatten(), end.flatten())
        user = leaf // leaves.shape[1]
        allowed = torch.full((num_users,), len(trie), device=user.device)
        if excluded is not None:
            keep = ~torch.isin(user * len(trie) + place, excluded)
            leaf, place, user = leaf[keep], place[keep], user[keep]
            allowed -= torch.bincount(excluded // len(trie), minlength=num_users)
        counts = torch.bincount(user, minlength=num_users)
        if num_beams < trie.num_leaves and (counts < allowed.clamp(max=k)).any():
            # Beams that the model ruled out afterwards (-inf) have taken the places of others.
            return self._recommend_batch(inputs, k, seen, trie, 4 * num_beams, normalize, user_cache)
        rank = rank_in_list(user, counts)
        top = rank < k
        rows = torch.full((num_users, k), -1, device=user.device)
        scores = torch.full((num_users, k), -torch.inf, device=user.device)
        rows[user[top], rank[top]] = trie.items[place[top]].long()
        scores[user[top], rank[top]] = leaf_scores.flatten()[leaf[top]]
        return rows, scores

    def _item_keys(self, trie: ItemTrie, histories: Sequence[np.ndarray]) -> torch.Tensor:
        """Sorted keys `user * len(trie) + place in trie.items` of the items in each history."""
        users, seen = different_items(histories)
        ids = torch.from_numpy(self._require_processor().token_ids[seen]).to(trie.items.device)
        places = trie.places(seen, ids)
        keys = torch.from_numpy(users).to(places.device) * len(trie) + places
        return keys[places >= 0].unique()

    @staticmethod
    def user_cache(max_bytes: int = 2**30) -> UserCache:
        """An empty store of encoded histories, for `recommend(..., user_cache=...)` of this model."""
        return UserCache(max_bytes)

    def score_rows(self, histories: Sequence[np.ndarray], rows: np.ndarray) -> torch.Tensor:
        """By teacher forcing: the sum of the L log-probabilities over the full vocabulary."""
        processor = self._require_processor()
        histories = checked_row_histories(histories, len(processor.item_ids))
        rows = checked_rows(rows, len(processor.item_ids), "rows")
        if not len(histories) or not len(rows):
            return torch.empty(len(histories), len(rows), device=self.device)
        inputs = {name: tensor.to(self.device) for name, tensor in processor.prompts(histories).items()}
        return require_sound(self, self._score_leaves(inputs, torch.from_numpy(processor.token_ids[rows])))

    def _score_leaves(self, inputs: dict[str, torch.Tensor], token_ids: torch.Tensor) -> torch.Tensor:
        return score_leaves(self, inputs, token_ids)

    def score_row_lists(self, histories: Sequence[np.ndarray], lists: np.ndarray) -> torch.Tensor:
        """
        By one search for all histories, as wide as the longest list, in which each may be given the items of its own
        list alone: it loses none of them, and its scores are those of [`score_rows`].
        """
        processor = self._require_processor()
        scores = torch.full(lists.shape, -torch.inf, device=self.device)
        line, column = np.nonzero(lists >= 0)
        if not len(line):
            return scores
        rows = lists[line, column]
        trie = processor.trie.restrict(np.unique(rows)).to(self.device)
        places = trie.places(rows, torch.from_numpy(processor.token_ids[rows]).to(self.device))
        lines, columns = torch.from_numpy(line).to(self.device), torch.from_numpy(column).to(self.device)
        wanted = torch.zeros(len(lists), len(trie), dtype=torch.bool, device=self.device)
        wanted[lines, places] = True
        excluded = (~wanted).flatten().nonzero().squeeze(1)
        inputs = {name: tensor.to(self.device) for name, tensor in processor.prompts(histories).items()}
        leaves, leaf_scores = beam_search(self, inputs, trie, int(wanted.sum(1).max()), excluded)
        by_leaf = torch.full((len(lists), trie.num_leaves + 1), -torch.inf, device=self.device)
        # Dead beams write behind the last leaf.
        by_leaf.scatter_(1, torch.where(leaves < 0, trie.num_leaves, leaves), require_sound(self, leaf_scores))
        leaf = torch.searchsorted(trie.child_starts[-1], places.to(trie.child_starts[-1].dtype), right=True) - 1
        scores[lines, columns] = by_leaf[lines, leaf]
        return scores
