"""Training rows of models that read items whole: a user's items once for all the targets among them."""

from collections.abc import Sequence

import numpy as np
from torch.utils.data import Dataset

from hf_genrec.data.examples import Targets, first_numbers, target_positions
from hf_genrec.data.flat_sequences import FlatSequences


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
        self.sequences = FlatSequences.of(sequences)
        sizes = self.sequences.lengths
        numbers = first_numbers(sizes, targets)
        self.num_targets = int(numbers[-1])
        if packing and targets == "all":
            self.users, self.starts, self.first_targets, self.ends = item_windows(sizes, max_history)
        else:
            users, positions = target_positions(self.sequences, targets)
            starts = np.maximum(positions - max_history, 0)
            self.users, self.starts, self.first_targets, self.ends = users, starts, positions, positions + 1
        self.first_numbers = numbers[self.users] + (self.first_targets if targets == "all" else 0)
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


def item_windows(sizes: np.ndarray, max_history: int) -> np.ndarray:
    """
    The windows of users with so many items each.

    Returns:
        (4, windows) int32: user, start, first target and end.
    """
    longest = max_history + 1
    before = longest // 2  # items that stand before the first target of a further window
    further = np.maximum(-(-(sizes - longest) // (longest - before)), 0)
    counts = (sizes > 0) + further
    users = np.repeat(np.arange(len(sizes)), counts)
    place = np.arange(len(users)) - np.repeat(np.cumsum(counts) - counts, counts)
    first = np.where(place > 0, longest + (place - 1) * (longest - before), 0)
    start = np.where(place > 0, first - before, 0)
    return np.stack([users, start, first, np.minimum(sizes[users], start + longest)]).astype(np.int32)
