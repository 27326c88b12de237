"""`recommend` and `score_items` for models that write an item's codes in any order."""

from collections.abc import Sequence

import numpy as np
import torch

from ...catalogue.catalogue import ProcessorCarrier, evaluation_mode
from ...catalogue.flat_lists import expand_ranges, rank_in_list
from ...catalogue.item_sets import ItemSets
from .processing_reg4rec import Reg4RecProcessor
from .reg4rec_search import CrssSearch, Reflection, path_scores

MAX_PATHS = 2**12  # paths decoded at once in exact scoring


class SetRecommenderMixin(ProcessorCarrier):
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
            rows (B, k) int64, -1 where fewer items are allowed, and scores (B, k) float32, -inf there; with
            `return_rollbacks` also the codes taken back on the paths that a user's search ended with, (B,) int64.
        """
        processor = self._require_processor()
        num_beams = max(2 * k, 20) if num_beams is None else num_beams
        if k < 1 or num_beams < k:
            raise ValueError(f"k={k}, num_beams={num_beams}: k must be at least 1 and num_beams at least k.")
        order = self._order(order)
        if lookahead is None:
            lookahead = self.config.code_order == "confidence"
        elif lookahead:
            self._require_any_order("lookahead=True")
        sets = processor.item_sets if candidates is None else processor.item_sets.restrict(candidates)
        sets = sets.to(self.device)
        rows = np.full((len(histories), k), -1, dtype=np.int64)
        scores = np.full((len(histories), k), -np.inf, dtype=np.float32)
        rollbacks = np.zeros(len(histories), dtype=np.int64)
        # Histories of about one length stand together: little of a batch is padding.
        by_length = np.argsort([len(history) for history in histories], kind="stable")
        with evaluation_mode(self):
            for start in range(0, len(histories), batch_size):
                batch = by_length[start : start + batch_size]
                inputs = processor.prompts([histories[int(i)] for i in batch])
                seen = [histories[int(i)] for i in batch] if exclude_seen else None
                found = self._recommend_batch(
                    {name: tensor.to(self.device) for name, tensor in inputs.items()},
                    k,
                    seen,
                    sets,
                    num_beams,
                    order,
                    self._reflection(reflection_threshold),
                    lookahead,
                )
                rows[batch], scores[batch], rollbacks[batch] = (tensor.cpu().numpy() for tensor in found)
        return (rows, scores, rollbacks) if return_rollbacks else (rows, scores)

    def _order(self, order: str | None) -> str:
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
        if threshold is None or threshold == float("inf"):
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
            rollbacks[users] += paths.rollbacks.masked_fill(~found, 0).sum(1)

            more_leaves = leaves.new_full((num_users, found.shape[1]), -1)
            more_scores = scores.new_full(more_leaves.shape, -torch.inf)
            more_leaves[users], more_scores[users] = paths.leaves, exact.masked_fill(~found, -torch.inf)
            leaves, scores = torch.cat([leaves, more_leaves], 1), torch.cat([scores, more_scores], 1)
            user, row, score = _listed(sets, leaves, scores, seen_items, num_rows)
            # Paths that led to fewer items than wanted: search on without those found.
            users = (torch.bincount(user, minlength=num_users) < wanted).nonzero().squeeze(1)
            owner, column = (leaves >= 0).nonzero(as_tuple=True)
            excluded = torch.cat([excluded, owner * sets.num_leaves + leaves[owner, column]]).unique()

        rank = rank_in_list(user, torch.bincount(user, minlength=num_users))
        top = rank < k
        best_rows = leaves.new_full((num_users, k), -1)
        best_scores = scores.new_full((num_users, k), -torch.inf)
        best_rows[user[top], rank[top]], best_scores[user[top], rank[top]] = row[top], score[top]
        return best_rows, best_scores, rollbacks

    def _seen(self, sets: ItemSets, histories: Sequence[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Sorted keys `user * num_rows + row` of the items of each history, as far as they are in `sets`, and `user *
        num_leaves + leaf` of the leaves that hold no other items.
        """
        processor = self._require_processor()
        num_rows = len(processor.item_ids)
        users = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
        items = np.concatenate([np.empty(0, dtype=np.int64), *histories])
        keys = np.unique(users * num_rows + items)
        rows = keys % num_rows
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
        token_ids = torch.from_numpy(processor.token_ids[rows]).to(self.device)
        inputs = {name: tensor.to(self.device) for name, tensor in processor.prompts(histories).items()}
        encoding = self.get_encoder()(**inputs)
        parts = token_ids.split(max(1, MAX_PATHS // len(histories)))
        return torch.cat(
            [path_scores(self, encoding, part.expand(len(histories), -1, -1), order) for part in parts], dim=1
        )


def _listed(sets: ItemSets, leaves: torch.Tensor, scores: torch.Tensor, seen_items: torch.Tensor, num_rows: int):
    """
    The items of leaves (B, w), without those seen: user by user, best first, ties to the lower leaf.

    Returns:
        user, catalogue row and score of each, three (n,).
    """
    leaves, by_leaf = leaves.sort(dim=1)
    scores, by_score = scores.gather(1, by_leaf).sort(dim=1, descending=True, stable=True)
    place, leaf = expand_ranges(*sets.item_ranges(leaves.gather(1, by_score).flatten()))
    user, row, score = leaf // leaves.shape[1], sets.items[place].long(), scores.flatten()[leaf]
    unseen = ~torch.isin(user * num_rows + row, seen_items)
    return user[unseen], row[unseen], score[unseen]
