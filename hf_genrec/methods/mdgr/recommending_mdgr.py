"""`recommend` and `score_items` of MDGR: what can be asked of its search."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ...catalogue.item_sets import ItemSets
from ...catalogue.request_checks import checked_choice, checked_count, shown
from ...decoding.item_generation import CodeVectors
from ...decoding.recommend_by_sets import FoundLeaves, SetRecommenderMixin
from .configuration_mdgr import ORDERS, MdgrConfig
from .mdgr_search import SlotSearch, path_scores, step_sizes


@dataclass
class StepOptions:
    """The settings of [`SlotSearch`] that a request has."""

    warmup_codes: int
    sizes: list[int]
    order: str = "guided"


class MdgrRecommenderMixin(CodeVectors, SetRecommenderMixin):
    """
    Placed before MDGR's model class.

    Attributes:
        processor ([`CodeSetProcessor`], *optional*): histories, catalogue and item sets. Loaded and saved together with
            the model.
    """

    config: MdgrConfig

    def recommend_rows(
        self,
        histories: Sequence[np.ndarray],
        k: int = 10,
        exclude_seen: bool = False,
        candidates: np.ndarray | None = None,
        num_beams: int | None = None,
        batch_size: int = 64,
        warmup_codes: int | None = None,
        parallel_width: int | None = None,
        order: str = "guided",
    ) -> tuple[np.ndarray, ...]:
        """
        By two-stage decoding over the catalogue ([`SlotSearch`]). Each item found is scored along the model's path to
        it, as [`score_rows`] does, so a score depends neither on k nor on the beam: it is the sum of the L
        log-probabilities, each within its codebook.

        Args:
            num_beams (*optional*): paths kept, defaults to `max(2 * k, 20)`.
            batch_size: histories decoded at a time.
            warmup_codes, parallel_width (*optional*): W and m, by default the configuration's. Other numbers are
                another model's path, so other scores.
            order: `"guided"`: a warm-up step writes a code of the codebook that the model is surest of; `"any"`: of
                any codebook, as published. The items found are then scored in as many decoder passes again.

        Returns:
            rows (B, n) int64, -1 where fewer items are allowed, and scores (B, n) float32, -inf there; n is k or, if
            that is less, the number of candidates.

        Raises:
            ValueError: for a row outside the catalogue, numbers that make no sense, or scores that are NaN.
        """
        options = self._steps(warmup_codes, parallel_width)
        options.order = checked_choice("order", order, ORDERS)
        return self._recommend_sets(histories, k, exclude_seen, candidates, num_beams, batch_size, options)[:2]

    def _steps(self, warmup_codes: int | None, parallel_width: int | None) -> StepOptions:
        num_codebooks = self.config.num_codebooks
        warmup = self.config.warmup_codes if warmup_codes is None else warmup_codes
        warmup = checked_count("warmup_codes", warmup, 0)
        if warmup > num_codebooks:
            raise ValueError(f"warmup_codes={shown(warmup)}: an item has {num_codebooks} codes, give at most so many.")
        width = self.config.parallel_width if parallel_width is None else parallel_width
        return StepOptions(warmup, step_sizes(num_codebooks, warmup, checked_count("parallel_width", width)))

    def _search_sets(
        self, encoding, sets: ItemSets, num_beams: int, excluded: torch.Tensor, options: StepOptions
    ) -> FoundLeaves:
        warmup, order = options.warmup_codes, options.order
        search = SlotSearch(self, encoding, sets, num_beams, options.sizes, warmup, excluded, order)
        leaves, scores = search.run()
        if order == "any":
            scores = self._token_scores(encoding, sets.leaf_tokens[leaves.clamp(min=0)].long(), options)
        return FoundLeaves(leaves, scores)

    def _token_scores(self, encoding, tokens: torch.Tensor, options: StepOptions) -> torch.Tensor:
        return path_scores(self, encoding, tokens, options.sizes)

    def score_rows(
        self,
        histories: Sequence[np.ndarray],
        rows: np.ndarray,
        warmup_codes: int | None = None,
        parallel_width: int | None = None,
    ) -> torch.Tensor:
        """
        Along the model's path to each item ([`path_scores`]).

        Args:
            warmup_codes, parallel_width: see [`recommend_rows`].
        """
        return self._score_sets(histories, rows, self._steps(warmup_codes, parallel_width))
