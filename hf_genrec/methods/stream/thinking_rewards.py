"""What thinking tokens are worth: the rewards of STREAM (arXiv 2504.09627) beside the exact match, `prefix_share`.

Pure functions of n answers, and as TRL calls them: see `post_training/rewards.py` and `item_rewards.py`.
"""

from collections.abc import Sequence

import numpy as np
from scipy.special import expit

from hf_genrec.decoding.processing_sequences import GenRecProcessor
from hf_genrec.post_training.item_rewards import SequenceRewards

OF_THE_MODEL = ("similarity", "likelihood", "thinking_rank")


def format_penalty(trace: np.ndarray, codebook_sizes: Sequence[int]) -> np.ndarray:
    """
    -1 where a thinking token is no code of its level, level ((i - 1) mod L) + 1 for token i, else 0; (n,).

    Args:
        trace: (n, l) token ids.

    Example: with the sizes 2 and 3 (codes 0 and 1, 2 to 4) the traces `[1, 4, 0]` and `[1, 1, 0]` get 0 and -1.
    """
    levels = np.arange(trace.shape[1]) % len(codebook_sizes)
    ends = np.cumsum(codebook_sizes)
    right = (trace >= (ends - codebook_sizes)[levels]) & (trace < ends[levels])
    return np.where(right.all(axis=1), 0.0, -1.0)


def state_similarity(states: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """
    Cosine of the last state and the target, (n,).

    Args:
        states, targets: (n, d).

    Example: of `[3, 4]` and `[1, 0]` it is 0.6.
    """
    lengths = np.linalg.norm(states, axis=1) * np.linalg.norm(targets, axis=1)
    return (states * targets).sum(axis=1) / lengths


def thinking_likelihood(with_trace: np.ndarray, without: np.ndarray) -> np.ndarray:
    """
    sigmoid(log P(target | trace) - log P(target)), (n,): above a half where the trace has made the target likelier.

    Example: with -1 and -1 - ln 3 it is 3/4.
    """
    return expit(with_trace - without)


def thinking_rank(target: np.ndarray, negatives: np.ndarray) -> np.ndarray:
    """
    1/log2(rank + 1), (n,): the rank of the target among negatives by log-probability behind the trace, ties to the
    target.

    Args:
        target: (n,).
        negatives: (n, K).

    Example: -2 among `[-1, -3]` is second, 1/log2(3) = 0.6309.
    """
    return 1 / np.log2((negatives > target[:, None]).sum(axis=1) + 2.0)


class ThinkingRewards(SequenceRewards):
    """
    Rewards of answers that begin with thinking tokens. The trainer tells `states`, `target_directions`, `with_trace`,
    `without_trace` and `negatives` of each; the target is the next item.
    """

    names = (*SequenceRewards.names, "format", *OF_THE_MODEL)

    def __init__(self, processor: GenRecProcessor, decay: float, group_size: int):
        super().__init__(processor, decay, group_size)
        self.codebook_sizes = np.array(processor.codebook_sizes)

    def _compared(self, completion_ids, targets):
        codes, target_codes, rows = super()._compared(completion_ids, targets)
        return codes[:, -len(self.codebook_sizes) :], target_codes, rows

    def format(self, completion_ids, **kwargs) -> list[float]:
        """`format_penalty`."""
        trace = np.array(completion_ids)[:, : -len(self.codebook_sizes)]
        return format_penalty(trace, self.codebook_sizes).tolist()

    def similarity(self, states, target_directions, **kwargs) -> list[float]:
        """`state_similarity`."""
        return state_similarity(np.array(states), np.array(target_directions)).tolist()

    def likelihood(self, with_trace, without_trace, **kwargs) -> list[float]:
        """`thinking_likelihood`."""
        return thinking_likelihood(np.array(with_trace), np.array(without_trace)).tolist()

    def thinking_rank(self, with_trace, negatives, **kwargs) -> list[float]:
        """`thinking_rank`."""
        return thinking_rank(np.array(with_trace), np.array(negatives)).tolist()
