"""`recommend` and `score_items` by codes and dense vectors together."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from ...catalogue.best_columns import best_columns
from ...catalogue.evaluation_mode import evaluation_mode
from ...catalogue.flat_lists import expand_ranges
from ...catalogue.item_trie import ItemTrie
from ...catalogue.item_vectors import checked_vectors
from ...catalogue.request_checks import (
    checked_beams,
    checked_choice,
    checked_count,
    checked_number,
    checked_request,
    checked_row_histories,
    checked_rows,
)
from ...catalogue.sound_scores import require_sound, require_sound_weights
from ...decoding.beam_search import search_beams
from ...decoding.code_loss import at_least_float32
from ...decoding.recommend_by_trie import GenerativeRecommenderMixin
from ...decoding.user_cache import UserCache, check_user_cache
from .cobra_beams import CobraBeamDecoder
from .cobra_choices import RETRIEVAL
from .processing_cobra import CobraProcessor

BEAMS = 20  # whose dense vectors look for items, the best ones; of a search for the likeliest codes
MAX_PATHS = 2**11  # followed at once in exact scoring


class Search(NamedTuple):
    """
    What is looked for, the same for all users.

    Attributes:
        trie: whose items codes are written.
        num_beams: of the search.
        vectors: (N, d), unit vectors of all items.
        weight: of the cosine.
        wanted: items of a list.
        user_cache: see [`CobraRecommenderMixin.recommend_rows`].
    """

    trie: ItemTrie
    num_beams: int
    vectors: torch.Tensor
    weight: float
    wanted: int
    user_cache: UserCache | None


class CobraRecommenderMixin(GenerativeRecommenderMixin):
    """
    Placed before COBRA's model class.

    Attributes:
        processor ([`CobraProcessor`], *optional*): histories, catalogue and trie. Loaded and saved together with the
            model.
    """

    processor_class = CobraProcessor
    model: Any

    def recommend_rows(
        self,
        histories: Sequence[np.ndarray],
        k: int = 10,
        exclude_seen: bool = False,
        candidates: np.ndarray | None = None,
        num_beams: int | None = None,
        batch_size: int = 64,
        retrieval: str | None = None,
        dense_weight: float | None = None,
        user_cache: UserCache | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """
        By beam search over the trie, and by the items near the dense vectors that the beams end with.

        Fusion gives an item phi + `dense_weight` * cos: phi is the sum of its codes' log-probabilities, each within its
        level, and cos the cosine of its vector with the one predicted behind its codes. That is the logarithm of the
        paper's product of softmaxes, whose denominators are the same for all items of a user. It is found if its codes
        are among the beams', or if its vector is among the `num_neighbours` nearest to the vectors of the best beams;
        then its own codes are followed.

        Args:
            num_beams (*optional*): defaults to `max(2 * k, 20)`; to 20 where `retrieval="dense"`.
            batch_size: histories decoded at a time.
            retrieval (*optional*): by default the configuration's. `"fusion"`; `"sparse"`: phi alone; `"dense"`: the
                cosine with the vector behind the likeliest codes that the beams find, for all items.
            dense_weight (*optional*): of fusion, by default the configuration's. With 0 lists are those of the codes
                alone.
            user_cache (*optional*): keeps encoded histories between calls: a user who comes back with some items more
                costs only these.

        Returns:
            rows (B, n) int64, -1 where fewer items are allowed, and scores (B, n) float32, -inf there; n is k or, if
            that is less, the number of candidates.

        Raises:
            ValueError: for a row outside the catalogue, numbers that make no sense, or scores that are NaN.
        """
        processor = self._require_processor()
        request = checked_request(len(processor.item_ids), histories, k, exclude_seen, candidates, batch_size)
        retrieval, weight = self._checked_search(retrieval, dense_weight)
        require_sound_weights(self)
        check_user_cache(user_cache)
        if retrieval == "dense":
            num_beams = BEAMS if num_beams is None else checked_count("num_beams", num_beams)
        else:
            num_beams = checked_beams(request.count, num_beams)
        trie = processor.trie
        if candidates is not None and retrieval != "dense":  # where the codes only say where to look
            trie = trie.restrict(request.candidates)
        trie = trie.to(self.device)

        def by_codes(inputs, seen):
            return self._recommend_batch(inputs, request.count, seen, trie, num_beams, "vocabulary", user_cache)

        if retrieval == "sparse":
            return self._in_batches(request, exclude_seen, user_cache, by_codes)
        with evaluation_mode(self), torch.no_grad():
            search = Search(trie, num_beams, self._unit_vectors(), weight, request.count, user_cache)
        find = self._dense_scores if retrieval == "dense" else self._fused_scores
        return self._by_item_scores(
            request, exclude_seen, user_cache, lambda inputs, seen, closed: find(inputs, search, seen, closed)
        )

    def _checked_search(self, retrieval: str | None, dense_weight: float | None) -> tuple[str, float]:
        retrieval = self.config.retrieval if retrieval is None else checked_choice("retrieval", retrieval, RETRIEVAL)
        weight = self.config.dense_weight if dense_weight is None else checked_number("dense_weight", dense_weight)
        weight = min(weight, torch.finfo(torch.float32).max / 4)
        return ("sparse" if retrieval == "fusion" and weight == 0 else retrieval), weight

    def _unit_vectors(self) -> torch.Tensor:
        """(N, d) float32, the items' dense vectors, one long.

        Raises:
            ValueError: for a processor with more items or fewer.
        """
        if len(self._require_processor().item_ids) != self.config.num_items:
            raise ValueError(
                f"The processor has {len(self.processor.item_ids)} items, the model {self.config.num_items}: new items "
                f"enter by the model's add_items."
            )
        return nn.functional.normalize(self.model.items().float(), dim=-1)

    def similarity_vectors(self) -> torch.Tensor:
        """The dense vectors."""
        return self._unit_vectors()

    # ---- lists ----

    def _beams(self, inputs, search: Search, excluded: torch.Tensor | None):
        """The beams found, their decoder, and the unit vectors (B, W, d) that they end with."""
        num_beams = min(search.num_beams, search.trie.num_leaves)
        decoder = CobraBeamDecoder(self, max(num_beams, self.config.num_neighbours), search.trie.num_levels - 1)
        cache = search.user_cache
        states = decoder.start(**inputs) if cache is None else cache.start(decoder, **inputs)
        beams = search_beams(decoder, states, search.trie, num_beams, excluded)
        require_sound(self, beams.scores)
        return beams, decoder, _unit(decoder.extend(beams.codes, beams.parents))

    def _dense_scores(self, inputs, search: Search, seen, closed: torch.Tensor) -> torch.Tensor:
        """(B, N), the cosine of each item with the vector behind the likeliest codes; -inf where it is closed."""
        _, _, found = self._beams(inputs, search, None)
        return require_sound(self, found[:, 0] @ search.vectors.T).masked_fill(closed, -torch.inf)

    def _fused_scores(self, inputs, search: Search, seen, closed: torch.Tensor) -> torch.Tensor:
        """(B, N), the fused score of each item that is found, -inf of all others."""
        trie, weight, vectors = search.trie, search.weight, search.vectors
        excluded = None if seen is None else self._item_keys(trie, seen)
        beams, decoder, found = self._beams(inputs, search, excluded)

        # The items of the beams.
        start, end = trie.items_below(beams.leaves.clamp(min=0), trie.num_levels)
        place, leaf = expand_ranges(start.flatten(), torch.where(beams.leaves >= 0, end, start).flatten())
        users, rows = leaf // beams.leaves.shape[1], trie.items[place].long()
        scores = torch.full_like(closed, -torch.inf, dtype=torch.float32)
        scores[users, rows] = beams.scores.flatten()[leaf] + weight * _cosines(found.flatten(0, 1)[leaf], vectors[rows])
        is_partial = search.num_beams < trie.num_leaves
        count = min(self.config.num_neighbours, len(vectors)) if is_partial else 0
        if count:
            # What an item would be worth, if it had the codes of a beam.
            near = torch.full_like(scores, -torch.inf)
            for beam in range(min(BEAMS, found.shape[1])):
                worth = beams.scores[:, beam, None] + weight * (found[:, beam] @ vectors.T)
                near = torch.maximum(near, worth)
            near[users, rows] = -torch.inf
            values, rows = best_columns(near.masked_fill(closed, -torch.inf), count)
            ids = torch.from_numpy(self._require_processor().token_ids).to(self.device)
            log_probs, ends = decoder.follow(ids[rows])
            fused = log_probs + weight * _cosines(_unit(ends), vectors[rows])
            scores.scatter_(1, rows, torch.where(values > -torch.inf, fused, scores.gather(1, rows)))
        scores = require_sound(self, scores).masked_fill(closed, -torch.inf)
        enough = (~closed).sum(1).clamp(max=search.wanted)
        if is_partial and ((scores > -torch.inf).sum(1) < enough).any():
            # Beams that the model ruled out afterwards (-inf) have taken the places of others.
            return self._fused_scores(inputs, search._replace(num_beams=4 * search.num_beams), seen, closed)
        return scores

    # ---- exact scores ----

    @torch.no_grad()
    def score_rows(
        self,
        histories: Sequence[np.ndarray],
        rows: np.ndarray,
        retrieval: str | None = None,
        dense_weight: float | None = None,
        num_beams: int = BEAMS,
    ) -> torch.Tensor:
        """
        By following each item's codes.

        Args:
            retrieval, dense_weight: see [`recommend_rows`].
            num_beams: `retrieval="dense"`: of the search for the likeliest codes.
        """
        processor = self._require_processor()
        num_items = len(processor.item_ids)
        histories, rows = checked_row_histories(histories, num_items), checked_rows(rows, num_items, "rows")
        retrieval, weight = self._checked_search(retrieval, dense_weight)
        num_beams = checked_count("num_beams", num_beams)
        if not len(histories) or not len(rows):
            return torch.empty(len(histories), len(rows), device=self.device)
        at = torch.from_numpy(rows).to(self.device)
        vectors = self._unit_vectors()[at]
        codes, of_row = torch.from_numpy(processor.token_ids[rows]).to(self.device).unique(dim=0, return_inverse=True)
        search = Search(processor.trie.to(self.device), num_beams, vectors, weight, len(rows), None)
        scores = []
        width = min(len(codes), MAX_PATHS)
        size = max(1, MAX_PATHS // width)
        for start in range(0, len(histories), size):
            inputs = processor.prompts(histories[start : start + size])
            inputs = {name: tensor.to(self.device) for name, tensor in inputs.items()}
            if retrieval == "dense":
                _, _, found = self._beams(inputs, search, None)
                scores.append(found[:, 0] @ vectors.T)
                continue
            decoder = CobraBeamDecoder(self, width, processor.num_levels - 1)
            decoder.start(**inputs)
            parts = [decoder.follow(part.expand(len(inputs["input_ids"]), -1, -1)) for part in codes.split(width)]
            of_codes, ends = (torch.cat(tensors, 1) for tensors in zip(*parts, strict=True))
            of_users = of_codes[:, of_row]
            if retrieval == "fusion":
                of_users = of_users + weight * _cosines(_unit(ends)[:, of_row], vectors)
            scores.append(of_users)
        return require_sound(self, torch.cat(scores))

    # ---- new items ----

    def add_items(self, item_ids: Sequence[str], codes, vectors, titles: Sequence[str] | None = None):
        """
        New items, with codes from the item tokenizer and text embeddings made as those of the catalogue were, enter its
        end and can be recommended without training.

        Args:
            item_ids: M ids that the catalogue does not have.
            codes: (M, L) semantic IDs.
            vectors: (M, D) text embeddings.
            titles (*optional*): M titles for people to read.

        Returns:
            the model.

        Raises:
            ValueError: for an id that is there already, lengths that differ, a code outside its codebook, or vectors
                with NaN or infinity. Nothing is changed then.
        """
        new = checked_vectors(vectors, len(item_ids), self.model.items.text)
        self._require_processor().add_items(item_ids, codes, titles)
        self.model.items.add(new)
        self.config.num_items = len(self.model.items.text)
        return self

    def remove_items(self, item_ids: Sequence[str]):
        """
        These items leave the catalogue, and their vectors the model; the rows of those behind them move up.

        Returns:
            the model.

        Raises:
            ValueError: for an item that is not in the catalogue, or if none would be left. Nothing is changed then.
        """
        processor = self._require_processor()
        gone = processor.rows(item_ids, where="item_ids")
        processor.remove_items(item_ids)
        self.model.items.remove(gone)
        self.config.num_items = len(self.model.items.text)
        return self


def _cosines(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Of unit vectors (..., d)."""
    return (one * other).sum(-1)


def _unit(states: torch.Tensor) -> torch.Tensor:
    return nn.functional.normalize(at_least_float32(states), dim=-1)
