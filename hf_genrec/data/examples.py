"""Training examples: prefixes of the training sequences, cut by index and never stored."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from torch.utils.data import Dataset

Targets = Literal["all", "last"]


def target_positions(sequences: Sequence[np.ndarray], targets: Targets) -> tuple[np.ndarray, np.ndarray]:
    """
    User and position in the user's sequence of every training target, two (n,) arrays in the order of the users.

    Raises:
        ValueError: if there is none, or `targets` is neither `"all"` nor `"last"`.
    """
    if targets not in ("all", "last"):
        raise ValueError(f"targets={targets!r}: use 'all' (every prefix) or 'last'.")
    sizes = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
    if not sizes.sum():
        raise ValueError("The training sequences are empty: check the filters and the split of the prepared data.")
    if targets == "last":
        users = np.flatnonzero(sizes)
        return users, sizes[users] - 1
    return np.repeat(np.arange(len(sizes)), sizes), np.arange(sizes.sum()) - np.repeat(sizes.cumsum() - sizes, sizes)


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
        lengths (`np.ndarray`): (examples,) number of history items of each example.
        num_targets (`int`): one per example.

    Raises:
        ValueError: if no target is left.
    """

    def __init__(self, sequences: Sequence[np.ndarray], targets: Targets = "all", max_history: int = 50):
        self.users, self.positions = target_positions(sequences, targets)
        self.sequences = sequences
        self.max_history = max_history
        self.lengths = np.minimum(self.positions, max_history)
        self.num_targets = len(self.users)

    def __len__(self) -> int:
        return len(self.users)

    def __getitem__(self, index: int) -> dict:
        """
        `history` (n,) int64 catalogue rows, oldest first; `target`, a catalogue row; and `target_numbers`, its place
        among [`target_positions`].
        """
        sequence, position = self.sequences[self.users[index]], self.positions[index]
        history = sequence[max(position - self.max_history, 0) : position]
        return {"history": history, "target": sequence[position], "target_numbers": index}
