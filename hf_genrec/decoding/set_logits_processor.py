"""The catalogue's item sets as a logits processor of `model.generate`."""

import math

import torch

from ..catalogue.item_sets import ItemSets
from ..catalogue.request_checks import checked_choice
from ..catalogue.sound_scores import illegal_scores, require_choice, require_sound_codes
from .item_logits_processor import ItemLogitsProcessor


class SetLogitsProcessor(ItemLogitsProcessor):
    """
    Lets `model.generate` of an encoder-decoder (greedy, beam search, sampling) write sets of codes that are items of
    the catalogue, in any order or codebook after codebook.

    The codes already chosen are what follows the start token. Scores of all other tokens than those that go on become
    -inf, without renormalising. After M codes every row is finished and its scores are left as they are.

    Args:
        sets ([`ItemSets`]): the catalogue, or a part of it.
        order: `"confidence"` (any) or `"fixed"`, the model's `code_order`.

    Raises:
        ValueError: for another order, or scores that are NaN or infinite.
    """

    def __init__(self, sets: ItemSets, order: str = "confidence"):
        self.sets = sets
        self.order = checked_choice("order", order, ("confidence", "fixed"))

    @property
    def num_answers(self) -> int:
        """How many different answers it lets through, an item's codes in another order not counted."""
        return self.sets.num_leaves

    @property
    def num_paths(self) -> int:
        """How many beams can be alive."""
        return self.sets.num_leaves * (math.factorial(self.sets.num_codebooks) if self.order == "confidence" else 1)

    @property
    def num_codes(self) -> int:
        """How many tokens an answer has."""
        return self.sets.num_codebooks

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if input_ids.shape[1] > self.sets.num_codebooks:
            return scores
        # One assignment: threads that move them at once both go on with sets on their device.
        sets = self.sets = self.sets.to(input_ids.device)
        legal = sets.allowed(sets.walk(input_ids[:, 1:]), self.order)
        width = legal.shape[1]
        closed = ((scores[:, :width] == -torch.inf) & legal).any(1)
        masked = illegal_scores(scores, closed)
        masked[:, :width] = of_codes = scores[:, :width].masked_fill(~legal, -torch.inf)
        require_sound_codes(of_codes)
        # A row that left the catalogue (a beam that was never alive) keeps its scores: all -inf is not a distribution.
        dead = ~legal.any(1)
        if self.sampled_beams:
            require_choice((of_codes > -torch.inf).any(1) | dead, closed, self.sampled_beams)
        masked[dead] = scores[dead]
        return masked
