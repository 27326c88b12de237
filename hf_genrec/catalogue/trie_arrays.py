"""The arrays that a trie is made of, and what is done with them at every step."""

from typing import NamedTuple

import numpy as np
import torch

LIMIT = 2**31  # all arrays are int32: they are what a catalogue of millions costs in memory and on disk
MAX_TABLE = 2**18  # entries of a level's table, 8 bytes each


class LevelTable(NamedTuple):
    """
    The children of a level's nodes by token, where most nodes go on with most tokens.

    Attributes:
        span (`slice`): from the first to the last token with which some node goes on; K in number.
        tokens: (K,) int32, the same.
        children: (nodes + 1, K) int32, 0 where there is no such child; the first line is that of the dead state -1.
        mask: (nodes + 1, K) float32, 0 where there is a child and -inf elsewhere.
    """

    span: slice
    tokens: torch.Tensor
    children: torch.Tensor
    mask: torch.Tensor

    @classmethod
    def of(cls, tokens: torch.Tensor, child_starts: torch.Tensor) -> "LevelTable | None":
        """The table of a level, or None where it would be large or less than half full."""
        if len(tokens) > MAX_TABLE:
            return None
        first, last = (int(token) for token in tokens.aminmax())
        width = last - first + 1
        if (len(child_starts) - 1) * width > min(MAX_TABLE, 2 * len(tokens)):
            return None
        parents = torch.repeat_interleave(child_starts.diff())
        places = (parents + 1, tokens - first)
        children = torch.zeros(len(child_starts), width, dtype=torch.int32)
        children[places] = torch.arange(len(tokens), dtype=torch.int32)
        mask = torch.full(children.shape, -torch.inf)
        mask[places] = 0.0
        span = torch.arange(width, dtype=torch.int32) + first
        return cls(slice(first, last + 1), span, children, mask)

    def to(self, device) -> "LevelTable":
        return LevelTable(self.span, *(array.to(device) for array in self[1:]))


def token_table(ids) -> np.ndarray:
    """Token ids as an array (items, L) of integers that fit int32; a ValueError says what is wrong with them."""
    ids = np.asarray(ids)
    if ids.ndim != 2 or ids.shape[0] == 0 or ids.shape[1] == 0:
        raise ValueError(
            f"The catalogue is empty: token ids of shape {ids.shape}, expected (items, codes), at least one of each."
        )
    if not np.issubdtype(ids.dtype, np.integer) or ids.min() < 0 or ids.max() >= LIMIT:
        raise ValueError("Token ids of items must be integers, 0 or more and below 2**31.")
    if len(ids) >= LIMIT:
        raise ValueError(f"The catalogue has {len(ids)} items, more than the trie's int32 arrays can number.")
    return ids


def row_numbers(rows, count: int) -> np.ndarray:
    rows = np.asarray(rows)
    if rows.shape != (count,) or rows.min() < 0 or rows.max() >= LIMIT:
        raise ValueError(f"Rows of shape {rows.shape} for {count} items: give one number from 0 to 2**31 - 1 per item.")
    return rows.astype(np.int32)


def packed_keys(ids: np.ndarray) -> list[np.ndarray]:
    """Keys (items,) that sort as the lines of `ids` do, the first one first: in each as many levels as fit 64 bits."""
    keys: list[np.ndarray] = []
    room = 0  # the numbers that a key can still tell apart
    for column in ids.T:
        low = column.min()
        span = int(column.max()) - int(low) + 1
        if span > room:
            keys.append(np.zeros(len(ids), dtype=np.uint64))
            room = 2**64
        keys[-1] *= np.uint64(span)
        keys[-1] += (column - low).astype(np.uint64)
        room //= span
    return keys


def take(array: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """`array[index]`, several times faster on the CPU, where indexing starts all threads even for a few elements."""
    return array.index_select(0, index.flatten()).view(index.shape)


def ended(starts: np.ndarray, end: int) -> torch.Tensor:
    """The starts of contiguous ranges with the end of the last one, int32."""
    return torch.from_numpy(np.append(starts, end).astype(np.int32))


def shifted(starts: np.ndarray, nodes: np.ndarray, more: np.ndarray) -> np.ndarray:
    """`child_starts` after `nodes` were given `more` children each (fewer, if negative)."""
    shift = np.zeros(len(starts), dtype=np.int32)
    shift[nodes + 1] = more
    return starts + np.cumsum(shift, dtype=np.int32)


def is_division(starts: torch.Tensor, parts: int, total: int) -> bool:
    """Whether `starts` divides `total` places into `parts` ranges that follow each other, none of them empty."""
    if starts.dtype != torch.int32 or starts.shape != (parts + 1,) or parts < 1:
        return False
    return bool(starts[0] == 0 and starts[-1] == total and (starts[1:] > starts[:-1]).all())


def require_items(
    items: torch.Tensor, starts: torch.Tensor, leaf_ids: torch.Tensor, token_ids: np.ndarray, popularity: np.ndarray
) -> None:
    """
    Whether the leaves of an index hold the items of a catalogue, in the order in which they are listed.

    Args:
        items: (items,) the rows, leaf after leaf.
        starts: (leaves + 1,) where each leaf's rows begin.
        leaf_ids: (leaves, L) the token ids of each leaf.
        token_ids: (N, L) those of each row.
        popularity: (N,) of each row.

    Raises:
        ValueError: if they are other items, other codes or another order.
    """
    rows, count = items.numpy(), len(token_ids)
    seen = np.zeros(count, dtype=bool)
    if len(rows) == count and rows.max() < count:
        seen[rows] = True
    if not seen.all():
        raise ValueError(f"it does not hold each of the {count} items of the catalogue once")
    leaf_of = np.repeat(np.arange(len(leaf_ids)), starts.diff().numpy())
    if leaf_ids.shape[1] != token_ids.shape[1] or (leaf_ids.numpy()[leaf_of] != token_ids[rows]).any():
        raise ValueError("its items have other codes than those of the catalogue")
    rank = popularity[rows].astype(np.float64)
    behind = (rank[1:] < rank[:-1]) | ((rank[1:] == rank[:-1]) & (rows[1:] > rows[:-1]))
    if not (behind | (leaf_of[1:] != leaf_of[:-1])).all():
        raise ValueError("items that share their codes stand in another order than that of their popularity")


def most_children(starts: torch.Tensor) -> int:
    return int(np.diff(starts.numpy()).max())


def first_of(width: int, device: torch.device) -> torch.Tensor:
    """Masks (width + 1, width) that overlap in memory: line `width - n` is 0 at its first n places, then -inf."""
    mask = torch.zeros(2 * width, device=device)
    mask[width:] = -torch.inf
    return mask.unfold(0, width, 1)


def gather_last(scores: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Of scores (..., V) those at `index` (..., K), any integers."""
    # From two dimensions, which takes the CPU three quarters of the time it needs for three.
    return scores.flatten(0, -2).gather(1, index.flatten(0, -2).long()).view(index.shape)
