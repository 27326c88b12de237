"""Training examples: prefixes of the training sequences, cut by index and never stored."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from torch.utils.data import Dataset

from hf_genrec.data.flat_sequences import FlatSequences

Targets = Literal["all", "last"]


def target_positions(sequences: Sequence[np.ndarray], targets: Targets) -> tuple[np.ndarray, np.ndarray]:
    """
    User and position in the user's sequence of every training target, two (n,) arrays in the order of the users.

    Raises:
        ValueError: if there is none, or `targets` is neither `"all"` nor `"last"`.
    """
    sizes = FlatSequences.of(sequences).lengths
    numbers = first_numbers(sizes, targets)
    return _positions(sizes, targets, np.arange(numbers[-1]), numbers)


def first_numbers(sizes: np.ndarray, targets: Targets) -> np.ndarray:
    """
    (users + 1,) the place of each user's first target among [`target_positions`], and behind them how many there are.

    Args:
        sizes: (users,) lengths of the sequences.

    Raises:
        ValueError: as [`target_positions`].
    """
    if targets not in ("all", "last"):
        raise ValueError(f"targets={targets!r}: use 'all' (every prefix) or 'last'.")
    if not sizes.sum():
        raise ValueError("The training sequences are empty: check the filters and the split of the prepared data.")
    return _counted(sizes, targets)


def _counted(sizes: np.ndarray, targets: Targets) -> np.ndarray:
    return np.append(0, np.cumsum(sizes if targets == "all" else sizes > 0))


def _positions(
    sizes: np.ndarray, targets: Targets, places: np.ndarray | int, numbers: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """User and position of the targets at these places."""
    users = np.searchsorted(numbers, places, side="right") - 1
    return users, places - numbers[users] if targets == "all" else sizes[users] - 1


def target_runs(sizes: np.ndarray, targets: Targets, max_history: int, first: int = 0) -> tuple[np.ndarray, int]:
    """
    Runs of a user's items in which every item from a first target on is predicted from the items before it.

    The targets of a user whose whole prefix has at most `max_history` items share one run. Each later one has its own,
    since its oldest history items are cut off: within a shared run the items it keeps would still have read them.

    Args:
        sizes: (users,) lengths of the sequences.
        targets: `"all"` or `"last"`, see [`target_positions`].
        first: position of a user's first item that is a target.

    Returns:
        (4, n) int32: user, first item, first target and end, the shared runs first, each in the order of the users; and
        how many are shared.
    """
    users = np.flatnonzero(sizes > first).astype(np.int32)
    ends: np.ndarray = sizes[users].astype(np.int32 if sizes.sum() < 2**31 else np.int64)
    if targets == "last":
        order = np.argsort(ends - 1 > max_history, kind="stable")
        users, ends = users[order], ends[order]
        runs = np.stack([users, np.maximum(ends - 1 - max_history, 0), ends - 1, ends])
        return runs, int((ends - 1 <= max_history).sum())
    own = np.maximum(ends - (max_history + 1), 0)
    own_before, num_shared = np.cumsum(own, dtype=own.dtype) - own, len(users)
    runs = np.empty((4, num_shared + own.sum()), dtype=np.int32)
    runs[0, :num_shared], runs[0, num_shared:] = users, np.repeat(users, own)
    runs[1, :num_shared], runs[2, :num_shared] = 0, first
    runs[3, :num_shared] = np.minimum(ends, max_history + 1)
    runs[1, num_shared:] = np.arange(1, own.sum() + 1, dtype=np.int32)
    runs[1, num_shared:] -= np.repeat(own_before, own)
    runs[2, num_shared:] = runs[1, num_shared:] + np.int32(max_history)
    runs[3, num_shared:] = runs[2, num_shared:] + np.int32(1)
    return runs, num_shared


class NextItemExamples(Dataset):
    """
    One example per target: the items before it, at most the newest `max_history`, and the target itself.

    Args:
        sequences: per user the training items as catalogue rows, oldest first.
        targets: `"all"` makes every item a target (the first one after an empty history), `"last"` only the newest.
        max_history: newest items of the prefix that are read.
        horizon: how many items from the target on an example has, where the sequence has as many.

    Attributes:
        users, positions, lengths (`np.ndarray`): (examples,) user, position and number of history items of each
            example; made when they are asked for, they take more memory than the sequences.
        num_targets (`int`): one per example.

    Raises:
        ValueError: if no target is left.
    """

    def __init__(
        self, sequences: Sequence[np.ndarray], targets: Targets = "all", max_history: int = 50, horizon: int = 1
    ):
        self.sequences = FlatSequences.of(sequences)
        self.targets = targets
        self.max_history = max_history
        self.horizon = horizon
        self._sizes = self.sequences.lengths
        self._numbers = first_numbers(self._sizes, targets)
        self.num_targets = int(self._numbers[-1])

    @property
    def users(self) -> np.ndarray:
        return target_positions(self.sequences, self.targets)[0]

    @property
    def positions(self) -> np.ndarray:
        return target_positions(self.sequences, self.targets)[1]

    @property
    def lengths(self) -> np.ndarray:
        return np.minimum(self.positions, self.max_history)

    def __len__(self) -> int:
        return self.num_targets

    def __getitem__(self, index: int) -> dict:
        """
        `history` (n,) int64 catalogue rows, oldest first; `target`, a catalogue row; and `target_numbers`, its place
        among [`target_positions`]. With a `horizon` above 1 also `targets` (1 to horizon,), the target and what
        follows.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        user, position = _positions(self._sizes, self.targets, index % len(self), self._numbers)
        sequence = self.sequences[user]
        history = sequence[max(position - self.max_history, 0) : position]
        example = {"history": history, "target": sequence[position], "target_numbers": index}
        if self.horizon > 1:
            example["targets"] = sequence[position : position + self.horizon]
        return example
