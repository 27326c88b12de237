"""Training rows of models that read items whole: a user's items once for all the targets among them."""

from collections.abc import Sequence

import numpy as np
from torch.utils.data import Dataset

from hf_genrec.data.examples import Targets, target_positions


class ItemWindows(Dataset):
    """
    Windows of a user's items, of at most `max_history` + 1 items. Whatever stands in a window is predicted from what
    stands before it there.

    The first window of a user begins with the first item. Each further one begins with the items before its first
    target, half as many as are read at most: so its targets see half a history to a whole one, and a user of many items
    is not read anew for each of them.

    Args:
        sequences: per user the training items as catalogue rows, oldest first.
        targets: `"all"` makes every item a target (the first one after an empty history), `"last"` only the newest.
        max_history: newest items of the prefix that are read.
        packing: share windows; otherwise every target has its own, with all that is read at most before it.

    Attributes:
        lengths (`np.ndarray`): (rows,) items of each row.
        num_targets (`int`): targets of all rows.
        labels_per_row (`float`): targets of a row on average.

    Raises:
        ValueError: if no target is left.
    """

    def __init__(
        self, sequences: Sequence[np.ndarray], targets: Targets = "all", max_history: int = 50, packing: bool = True
    ):
        users, positions = target_positions(sequences, targets)
        self.sequences = sequences
        self.num_targets = len(users)
        if packing and targets == "all":
            sizes = [len(sequence) for sequence in sequences]
            windows = [(user, *window) for user, size in enumerate(sizes) for window in item_windows(size, max_history)]
            self.users, self.starts, self.first_targets, self.ends = np.array(windows, dtype=np.int64).T
        else:
            starts = np.maximum(positions - max_history, 0)
            self.users, self.starts, self.first_targets, self.ends = users, starts, positions, positions + 1
        first_of_user = np.searchsorted(users, self.users)
        self.first_numbers = first_of_user + self.first_targets - positions[first_of_user]
        self.lengths = self.ends - self.starts
        self.labels_per_row = self.num_targets / len(self.users)

    def __len__(self) -> int:
        return len(self.users)

    def __getitem__(self, index: int) -> dict:
        """
        `items` (n,) int64 catalogue rows, oldest first; the place of the first target among them; and `target_numbers`,
        (targets,) their places among [`target_positions`].
        """
        first, end = self.first_targets[index], self.ends[index]
        items = self.sequences[self.users[index]][self.starts[index] : end]
        numbers = self.first_numbers[index] + np.arange(end - first)
        return {"items": items, "first_target": int(first - self.starts[index]), "target_numbers": numbers}


def item_windows(size: int, max_history: int) -> list[tuple[int, int, int]]:
    """Start, first target and end of the windows of a user with so many items."""
    found, first = [], 0
    while first < size:
        start = max(0, first - (max_history + 1) // 2) if first else 0
        end = min(size, start + max_history + 1)
        found.append((start, first, end))
        first = end
    return found
