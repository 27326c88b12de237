"""`recommend` and `score_items`: from histories of item ids to items, for every generative model."""

from collections.abc import Sequence

import numpy as np
import torch

from ..catalogue.catalogue import ProcessorCarrier, evaluation_mode
from ..catalogue.flat_lists import expand_ranges, rank_in_list
from ..catalogue.item_trie import ItemTrie
from .beam_search import beam_search, score_leaves
from .processing_sequences import GenRecProcessor
from .user_cache import UserCache


class GenerativeRecommenderMixin(ProcessorCarrier):
    """
    Placed before a model class with aligned logits.

    Attributes:
        processor ([`GenRecProcessor`], *optional*): histories, catalogue and trie. Loaded and saved together with the
        model.
    """

    processor_class = GenRecProcessor

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
            normalize: what a code's probability is relative to: the full `"vocabulary"`, or the codes of its `"level"`.
            user_cache (*optional*): keeps encoded histories between calls: a user who comes back with some items more
                costs only these.

        Returns:
            rows (B, k) int64, -1 where fewer items are allowed, and scores (B, k) float32, -inf there.
        """
        processor = self._require_processor()
        num_beams = max(2 * k, 20) if num_beams is None else num_beams
        if k < 1 or num_beams < k:
            raise ValueError(f"k={k}, num_beams={num_beams}: k must be at least 1 and num_beams at least k.")
        trie = processor.trie if candidates is None else processor.trie.restrict(candidates)
        rows = np.full((len(histories), k), -1, dtype=np.int64)
        scores = np.full((len(histories), k), -np.inf, dtype=np.float32)
        batches = [
            np.arange(start, min(start + batch_size, len(histories))) for start in range(0, len(histories), batch_size)
        ]
        with evaluation_mode(self):
            for batch in batches:
                prompts = processor.prompts([histories[int(i)] for i in batch])
                known = np.zeros(len(batch), dtype=bool)
                if user_cache is not None:
                    known = np.array(user_cache.known(**prompts, num_levels=processor.num_levels)) > 0
                # Known histories have little left to encode: apart from the others, they are not padded to them.
                for part in filter(len, (np.flatnonzero(known), np.flatnonzero(~known))):
                    inputs = {name: tensor[part].to(self.device) for name, tensor in prompts.items()}
                    seen = [histories[int(i)] for i in batch[part]] if exclude_seen else None
                    found = self._recommend_batch(inputs, k, seen, trie, num_beams, normalize, user_cache)
                    rows[batch[part]], scores[batch[part]] = (tensor.cpu().numpy() for tensor in found)
        return rows, scores

    def _recommend_batch(self, inputs, k: int, seen, trie: ItemTrie, num_beams: int, normalize: str, user_cache):
        trie = trie.to(self.device)
        num_users = len(inputs["input_ids"])
        excluded = None if seen is None else self._item_keys(trie, seen)
        leaves, leaf_scores = beam_search(self, inputs, trie, num_beams, excluded, normalize, user_cache)

        # A leaf holds one item, or several that share their codes.
        start, end = trie.items_below(leaves.clamp(min=0), trie.num_levels)
        end = torch.where(leaves >= 0, end, start)
        place, leaf = expand_ranges(start.flatten(), end.flatten())
        user = leaf // leaves.shape[1]
        if excluded is not None:
            keep = ~torch.isin(user * len(trie) + place, excluded)
            leaf, place, user = leaf[keep], place[keep], user[keep]
        rank = rank_in_list(user, torch.bincount(user, minlength=num_users))
        top = rank < k
        rows = torch.full((num_users, k), -1, device=user.device)
        scores = torch.full((num_users, k), -torch.inf, device=user.device)
        rows[user[top], rank[top]] = trie.items[place[top]].long()
        scores[user[top], rank[top]] = leaf_scores.flatten()[leaf[top]]
        return rows, scores

    def _item_keys(self, trie: ItemTrie, histories: Sequence[np.ndarray]) -> torch.Tensor:
        """Sorted keys `user * len(trie) + place in trie.items` of the items in each history."""
        users = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
        seen = np.concatenate([np.empty(0, dtype=np.int64), *histories])
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
        inputs = {name: tensor.to(self.device) for name, tensor in processor.prompts(histories).items()}
        return score_leaves(self, inputs, torch.from_numpy(processor.token_ids[rows]))
