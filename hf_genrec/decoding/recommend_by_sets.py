"""`recommend` and `score_items` for models whose codes have no order: a search over the catalogue's item sets."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..catalogue.catalogue import ProcessorCarrier
from ..catalogue.evaluation_mode import evaluation_mode
from ..catalogue.flat_lists import different_items, expand_ranges, rank_in_list
from ..catalogue.item_sets import ItemSets
from ..catalogue.request_checks import checked_beams, checked_request, checked_row_histories, checked_rows
from ..catalogue.sound_scores import require_sound, require_sound_weights
from .processing_code_sets import CodeSetProcessor

MAX_PATHS = 2**12  # paths decoded at once in exact scoring


@dataclass
class FoundLeaves:
    """
    What a search found.

    Args:
        leaves: (B, w) int64, different in each row; -1 where a row has fewer.
        scores: (B, w) float32, those of exact scoring; not read where there is no leaf.
        counts (*optional*): (B,) int64, a number that the method reports of each search, added up over the searches of
            a history.
    """

    leaves: torch.Tensor
    scores: torch.Tensor
    counts: torch.Tensor | None = None


class SetRecommenderMixin(ProcessorCarrier):
    """
    Placed before a model class. A method brings its search and its exact scores ([`_search_sets`], [`_token_scores`]),
    a `get_encoder` whose encodings have `of_users`, and its own `recommend_rows`, which calls [`_recommend_sets`].

    Attributes:
        processor ([`CodeSetProcessor`], *optional*): histories, catalogue and item sets. Loaded and saved together with
            the model.
    """

    processor_class = CodeSetProcessor
    get_encoder: Any

    def _search_sets(
        self, encoding: Any, sets: ItemSets, num_beams: int, excluded: torch.Tensor, options: Any
    ) -> FoundLeaves:
        """
        The best leaves that a search with `num_beams` paths finds.

        Args:
            encoding: the histories of B users.
            sets: the legal items.
            excluded: sorted keys `user * sets.num_leaves + leaf` of leaves a user must not get.
            options: the method's own, as it gave them to [`_recommend_sets`].
        """
        raise NotImplementedError

    def _token_scores(self, encoding: Any, tokens: torch.Tensor, options: Any) -> torch.Tensor:
        """
        Exact scores of items, (B, W) float32.

        Args:
            tokens: (B, W, M) token ids of W items for each of the encoding's B users, column r of codebook r.
            options: see [`_search_sets`].
        """
        raise NotImplementedError

    def _recommend_sets(
        self,
        histories: Sequence[np.ndarray],
        k: int,
        exclude_seen: bool,
        candidates: np.ndarray | None,
        num_beams: int | None,
        batch_size: int,
        options: Any,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """
        What `recommend_rows` answers; where paths lead to fewer items than are wanted it is searched on without those
        found.

        Args:
            num_beams (*optional*): paths kept, defaults to `max(2 * k, 20)`.
            batch_size: histories decoded at a time.
            options: handed to [`_search_sets`] and [`_token_scores`].

        Returns:
            rows (B, n) int64, -1 where fewer items are allowed; scores (B, n) float32, -inf there; and the searches'
            `counts` (B,) int64.

        Raises:
            ValueError: for a row outside the catalogue, numbers that make no sense, or scores that are NaN.
        """
        processor = self._require_processor()
        num_items = len(processor.item_ids)
        request = checked_request(num_items, histories, k, exclude_seen, candidates, batch_size)
        require_sound_weights(self)
        count, num_beams = request.count, checked_beams(request.count, num_beams)
        sets = processor.item_sets if candidates is None else processor.item_sets.restrict(request.candidates)
        sets = sets.to(self.device)
        num_beams = min(num_beams, sets.num_leaves << sets.num_codebooks)  # sets of codes that a path can hold
        counts = np.zeros(len(request.histories), dtype=np.int64)
        # Histories of about one length stand together: little of a batch is padding.
        by_length = np.argsort([len(history) for history in request.histories], kind="stable")
        with evaluation_mode(self):
            for start in range(0, len(by_length), request.batch_size):
                batch = by_length[start : start + request.batch_size]
                of_batch = [request.histories[int(i)] for i in batch]
                inputs = {name: tensor.to(self.device) for name, tensor in processor.prompts(of_batch).items()}
                seen = of_batch if exclude_seen else None
                found = self._recommend_batch(inputs, count, seen, sets, num_beams, options)
                rows, scores, counts[batch] = (tensor.cpu().numpy() for tensor in found)
                request.rows[batch, :count], request.scores[batch, :count] = rows, scores
        return request.rows, request.scores, counts

    @torch.no_grad()
    def _recommend_batch(self, inputs, k: int, seen, sets: ItemSets, num_beams: int, options: Any):
        encoding = self.get_encoder()(**inputs)
        num_users = len(inputs["input_ids"])
        num_rows = len(self._require_processor().item_ids)
        empty = torch.empty(0, dtype=torch.long, device=self.device)
        # Sorted keys `user * num_rows + row` of what was seen and could be recommended, and of whole leaves of such.
        seen_items, excluded = (empty, empty) if seen is None else self._seen(sets, seen)
        of_user = torch.bincount(seen_items // num_rows, minlength=num_users)
        wanted = (len(sets) - of_user).clamp(max=k)

        leaves = torch.empty(num_users, 0, dtype=torch.long, device=self.device)
        scores = torch.empty(num_users, 0, device=self.device)
        counts = torch.zeros(num_users, dtype=torch.long, device=self.device)
        users = torch.arange(num_users, device=self.device)[wanted > 0]
        user, row, score = empty, empty, scores.flatten()
        while len(users):
            part = encoding.of_users(users)
            theirs = torch.isin(excluded // sets.num_leaves, users)
            place = torch.searchsorted(users, excluded[theirs] // sets.num_leaves)
            keys = place * sets.num_leaves + excluded[theirs] % sets.num_leaves
            paths = self._search_sets(part, sets, num_beams, keys, options)
            found = paths.leaves >= 0
            exact = paths.scores.masked_fill(~found, -torch.inf)
            require_sound(self, exact)
            if paths.counts is not None:
                counts[users] += paths.counts

            parts = [(users, paths.leaves, exact)]
            stuck = ~found.any(1)
            if stuck.any():
                # What is left has codes that the model rules out (-inf) where the search asks for them; on the model's
                # path to an item it may not.
                parts.append(self._left(users[stuck], part.of_users(stuck.nonzero()[:, 0]), sets, excluded, options))
            for of_users, more_leaves, more_scores in parts:
                all_leaves = leaves.new_full((num_users, more_leaves.shape[1]), -1)
                all_scores = scores.new_full(all_leaves.shape, -torch.inf)
                all_leaves[of_users], all_scores[of_users] = more_leaves, more_scores
                leaves, scores = torch.cat([leaves, all_leaves], 1), torch.cat([scores, all_scores], 1)
            user, row, score = _listed(sets, leaves, scores, seen_items, num_rows)
            # Paths that led to fewer items than wanted: search on without those found.
            short = torch.bincount(user, minlength=num_users) < wanted
            short[users[stuck]] = False
            users = short.nonzero().squeeze(1)
            owner, column = (leaves >= 0).nonzero(as_tuple=True)
            excluded = torch.cat([excluded, owner * sets.num_leaves + leaves[owner, column]]).unique()

        rank = rank_in_list(user, torch.bincount(user, minlength=num_users))
        top = rank < k
        best_rows = leaves.new_full((num_users, k), -1)
        best_scores = scores.new_full((num_users, k), -torch.inf)
        best_rows[user[top], rank[top]], best_scores[user[top], rank[top]] = row[top], score[top]
        return best_rows, best_scores, counts

    def _left(self, users: torch.Tensor, encoding, sets: ItemSets, excluded: torch.Tensor, options: Any):
        """The users themselves with all leaves not `excluded`, (n, leaves), -1 for others, and their exact scores."""
        leaves = torch.arange(sets.num_leaves, device=users.device).expand(len(users), -1)
        tokens = sets.leaf_tokens.long().expand(len(users), -1, -1)
        scores = self._scores_in_parts(encoding, tokens, options)
        gone = torch.isin(users[:, None] * sets.num_leaves + leaves, excluded)
        return users, leaves.masked_fill(gone, -1), scores.masked_fill(gone, -torch.inf)

    def _scores_in_parts(self, encoding, tokens: torch.Tensor, options: Any) -> torch.Tensor:
        """[`_token_scores`] of any number of items."""
        parts = tokens.split(max(1, MAX_PATHS // len(tokens)), dim=1)
        return require_sound(self, torch.cat([self._token_scores(encoding, part, options) for part in parts], dim=1))

    def _seen(self, sets: ItemSets, histories: Sequence[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Sorted keys `user * num_rows + row` of the items of each history, as far as they are in `sets`, and `user *
        num_leaves + leaf` of the leaves that hold no other items.
        """
        processor = self._require_processor()
        num_rows = len(processor.item_ids)
        users, rows = different_items(histories)
        keys = users * num_rows + rows
        leaves = sets.leaves_of(*(torch.from_numpy(a).to(self.device) for a in (rows, processor.token_ids[rows])))
        seen = torch.from_numpy(keys).to(self.device)[leaves >= 0]
        of_leaves, counts = ((seen // num_rows) * sets.num_leaves + leaves[leaves >= 0]).unique(return_counts=True)
        begin, end = sets.item_ranges(of_leaves % sets.num_leaves)
        return seen, of_leaves[counts == end - begin]

    def _score_sets(self, histories: Sequence[np.ndarray], rows: np.ndarray, options: Any) -> torch.Tensor:
        """What `score_rows` answers: (B, items) float32; `options` are handed to [`_token_scores`]."""
        processor = self._require_processor()
        histories = checked_row_histories(histories, len(processor.item_ids))
        rows = checked_rows(rows, len(processor.item_ids), "rows")
        if not len(histories) or not len(rows):
            return torch.empty(len(histories), len(rows), device=self.device)
        token_ids = torch.from_numpy(processor.token_ids[rows]).to(self.device)
        inputs = {name: tensor.to(self.device) for name, tensor in processor.prompts(histories).items()}
        encoding = self.get_encoder()(**inputs)
        return self._scores_in_parts(encoding, token_ids.expand(len(histories), -1, -1), options)


def _listed(sets: ItemSets, leaves: torch.Tensor, scores: torch.Tensor, seen_items: torch.Tensor, num_rows: int):
    """
    The items of leaves (B, w), without those seen or with a score of -inf: user by user, best first, ties to the lower
    leaf.

    Returns:
        user, catalogue row and score of each, three (n,).
    """
    leaves, by_leaf = leaves.sort(dim=1)
    scores, by_score = scores.gather(1, by_leaf).sort(dim=1, descending=True, stable=True)
    place, leaf = expand_ranges(*sets.item_ranges(leaves.gather(1, by_score).flatten()))
    user, row, score = leaf // leaves.shape[1], sets.items[place].long(), scores.flatten()[leaf]
    listed = ~torch.isin(user * num_rows + row, seen_items) & (score > -torch.inf)
    return user[listed], row[listed], score[listed]
