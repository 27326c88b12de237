"""`recommend` and `score_items` for models that write an item's codes in any order."""

from collections.abc import Sequence

import numpy as np
import torch

from ...catalogue.catalogue import ProcessorCarrier
from ...catalogue.evaluation_mode import evaluation_mode
from ...catalogue.flat_lists import different_items, expand_ranges, rank_in_list
from ...catalogue.item_sets import ItemSets
from ...catalogue.request_checks import (
    checked_beams,
    checked_choice,
    checked_number,
    checked_request,
    checked_row_histories,
    checked_rows,
)
from ...catalogue.sound_scores import require_sound, require_sound_weights
from ...decoding.item_generation import ItemGeneration
from .configuration_reg4rec import CODE_ORDERS
from .processing_reg4rec import Reg4RecProcessor
from .reg4rec_search import CrssSearch, Reflection, path_scores

MAX_PATHS = 2**12  # paths decoded at once in exact scoring


class SetRecommenderMixin(ItemGeneration, ProcessorCarrier):
    """
    Placed before REG4Rec's model class.

    Attributes:
        processor ([`Reg4RecProcessor`], *optional*): histories, catalogue and item sets. Loaded and saved together with
        the model.
    """

    processor_class = Reg4RecProcessor

    def recommend_rows(
        self,
        histories: Sequence[np.ndarray],
        k: int = 10,
        exclude_seen: bool = False,
        candidates: np.ndarray | None = None,
        num_beams: int | None = None,
        batch_size: int = 64,
        order: str | None = None,
        reflection_threshold: float | None = None,
        lookahead: bool | None = None,
        return_rollbacks: bool = False,
    ) -> tuple[np.ndarray, ...]:
        """
        By CRSS over the catalogue ([`CrssSearch`]). Each item found is scored along the model's path to it, as
        [`score_rows`] does, so a score depends neither on k nor on the beam: it is the sum of the M log-probabilities,
        each within its codebook.

        Args:
            num_beams (*optional*): paths kept, defaults to `max(2 * k, 20)`.
            batch_size: histories decoded at a time.
            order (*optional*): `"confidence"`: the surest codebook first; `"fixed"`: codebook 1, 2, ..., M; by default
                the configuration's `code_order`.
            reflection_threshold (*optional*): CORP's theta, by default the configuration's; `inf` never takes a code
                back.
            lookahead (*optional*): judge a path by the items it leads to, not by its codes alone. It finds more of the
                best items, and its first step reads M numbers for each item of the catalogue. By default where the
                model was taught codes in any order, and nowhere else: with `code_order: fixed` it was taught the next
                codebook alone, and what it says of the others too early means nothing.
            return_rollbacks: say how many codes CORP took back.

        Returns:
            rows (B, n) int64, -1 where fewer items are allowed, and scores (B, n) float32, -inf there; n is k or, if
            that is less, the number of candidates. With `return_rollbacks` also the codes taken back on the paths that
            a user's search ended with, (B,) int64.

        Raises:
            ValueError: for a row outside the catalogue, numbers that make no sense, an option that the model was not
            taught for, or scores that are NaN.
        """
        processor = self._require_processor()
        num_items = len(processor.item_ids)
        request = checked_request(num_items, histories, k, exclude_seen, candidates, batch_size)
        require_sound_weights(self)
        count, num_beams = request.count, checked_beams(request.count, num_beams)
        checked_choice("return_rollbacks", return_rollbacks, (True, False))
        order, reflection = self._order(order), self._reflection(reflection_threshold)
        if checked_choice("lookahead", lookahead, (True, False, None)) is None:
            lookahead = self.config.code_order == "confidence"
        elif lookahead:
            self._require_any_order("lookahead=True")
        sets = processor.item_sets if candidates is None else processor.item_sets.restrict(request.candidates)
        sets = sets.to(self.device)
        num_beams = min(num_beams, sets.num_leaves << sets.num_codebooks)  # sets of codes that a path can hold
        rollbacks = np.zeros(len(request.histories), dtype=np.int64)
        # Histories of about one length stand together: little of a batch is padding.
        by_length = np.argsort([len(history) for history in request.histories], kind="stable")
        with evaluation_mode(self):
            for start in range(0, len(by_length), request.batch_size):
                batch = by_length[start : start + request.batch_size]
                of_batch = [request.histories[int(i)] for i in batch]
                inputs = {name: tensor.to(self.device) for name, tensor in processor.prompts(of_batch).items()}
                seen = of_batch if exclude_seen else None
                found = self._recommend_batch(inputs, count, seen, sets, num_beams, order, reflection, lookahead)
                rows, scores, rollbacks[batch] = (tensor.cpu().numpy() for tensor in found)
                request.rows[batch, :count], request.scores[batch, :count] = rows, scores
        return (request.rows, request.scores, rollbacks) if return_rollbacks else (request.rows, request.scores)

    def _order(self, order: str | None) -> str:
        checked_choice("order", order, (*CODE_ORDERS, None))
        if order == "confidence":
            self._require_any_order(f"order={order!r}")
        return self.config.code_order if order is None else order

    def _require_any_order(self, wish: str) -> None:
        if self.config.code_order != "confidence":
            raise ValueError(
                f"{wish} reads what the model says of every codebook, but with code_order={self.config.code_order!r} "
                f"it was taught the next one alone: leave {wish.split('=')[0]} out."
            )

    def _reflection(self, threshold: float | None) -> Reflection | None:
        threshold = self.config.reflection_threshold if threshold is None else threshold
        if threshold is None:
            return None
        threshold = checked_number("reflection_threshold", threshold)
        if threshold == float("inf"):
            return None
        return Reflection(threshold, self.config.reflection_interval, self.config.max_rollbacks)

    @torch.no_grad()
    def _recommend_batch(
        self, inputs, k: int, seen, sets: ItemSets, num_beams: int, order: str, reflection, lookahead: bool
    ):
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
        rollbacks = torch.zeros(num_users, dtype=torch.long, device=self.device)
        users = torch.arange(num_users, device=self.device)[wanted > 0]
        user, row, score = empty, empty, scores.flatten()
        while len(users):
            part = encoding.of_users(users)
            theirs = torch.isin(excluded // sets.num_leaves, users)
            place = torch.searchsorted(users, excluded[theirs] // sets.num_leaves)
            keys = place * sets.num_leaves + excluded[theirs] % sets.num_leaves
            search = CrssSearch(self, part, sets, num_beams, keys, order, reflection, lookahead)
            paths = search.run()
            found = paths.leaves >= 0
            exact = paths.scores
            if not search.one_path_per_item:
                exact = path_scores(self, part, sets.leaf_tokens[paths.leaves.clamp(min=0)].long(), order)
            require_sound(self, exact.masked_fill(~found, -torch.inf))
            rollbacks[users] += paths.rollbacks.masked_fill(~found, 0).sum(1)

            parts = [(users, paths.leaves, exact.masked_fill(~found, -torch.inf))]
            stuck = ~found.any(1)
            if stuck.any():
                # What is left has codes that the model rules out (-inf) where the search asks for them; on the model's
                # path to an item it may not.
                parts.append(self._left(users[stuck], part.of_users(stuck.nonzero()[:, 0]), sets, excluded, order))
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
        return best_rows, best_scores, rollbacks

    def _left(self, users: torch.Tensor, encoding, sets: ItemSets, excluded: torch.Tensor, order: str):
        """The users themselves with all leaves not `excluded`, (n, leaves), -1 for others, and their exact scores."""
        leaves = torch.arange(sets.num_leaves, device=users.device).expand(len(users), -1)
        tokens = sets.leaf_tokens.long().expand(len(users), -1, -1)
        parts = tokens.split(max(1, MAX_PATHS // len(users)), dim=1)
        scores = require_sound(self, torch.cat([path_scores(self, encoding, part, order) for part in parts], dim=1))
        gone = torch.isin(users[:, None] * sets.num_leaves + leaves, excluded)
        return users, leaves.masked_fill(gone, -1), scores.masked_fill(gone, -torch.inf)

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

    def score_rows(self, histories: Sequence[np.ndarray], rows: np.ndarray, order: str | None = None) -> torch.Tensor:
        """
        Along the model's path to each item ([`path_scores`]).

        Args:
            order: see [`recommend_rows`].
        """
        processor, order = self._require_processor(), self._order(order)
        histories = checked_row_histories(histories, len(processor.item_ids))
        rows = checked_rows(rows, len(processor.item_ids), "rows")
        if not len(histories) or not len(rows):
            return torch.empty(len(histories), len(rows), device=self.device)
        token_ids = torch.from_numpy(processor.token_ids[rows]).to(self.device)
        inputs = {name: tensor.to(self.device) for name, tensor in processor.prompts(histories).items()}
        encoding = self.get_encoder()(**inputs)
        parts = token_ids.split(max(1, MAX_PATHS // len(histories)))
        scores = [path_scores(self, encoding, part.expand(len(histories), -1, -1), order) for part in parts]
        return require_sound(self, torch.cat(scores, dim=1))


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
