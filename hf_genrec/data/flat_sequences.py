"""Sequences of all users in one array, and the users' ids as Arrow text: a few bytes an interaction, read as lists."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np
import pyarrow as pa

CHUNK = 2**16  # users whose items are gathered at once


class FlatSequences(Sequence[np.ndarray]):
    """
    A list of sequences of item indices, whose parts share one array. An element is an int64 array of its own.

    Args:
        values: (interactions,) item indices, int32 or int64.
        starts, ends: (sequences,) where each begins in `values`, and the place behind its last item; int32, or int64
            for more values than that can count.

    Example:

    ```python
    >>> sequences = FlatSequences.of([[3, 1], [], [2]])
    >>> sequences[0], sequences.lengths, sequences[[2, 0]].values is sequences.values
    (array([3, 1]), array([2, 0, 1]), True)
    ```
    """

    def __init__(self, values: np.ndarray, starts: np.ndarray, ends: np.ndarray):
        self.values, self.starts, self.ends = values, starts, ends

    @classmethod
    def of(cls, sequences: "Sequence[Any] | FlatSequences") -> "FlatSequences":
        """Any list of sequences of whole numbers."""
        if isinstance(sequences, FlatSequences):
            return sequences
        lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
        values = np.concatenate([np.empty(0, dtype=np.int64), *sequences]).astype(np.int64, copy=False)
        return cls.from_lengths(values, lengths)

    @classmethod
    def from_lengths(cls, values: np.ndarray, lengths: np.ndarray) -> "FlatSequences":
        """Sequences that stand one behind the other, of these (sequences,) lengths."""
        ends = np.append(0, np.cumsum(lengths, dtype=np.int64))
        ends = ends.astype(np.int32) if len(values) < 2**31 else ends
        return cls(values, ends[:-1], ends[1:])

    @property
    def lengths(self) -> np.ndarray:
        """(sequences,) int64"""
        return np.subtract(self.ends, self.starts, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.starts)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice | list[int] | np.ndarray) -> "FlatSequences": ...
    def __getitem__(self, index: Any) -> Any:
        """An int64 array; of a slice, or an array of places, their sequences."""
        if isinstance(index, slice | list | np.ndarray):
            return FlatSequences(self.values, self.starts[index], self.ends[index])
        return self.values[self.starts[index] : self.ends[index]].astype(np.int64)

    def __iter__(self) -> Iterator[np.ndarray]:
        for start, end in zip(self.starts.tolist(), self.ends.tolist(), strict=True):
            yield self.values[start:end].astype(np.int64)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(map(np.array_equal, self, other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"FlatSequences({len(self)} sequences of {int(self.lengths.sum())} items)"

    def head(self, left_out: np.ndarray) -> "FlatSequences":
        """The sequences without as many of their last items, (sequences,)."""
        return FlatSequences(self.values, self.starts, (self.ends - left_out).astype(self.ends.dtype))

    def tail(self, kept: np.ndarray) -> "FlatSequences":
        """As many of the last items of each sequence, (sequences,)."""
        return FlatSequences(self.values, (self.ends - kept).astype(self.ends.dtype), self.ends)

    def renumbered(self, rows: np.ndarray) -> "FlatSequences":
        """The sequences of `rows[item]`; whatever stands between them is renumbered, too."""
        return FlatSequences(rows[self.values], self.starts, self.ends)

    def chunks(self, size: int = CHUNK) -> Iterator[np.ndarray]:
        """The items of all sequences, one behind the other, `size` sequences at a time."""
        for first in range(0, len(self), size):
            starts, lengths = self.starts[first : first + size], self.lengths[first : first + size]
            ends = self.ends[first : first + size]
            if len(starts) and (starts[1:] == ends[:-1]).all():
                yield self.values[starts[0] : ends[-1]]
                continue
            before = np.cumsum(lengths) - lengths
            yield self.values[np.repeat(starts - before, lengths) + np.arange(lengths.sum())]

    def counts(self, num_items: int) -> np.ndarray:
        """(num_items,) int64, how often each item is there."""
        found = np.zeros(num_items, dtype=np.int64)
        for items in self.chunks(2**12):
            found += np.bincount(items, minlength=num_items)
        return found


class Ids(Sequence[str]):
    """Ids as an Arrow column; equal to a list of the same ids."""

    def __init__(self, column: pa.Array):
        self.column = column

    @classmethod
    def of(cls, ids: "Iterable[str] | pa.Array | pa.ChunkedArray | Ids") -> "Ids":
        if isinstance(ids, Ids):
            return ids
        if isinstance(ids, pa.ChunkedArray):
            ids = ids.combine_chunks()
        return cls(ids if isinstance(ids, pa.Array) else pa.array(list(ids), pa.string()))

    def __len__(self) -> int:
        return len(self.column)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> "list[str]": ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.column[index].to_pylist()
        return self.column[int(index)].as_py()

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self.column), CHUNK):
            yield from self.column.slice(start, CHUNK).to_pylist()

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Ids):
            return self.column.equals(other.column)
        return len(self) == len(other) and all(map(str.__eq__, self, other)) if isinstance(other, list) else False

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Ids({len(self)}: {', '.join(self[:3])}{', ...' if len(self) > 3 else ''})"

    def take(self, places: np.ndarray) -> "Ids":
        """The ids at these places."""
        return Ids(self.column.take(pa.array(places)))
