"""What `generate` asks of a logits processor of the catalogue, whatever the codes are kept in."""

import copy
from typing import Self

from transformers import LogitsProcessor


class ItemLogitsProcessor(LogitsProcessor):
    """
    Attributes:
        sampled_beams (`int`): of a `generate` that samples; 0 for one that does not.
    """

    sampled_beams = 0

    def for_sampling(self, num_beams: int) -> Self:
        """One for `do_sample`: it raises a ValueError where all that is legal has a score of -inf."""
        sampling = copy.copy(self)
        sampling.sampled_beams = num_beams
        return sampling

    @property
    def num_answers(self) -> int:
        """How many different answers it lets through."""
        raise NotImplementedError

    @property
    def num_paths(self) -> int:
        """How many beams can be alive."""
        raise NotImplementedError

    @property
    def num_codes(self) -> int:
        """How many tokens an answer has."""
        raise NotImplementedError
