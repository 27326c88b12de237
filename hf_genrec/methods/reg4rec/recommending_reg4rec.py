"""`recommend` and `score_items` of REG4Rec: what can be asked of its search."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ...catalogue.item_sets import ItemSets
from ...catalogue.request_checks import checked_choice, checked_number
from ...decoding.item_generation import ItemGeneration
from ...decoding.recommend_by_sets import FoundLeaves, SetRecommenderMixin
from .configuration_reg4rec import CODE_ORDERS
from .processing_reg4rec import Reg4RecProcessor
from .reg4rec_search import CrssSearch, Reflection, path_scores


@dataclass
class CrssOptions:
    """The settings of [`CrssSearch`] that a request has."""

    order: str
    reflection: Reflection | None = None
    lookahead: bool = False


class Reg4RecRecommenderMixin(ItemGeneration, SetRecommenderMixin):
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
        checked_choice("return_rollbacks", return_rollbacks, (True, False))
        order, reflection = self._order(order), self._reflection(reflection_threshold)
        if checked_choice("lookahead", lookahead, (True, False, None)) is None:
            lookahead = self.config.code_order == "confidence"
        elif lookahead:
            self._require_any_order("lookahead=True")
        options = CrssOptions(order, reflection, bool(lookahead))
        *found, rollbacks = self._recommend_sets(histories, k, exclude_seen, candidates, num_beams, batch_size, options)
        return (*found, rollbacks) if return_rollbacks else tuple(found)

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

    def _search_sets(
        self, encoding, sets: ItemSets, num_beams: int, excluded: torch.Tensor, options: CrssOptions
    ) -> FoundLeaves:
        order, reflection = options.order, options.reflection
        search = CrssSearch(self, encoding, sets, num_beams, excluded, order, reflection, options.lookahead)
        paths = search.run()
        exact = paths.scores
        if not search.one_path_per_item:
            exact = self._token_scores(encoding, sets.leaf_tokens[paths.leaves.clamp(min=0)].long(), options)
        return FoundLeaves(paths.leaves, exact, paths.rollbacks.masked_fill(paths.leaves < 0, 0).sum(1))

    def _token_scores(self, encoding, tokens: torch.Tensor, options: CrssOptions) -> torch.Tensor:
        return path_scores(self, encoding, tokens, options.order)

    def score_rows(self, histories: Sequence[np.ndarray], rows: np.ndarray, order: str | None = None) -> torch.Tensor:
        """
        Along the model's path to each item ([`path_scores`]).

        Args:
            order: see [`recommend_rows`].
        """
        return self._score_sets(histories, rows, CrssOptions(self._order(order)))
