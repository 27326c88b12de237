"""Packed rows: a user's history once, a block for every target whose prefix fits, and several users a row."""

from bisect import bisect_left, insort
from collections.abc import Sequence

import numpy as np
from torch.utils.data import Dataset

from .examples import Targets, target_positions


class PackedExamples(Dataset):
    """
    The targets of `NextItemExamples`, each with the same prefix, in rows of about `row_tokens` tokens.

    A *segment* is a run of a user's items with the place of its first target: every item from there on is a target
    after the items before it. The targets whose whole prefix has at most `max_history` items share one segment; each
    later one has a segment of its own, since its oldest history items are cut off, and within a shared row they would
    still have been read by the items it keeps.

    Which segments share a row depends on `seed` alone; rows never see each other, whatever their order.

    Args:
        sequences, targets, max_history: see `NextItemExamples`.
        num_levels: L, codes per item.
        row_tokens: the tokens (codes and answer tokens) of a row are at most these, unless one segment alone has more.

    Attributes:
        lengths (`np.ndarray`): (rows,) tokens of each row.
        num_targets (`int`): targets of all rows.

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
        users, positions = target_positions(sequences, targets)
        self.sequences = sequences
        self.num_targets = len(users)

        shared = positions <= max_history
        first_of_user = np.append(True, users[1:] != users[:-1]) & shared
        # A segment ends with its last target: the user's last shared one, or the later target itself.
        last_of_shared = shared & np.append((users[1:] != users[:-1]) | ~shared[1:], True)
        self.users = np.concatenate([users[first_of_user], users[~shared]])
        self.starts = np.concatenate([np.zeros(first_of_user.sum(), dtype=np.int64), positions[~shared] - max_history])
        self.first_targets = np.concatenate([positions[first_of_user], positions[~shared]])
        self.ends = np.concatenate([positions[last_of_shared], positions[~shared]]) + 1

        history_items = self.ends - self.starts - 1
        segment_tokens = history_items * num_levels + (self.ends - self.first_targets) * (num_levels + 1)
        self.rows = _fill_rows(segment_tokens, row_tokens, seed)
        self.lengths = np.array([segment_tokens[row].sum() for row in self.rows])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        """`segments`: a list of pairs of (n,) int64 catalogue rows, oldest first, and the place of the first target."""
        segments = []
        for i in self.rows[index]:
            items = self.sequences[self.users[i]][self.starts[i] : self.ends[i]]
            segments.append((items, int(self.first_targets[i] - self.starts[i])))
        return {"segments": segments}


def _fill_rows(sizes: np.ndarray, capacity: int, seed: int) -> list[list[int]]:
    """Segments by row, longest first, each into the fullest row that still has room for it (best fit decreasing)."""
    order = np.random.default_rng(seed).permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    rows: list[list[int]] = []
    with_room: dict[int, list[int]] = {}  # tokens left -> rows that have as many left
    rooms: list[int] = []  # keys of with_room, rising
    for segment in order.tolist():
        size = int(sizes[segment])
        place = bisect_left(rooms, size)
        if place == len(rooms):
            row, left = len(rows), capacity - size
            rows.append([segment])
        else:
            room = rooms[place]
            row, left = with_room[room].pop(), room - size
            rows[row].append(segment)
            if not with_room[room]:
                del with_room[room], rooms[place]
        if left > 0:
            if left not in with_room:
                insort(rooms, left)
            with_room.setdefault(left, []).append(row)
    return rows
