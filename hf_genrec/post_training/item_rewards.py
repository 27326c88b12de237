"""The functions of `rewards` as TRL calls them: a list of answers and the columns of the data in, a list of floats out.

Every method named after a reward takes `completion_ids` (n lists of token ids), `targets` (n arrays of the next h
catalogue rows, -1 where the sequence has ended) and what else the trainer knows of an answer. With more than one target
the values are averaged as `time_decayed` says.
"""

from collections.abc import Callable, Sequence

import numpy as np

from hf_genrec.decoding.processing_sequences import GenRecProcessor
from hf_genrec.post_training.rewards import (
    category_hit,
    item_hit,
    path_hit,
    prefix_share,
    rank_penalty,
    step_consistency,
    step_hit,
    time_decayed,
)


class ItemRewards:
    """
    Rewards of any item, for the codes of one catalogue.

    Args:
        processor: its token ids.
        decay: weight of a target against that of the one before it.
        group_size: G, answers to one prompt, which stand one after the other.
    """

    names: tuple[str, ...] = ("hit", "rank")

    def __init__(self, processor: GenRecProcessor, decay: float, group_size: int):
        self.token_ids = processor.token_ids  # (items, L)
        self.decay = decay
        self.group_size = group_size

    def chosen(self, names: Sequence[str]) -> list[Callable]:
        """
        The functions of these names.

        Raises:
            ValueError: for a name that is none of this model's.
        """
        for name in names:
            if name not in self.names:
                raise ValueError(
                    f"rewards: {name!r} is none of this model's, which are {', '.join(self.names)}: name one or more "
                    f"of them, as rewards: [{', '.join(self.names[:2])}]"
                )
        return [getattr(self, name) for name in names]

    def hit(self, completion_ids, targets, **kwargs) -> list[float]:
        """`item_hit`."""
        codes, target_codes, rows = self._compared(completion_ids, targets)
        return time_decayed(item_hit(codes, target_codes), rows, self.decay).tolist()

    def rank(self, completion_ids, targets, scores, **kwargs) -> list[float]:
        """`rank_penalty`, for which any of the next h items is a right answer."""
        codes, target_codes, rows = self._compared(completion_ids, targets)
        right = ((item_hit(codes, target_codes) > 0) & (rows >= 0)).any(axis=1)
        _, answers = np.unique(codes, axis=0, return_inverse=True)
        groups = (values.reshape(-1, self.group_size) for values in (right, np.array(scores), answers))
        return rank_penalty(*groups).ravel().tolist()

    def _compared(self, completion_ids, targets) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Codes of the answers (n, L), codes of their targets (n, h, L), and the targets (n, h)."""
        rows = np.array(targets)
        return np.array(completion_ids), self.token_ids[rows], rows


class SequenceRewards(ItemRewards):
    """Rewards of items whose codes have an order."""

    names = (*ItemRewards.names, "prefix")

    def prefix(self, completion_ids, targets, **kwargs) -> list[float]:
        """`prefix_share`."""
        codes, target_codes, rows = self._compared(completion_ids, targets)
        return time_decayed(prefix_share(codes, target_codes), rows, self.decay).tolist()


class SetRewards(ItemRewards):
    """
    Rewards of items whose codes have no order, and of the category distributions on the way to them.

    Args:
        categories: (items,) class of each item.
        codewords: (vocabulary, D) vectors of the codes, by token id; only `path` needs them.
        path_top_n, path_errors: see `path_hit`.
    """

    names = (*ItemRewards.names, "step_hit", "category_hit", "consistency", "path")

    def __init__(
        self,
        processor: GenRecProcessor,
        decay: float,
        group_size: int,
        categories: np.ndarray,
        codewords: np.ndarray | None = None,
        path_top_n: int = 10,
        path_errors: int = 2,
    ):
        super().__init__(processor, decay, group_size)
        self.categories = categories
        self.path_top_n, self.path_errors = path_top_n, path_errors
        if codewords is not None:
            self.codewords = codewords
            self.item_vectors = codewords[self.token_ids].sum(axis=1)

    def _compared(self, completion_ids, targets):
        codes, target_codes, rows = super()._compared(completion_ids, targets)
        return np.sort(codes, axis=1), np.sort(target_codes, axis=2), rows

    def step_hit(self, completion_ids, targets, **kwargs) -> list[float]:
        """`step_hit`."""
        codes, target_codes, rows = self._compared(completion_ids, targets)
        return time_decayed(step_hit(codes, target_codes), rows, self.decay).tolist()

    def category_hit(self, targets, category_probs, **kwargs) -> list[float]:
        """`category_hit`."""
        rows = np.array(targets)
        hits = category_hit(np.array(category_probs), self.categories[rows])
        return time_decayed(hits, rows, self.decay).tolist()

    def consistency(self, category_probs, **kwargs) -> list[float]:
        """`step_consistency`."""
        return step_consistency(np.array(category_probs)).tolist()

    def path(self, completion_ids, targets, **kwargs) -> list[float]:
        """`path_hit`."""
        codes, target_codes, rows = self._compared(completion_ids, targets)
        hits = path_hit(codes, target_codes, rows, self.codewords, self.item_vectors, self.path_top_n, self.path_errors)
        return time_decayed(hits, rows, self.decay).tolist()
