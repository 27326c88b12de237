"""Packed rows: a user's history once, a block for every target whose prefix fits, and several users a row."""

from array import array
from bisect import bisect_left, insort
from collections.abc import Sequence

import numpy as np
from torch.utils.data import Dataset

from hf_genrec.data.examples import Targets, first_numbers, target_runs
from hf_genrec.data.flat_sequences import CHUNK, FlatSequences


class PackedExamples(Dataset):
    """
    The targets of `NextItemExamples`, each with the same prefix, in rows of about `row_tokens` tokens.

    Rows are filled with *segments*, the runs of `target_runs`; a shared one that does not fit into a row is cut into
    as few as do.

    Which segments share a row depends on `seed` alone; rows never see each other, whatever their order.

    Args:
        sequences, targets, max_history: see `NextItemExamples`.
        num_levels: L, codes per item.
        row_tokens: the most tokens (codes and answer tokens) of a row; rows that hold a single target may need more.

    Attributes:
        num_targets (`int`): targets of all rows.
        tokens (`np.ndarray`): (rows,) tokens of each row.
        lengths (`np.ndarray`): (rows,) how many of them are history. Rows of a batch should have about as many: a model
            keeps history and blocks apart, and the one row's long history would be padding in the others.
        labels_per_row (`float`): labelled codes of a row on average.

    Raises:
        ValueError: if no target is left.
    """

    def __init__(
        self,
        sequences: Sequence[np.ndarray],
        targets: Targets,
        max_history: int,
        num_levels: int,
        row_tokens: int,
        seed: int = 0,
    ):
        self.sequences = FlatSequences.of(sequences)
        sizes = self.sequences.lengths
        numbers = first_numbers(sizes, targets)
        self.num_targets = int(numbers[-1])

        runs, num_shared = target_runs(sizes, targets, max_history)
        cut = _cut(runs[:, :num_shared], num_levels, row_tokens)
        each_fits = cut.shape[1] == num_shared
        segments = runs if each_fits else np.concatenate([cut, runs[:, num_shared:]], axis=1)
        del runs, cut
        self.users, self.starts, self.first_targets, self.ends = segments
        # A user's targets follow each other, and so do those of a segment.
        self.numbers, self.offset = numbers, 1 if targets == "all" else 0
        tokens = _tokens(segments, num_levels)
        history = (self.ends - self.starts - 1) * num_levels
        self.rows = _fill_rows(tokens, row_tokens, seed)
        first_of_row = self.rows.starts
        self.tokens = np.add.reduceat(tokens[self.rows.values], first_of_row, dtype=np.int32)
        self.lengths = np.add.reduceat(history[self.rows.values], first_of_row, dtype=np.int32)
        self.labels_per_row = self.num_targets * num_levels / len(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        """
        `segments`: a list of pairs of (n,) int64 catalogue rows, oldest first, and the place of the first target;
        `target_numbers`: (targets,) their places among `target_positions`.
        """
        segments, numbers = [], []
        for i in self.rows[index]:
            items = self.sequences[self.users[i]][self.starts[i] : self.ends[i]]
            segments.append((items, int(self.first_targets[i] - self.starts[i])))
            first = self.numbers[self.users[i]] + self.offset * self.first_targets[i]
            numbers.append(first + np.arange(self.ends[i] - self.first_targets[i]))
        return {"segments": segments, "target_numbers": np.concatenate(numbers)}


def _tokens(segments: np.ndarray, num_levels: int) -> np.ndarray:
    """Tokens of each segment: its items but the last as history, and a block per target."""
    _, start, first_target, end = segments
    return (end - start - 1) * num_levels + (end - first_target) * (num_levels + 1)


def _cut(segments: np.ndarray, num_levels: int, row_tokens: int) -> np.ndarray:
    """Segments of at most `row_tokens` tokens, if they have more than one target: what is cut off begins a new one."""
    done = [segments[:, :0]]
    while segments.size:
        user, start, first_target, end = segments
        # The largest end with (end - start - 1) L + (end - first_target) (L + 1) <= row_tokens.
        room = row_tokens + (start + 1) * num_levels + first_target * (num_levels + 1)
        cut = np.minimum(end, np.maximum(room // (2 * num_levels + 1), first_target + 1))
        done.append(np.stack([user, start, first_target, cut]))
        segments = np.stack([user, start, cut, end])[:, cut < end]
    return np.concatenate(done, axis=1)


def _fill_rows(sizes: np.ndarray, capacity: int, seed: int) -> FlatSequences:
    """Segments by row, longest first, each into the fullest row that still has room for it (best fit decreasing)."""
    order = np.random.default_rng(seed).permutation(len(sizes))
    order = order.astype(np.int32)
    order = order[np.argsort(-sizes[order], kind="stable")]
    row_of = np.empty(len(order), dtype=np.int32)  # in the order in which they are filled in
    num_rows = 0
    with_room: dict[int, array[int]] = {}  # tokens left -> rows that have as many left
    rooms: list[int] = []  # keys of with_room, rising
    for first in range(0, len(order), CHUNK):
        rows = []
        for size in sizes[order[first : first + CHUNK]].tolist():
            place = bisect_left(rooms, size)
            if place == len(rooms):
                row, left = num_rows, capacity - size
                num_rows += 1
            else:
                room = rooms[place]
                row, left = with_room[room].pop(), room - size
                if not with_room[room]:
                    del with_room[room], rooms[place]
            rows.append(row)
            if left > 0:
                if left not in with_room:
                    insort(rooms, left)
                    with_room[left] = array("i")
                with_room[left].append(row)
        row_of[first : first + CHUNK] = rows
    by_row = order[np.argsort(row_of, kind="stable")]
    return FlatSequences.from_lengths(by_row, np.bincount(row_of, minlength=num_rows))
