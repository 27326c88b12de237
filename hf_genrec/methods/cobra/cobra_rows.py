"""Training rows of COBRA: a user's items once for all the targets among them."""

from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from hf_genrec.data.examples import Targets, target_positions
from hf_genrec.methods.cobra.processing_cobra import CobraProcessor


class CascadeRows(Dataset):
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
            windows = [(user, *window) for user, size in enumerate(sizes) for window in _windows(size, max_history)]
            self.users, self.starts, self.first_targets, self.ends = np.array(windows, dtype=np.int64).T
        else:
            starts = np.maximum(positions - max_history, 0)
            self.users, self.starts, self.first_targets, self.ends = users, starts, positions, positions + 1
        self.lengths = self.ends - self.starts
        self.labels_per_row = self.num_targets / len(self.users)

    def __len__(self) -> int:
        return len(self.users)

    def __getitem__(self, index: int) -> dict:
        """`items` (n,) int64 catalogue rows, oldest first, and the place of the first target among them."""
        items = self.sequences[self.users[index]][self.starts[index] : self.ends[index]]
        return {"items": items, "first_target": int(self.first_targets[index] - self.starts[index])}


def _windows(size: int, max_history: int) -> list[tuple[int, int, int]]:
    """Start, first target and end of the windows of a user with so many items."""
    found, first = [], 0
    while first < size:
        start = max(0, first - (max_history + 1) // 2) if first else 0
        end = min(size, start + max_history + 1)
        found.append((start, first, end))
        first = end
    return found


class CascadeCollator:
    """
    Batches of rows: the answer token, and of each item its codes and its vector's token, padded on the right.

    Args:
        processor: token ids of the catalogue.
    """

    def __init__(self, processor: CobraProcessor):
        self.processor = processor

    def __call__(self, examples: Sequence[dict]) -> dict:
        """
        Args:
            examples: dicts with `items` and `first_target`, see `CascadeRows`.

        Returns:
            `input_ids` and `labels` (B, T), labels -100 outside the targets.
        """
        width = self.processor.tokens_per_item
        shape = (len(examples), 1 + width * max(len(example["items"]) for example in examples))
        input_ids, labels = np.full(shape, self.processor.tokenizer.pad_token_id), np.full(shape, -100)
        input_ids[:, 0] = self.processor.answer_token_id
        for line, example in enumerate(examples):
            tokens, first = self.processor.item_tokens(example["items"]), width * example["first_target"]
            input_ids[line, 1 : 1 + len(tokens)] = tokens
            labels[line, 1 + first : 1 + len(tokens)] = tokens[first:]
        return {"input_ids": torch.from_numpy(input_ids), "labels": torch.from_numpy(labels)}
