"""Training examples: prefixes of the training sequences, cut by index and never stored."""

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from torch.utils.data import Dataset

from hf_genrec.data.flat_sequences import CHUNK, FlatSequences

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


def target_parts(sizes: np.ndarray, targets: Targets) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """[`target_positions`] of so many users at a time: of sequences of these lengths, which must hold a target."""
    for first in range(0, len(sizes), CHUNK):
        part = sizes[first : first + CHUNK]
        numbers = _counted(part, targets)
        users, positions = _positions(part, targets, np.arange(numbers[-1]), numbers)
        yield users + first, positions


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
    sizes: np.ndarray, targets: Targets, places: np.ndarray, numbers: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """User and position of the targets at these places."""
    users = np.searchsorted(numbers, places, side="right") - 1
    return users, places - numbers[users] if targets == "all" else sizes[users] - 1


def shared_and_own(users: np.ndarray, positions: np.ndarray, max_history: int) -> tuple[np.ndarray, np.ndarray]:
    """
    Runs of a user's items in which every item from a first target on is predicted from the items before it.

    The targets of a user whose whole prefix has at most `max_history` items share one run. Each later one has its own,
    since its oldest history items are cut off: within a shared run the items it keeps would still have read them.

    Args:
        users, positions: targets, as `target_positions` gives them.

    Returns:
        the shared runs and those of one target, (4, n) each: user, first item, first target, end.
    """
    shared = positions <= max_history
    last_of_user = np.append(users[1:] != users[:-1], True)
    opens = shared & np.append(True, last_of_user[:-1])
    closes = shared & (last_of_user | ~np.append(shared[1:], True))
    starts = np.maximum(positions - max_history, 0)  # 0 where a run is shared
    runs = np.stack([users[opens], starts[opens], positions[opens], positions[closes] + 1])
    return runs, np.stack([users, starts, positions, positions + 1])[:, ~shared]


class NextItemExamples(Dataset):
    """
    One example per target: the items before it, at most the newest `max_history`, and the target itself.

    Args:
        sequences: per user the training items as catalogue rows, oldest first.
        targets: `"all"` makes every item a target (the first one after an empty history), `"last"` only the newest.
        max_history: newest items of the prefix that are read.

    Attributes:
        users, positions, lengths (`np.ndarray`): (examples,) user, position and number of history items of each
            example; made when they are asked for, they take more memory than the sequences.
        num_targets (`int`): one per example.

    Raises:
        ValueError: if no target is left.
    """

    def __init__(self, sequences: Sequence[np.ndarray], targets: Targets = "all", max_history: int = 50):
        self.sequences = FlatSequences.of(sequences)
        self.targets = targets
        self.max_history = max_history
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
        among [`target_positions`].
        """
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        user, position = _positions(self._sizes, self.targets, index % len(self), self._numbers)
        sequence = self.sequences[user]
        history = sequence[max(position - self.max_history, 0) : position]
        return {"history": history, "target": sequence[position], "target_numbers": index}
