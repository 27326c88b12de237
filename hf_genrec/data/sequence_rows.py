"""Training rows of recommenders that read items: a user's history once for all its targets, or a row per target."""

from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from hf_genrec.data.examples import Targets, first_numbers, target_positions, target_runs
from hf_genrec.data.flat_sequences import FlatSequences
from hf_genrec.data.windows import item_windows


class PackedSequences(Dataset):
    """
    Rows of a history and its targets. A target needs at least one item before it, so a user's first item is none.

    A row is one of the runs of `target_runs`, one of `item_windows`, or holds a single target.

    Args:
        sequences: per user the training items as catalogue rows, oldest first.
        targets: `"all"` makes every item but a user's first a target, `"last"` only the newest.
        max_history: newest items of the prefix that are read.
        packing: share rows; otherwise every target has its own.
        windows: share rows behind the newest `max_history` items, too: their targets see half as many or more.

    Attributes:
        lengths (`np.ndarray`): (rows,) history items of each row.
        num_targets (`int`): targets of all rows.
        labels_per_row (`float`): targets of a row on average.

    Raises:
        ValueError: if no target is left.
    """

    def __init__(
        self,
        sequences: Sequence[np.ndarray],
        targets: Targets = "all",
        max_history: int = 50,
        packing: bool = True,
        windows: bool = False,
    ):
        self.sequences = FlatSequences.of(sequences)
        sizes = self.sequences.lengths
        first_numbers(sizes, targets)
        if sizes.max() < 2:
            raise ValueError(
                "No user has two training items, so no target has a history: check the filters and the split of the "
                "prepared data."
            )
        self.num_targets = int(np.maximum(sizes - 1, 0).sum() if targets == "all" else (sizes > 1).sum())

        if windows:
            runs = item_windows(sizes, max_history)
            runs[2] = np.maximum(runs[2], 1)
            runs = runs[:, runs[3] > 1]
        elif packing:
            runs, _ = target_runs(sizes, targets, max_history, first=1)
        else:
            users, positions = target_positions(self.sequences, targets)
            users, positions = users[positions > 0], positions[positions > 0]
            runs = np.stack([users, np.maximum(positions - max_history, 0), positions, positions + 1])
        self.users, self.starts, self.first_targets, self.ends = runs
        self.lengths = self.ends - self.starts - 1
        self.labels_per_row = self.num_targets / len(self.users)

    def __len__(self) -> int:
        return len(self.users)

    def __getitem__(self, index: int) -> dict:
        """`items` (n,) int64 catalogue rows, oldest first, and the place of the first target among them."""
        items = self.sequences[self.users[index]][self.starts[index] : self.ends[index]]
        return {"items": items, "first_target": int(self.first_targets[index] - self.starts[index])}


class SequenceCollator:
    """
    Batches of rows, as long as the longest history among them.

    Args:
        pad: N, the item that fills up.
        packed: rows may hold several targets. Otherwise each has one, and the labels are those of whole rows.
    """

    def __init__(self, pad: int, packed: bool):
        self.pad = pad
        self.packed = packed

    def __call__(self, examples: Sequence[dict]) -> dict:
        """
        Args:
            examples: dicts with `items` and `first_target`, see `PackedSequences`.

        Returns:
            `input_ids` (B, T), padded on the right; and `sequence_labels` (B, T), at position t the target after items
            0..t, -100 where there is none, with `target_places` (n,) and `most_targets`, where and how many they are;
            or unpacked `labels` (B,).
        """
        shape = (len(examples), max(len(example["items"]) for example in examples) - 1)
        input_ids, labels = np.full(shape, self.pad), np.full(shape, -100)
        for line, example in enumerate(examples):
            items, first_target = example["items"], example["first_target"]
            input_ids[line, : len(items) - 1] = items[:-1]
            labels[line, first_target - 1 : len(items) - 1] = items[first_target:]
        if self.packed:
            places = np.flatnonzero(labels != -100)
            arrays = {"input_ids": input_ids, "sequence_labels": labels, "target_places": places}
            most = max(len(example["items"]) - example["first_target"] for example in examples)
            return {name: torch.from_numpy(array) for name, array in arrays.items()} | {"most_targets": most}
        last = torch.tensor([int(example["items"][-1]) for example in examples])
        return {"input_ids": torch.from_numpy(input_ids), "labels": last}
