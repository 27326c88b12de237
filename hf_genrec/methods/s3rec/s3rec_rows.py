"""
What S3-Rec is trained on: prefixes with masks and segments, then the next items with negatives.

What is random is drawn from the seed, the epoch and the number of the row, each time a row is made. So a resumed
training draws what it would have drawn, and several processes draw what one would.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import TrainerCallback

from hf_genrec.data.flat_sequences import FlatSequences
from hf_genrec.data.sequence_rows import PackedSequences, SequenceCollator

PRETRAINING, FINE_TUNING = 1, 2  # of two stages of one seed, the draws differ


def draw_others(rng: np.random.Generator, had: np.ndarray, num_items: int, count: int) -> np.ndarray:
    """`count` catalogue rows, each uniform among those that are not in `had`, which must leave one."""
    had = np.unique(had)
    drawn = rng.integers(num_items - len(had), size=count)
    # The drawn-th of the others: as many rows of `had` lie before it as have fewer others below them.
    return drawn + np.searchsorted(had - np.arange(len(had)), drawn, side="right")


def require_others(sequences: FlatSequences, num_items: int, remedy: str) -> None:
    """
    Raises:
        ValueError: for a user who has had all items.
    """
    for user in np.flatnonzero(sequences.lengths >= num_items):
        if len(np.unique(sequences[int(user)])) == num_items:
            raise ValueError(f"User {user + 1} has had all {num_items} items, so that no negative is left: {remedy}")


class SetEpoch(TrainerCallback):
    """Tells rows that are drawn the epoch."""

    def __init__(self, rows: Any):
        self.rows = rows

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.rows.epoch = int(state.epoch or 0)


class PretrainingPrefixes(Dataset):
    """
    Prefixes of the training sequences, at most their newest `max_history` items, with what the four tasks ask.

    Args:
        sequences: per user the training items as catalogue rows, oldest first.
        num_items: N; MASK is N + 1.
        max_history: newest items of a prefix that are read.
        seed: of the draws.
        mask_probability: of every item but the last, which always is masked.
        prefixes: `"one"`: a user has a row, of a random prefix; `"all"`: each prefix has one.

    Attributes:
        epoch (`int`): of the draws.
        num_targets (`int`): rows of an epoch.

    Raises:
        ValueError: without an item, or for a user who has had all items.
    """

    labels_per_row = 1.0  # what a step's sums are divided by: its prefixes

    def __init__(
        self,
        sequences: Sequence[np.ndarray],
        num_items: int,
        max_history: int,
        seed: int,
        mask_probability: float = 0.2,
        prefixes: str = "one",
    ):
        self.sequences = FlatSequences.of(sequences)
        self.num_items, self.max_history, self.seed = num_items, max_history, seed
        self.mask_probability, self.prefixes, self.epoch = mask_probability, prefixes, 0
        require_others(self.sequences, num_items, "set pretrain_epochs: 0")
        sizes = self.sequences.lengths
        self.users = np.flatnonzero(sizes) if prefixes == "one" else np.repeat(np.arange(len(sizes)), sizes)
        if not len(self.users):
            raise ValueError("The training sequences are empty: check the filters and the split of the prepared data.")
        self.ends = (
            np.arange(len(self.users)) - np.repeat(np.cumsum(sizes) - sizes, sizes) + 1 if prefixes == "all" else None
        )
        self.num_targets = len(self.users)
        # Without the items between, which validation and test hold.
        self.all_items = np.concatenate([np.empty(0, dtype=np.int64), *self.sequences.chunks()]).astype(np.int64)

    def __len__(self) -> int:
        return len(self.users)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """(n,) each: see `S3RecForPretraining.forward`."""
        rng = np.random.default_rng([self.seed, PRETRAINING, self.epoch, index])
        sequence = self.sequences[int(self.users[index])]
        end = rng.integers(1, len(sequence) + 1) if self.ends is None else self.ends[index]
        items = sequence[max(end - self.max_history, 0) : end]
        mask, length = self.num_items + 1, len(items)
        is_masked = rng.random(length) < self.mask_probability
        is_masked[-1] = True
        row = {
            "items": items,
            "input_ids": np.where(is_masked, mask, items),
            "negatives": draw_others(rng, items, self.num_items, length),
        }
        if length == 1:  # there is nothing to take a segment from
            return row | dict.fromkeys(("masked_segment", "segment", "other_segment"), items)
        size = rng.integers(1, length // 2 + 1)
        start, other = rng.integers(length - size + 1), rng.integers(len(self.all_items) - size + 1)
        inside = slice(start, start + size)
        row["masked_segment"] = items.copy()
        row["segment"], row["other_segment"] = np.full(length, mask), np.full(length, mask)
        row["masked_segment"][inside] = mask
        row["segment"][inside] = items[inside]
        row["other_segment"][inside] = self.all_items[other : other + size]
        return row


class PretrainingCollator:
    """
    Batches of prefixes, as long as the longest, padded on the left.

    Args:
        pad: N, the item that fills up.
        attributes (*optional*): (N, A) boolean, those of the items.
    """

    def __init__(self, pad: int, attributes: np.ndarray | None = None):
        self.pad = pad
        self.attributes = attributes if attributes is not None and attributes.shape[1] else None

    def __call__(self, examples: Sequence[dict[str, np.ndarray]]) -> dict[str, torch.Tensor]:
        """The arguments of `S3RecForPretraining.forward`."""
        width = max(len(example["items"]) for example in examples)
        arrays: dict[str, np.ndarray] = {name: np.full((len(examples), width), self.pad) for name in examples[0]}
        for line, example in enumerate(examples):
            for name, row in example.items():
                arrays[name][line, width - len(row) :] = row
        arrays["item_places"] = np.flatnonzero(arrays["items"] != self.pad)
        if self.attributes is not None:
            arrays["attributes"] = self.attributes[arrays["items"].flatten()[arrays["item_places"]]].astype(np.float32)
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


class NextItemRows(PackedSequences):
    """
    [`PackedSequences`] with a negative for each target, uniform among the items that the user's training sequence does
    not have.

    Args:
        num_items: N.
        seed: of the draws.

    Raises:
        ValueError: as [`PackedSequences`], or for a user who has had all items.
    """

    def __init__(self, sequences: Sequence[np.ndarray], num_items: int, seed: int, **settings: Any):
        super().__init__(sequences, **settings)
        self.num_items, self.seed, self.epoch = num_items, seed, 0
        require_others(self.sequences, num_items, "set loss_type: softmax")

    def __getitem__(self, index: int) -> dict:
        row = super().__getitem__(index)
        rng = np.random.default_rng([self.seed, FINE_TUNING, self.epoch, index])
        count = len(row["items"]) - row["first_target"]
        return row | {"negatives": draw_others(rng, self.sequences[self.users[index]], self.num_items, count)}


class NextItemRowsCollator(SequenceCollator):
    """[`SequenceCollator`] of rows with negatives."""

    def __call__(self, examples: Sequence[dict]) -> dict:
        """Also `negatives` (n,), in the order of the targets."""
        negatives = np.concatenate([example["negatives"] for example in examples])
        return super().__call__(examples) | {"negatives": torch.from_numpy(negatives)}
