"""Which codes can take one more item, and the nearest of them to an item."""

import heapq
import math
from collections import Counter
from collections.abc import Iterator
from itertools import combinations

import numpy as np

from hf_genrec.item_tokenizers.item_tokenizer import ItemTokenizer


def room_for(tokenizer: ItemTokenizer, capacity: int) -> "Room | SetRoom":
    """Room among the codes of a tokenizer, each for at most `capacity` items."""
    codebooks = [codebook.cpu().numpy() for codebook in tokenizer.codebooks]
    return Room(codebooks, capacity) if tokenizer.ordered else SetRoom(codebooks, capacity)


class Room:
    """Room among ordered codes: an item keeps as many of its first codes as it can."""

    def __init__(self, codebooks: list[np.ndarray], capacity: int):
        self.codebooks = codebooks
        self.capacity = capacity
        self.counts: dict[tuple[int, ...], np.ndarray] = {}  # prefix of L - 1 codes -> items per last code
        self.taken: Counter[tuple[int, ...]] = Counter()  # shorter prefix -> places taken below it
        sizes = [len(codebook) for codebook in codebooks]
        self.places = [capacity * math.prod(sizes[length:]) for length in range(len(sizes))]  # below a prefix

    def occupy(self, codes: np.ndarray) -> None:
        for *head, last in codes.tolist():
            prefix = tuple(head)
            counts = self._count(prefix)
            counts[last] += 1
            if counts[last] <= self.capacity:  # items of a catalogue may share more
                self.taken.update(prefix[:length] for length in range(len(prefix)))

    def place(self, codes: np.ndarray, latents: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """For each of `codes` (n, L) the nearest codes with room, which are then occupied.

        Prefixes first serve their own items: who must leave its prefix is placed after everyone who need not, and so on
        level by level.

        Args:
            latents: (n, d), what the codebooks quantize one after another.
            rows: (n,) numbers by which an error names the items.

        Raises:
            ValueError: an item finds no code with room, since there is none.
        """
        placed = np.empty_like(codes)
        waiting = []
        for index, (*head, _) in enumerate(codes.tolist()):
            residual = latents[index]
            for codebook, code in zip(self.codebooks, head, strict=False):
                residual = residual - codebook[code]
            waiting.append((index, tuple(head), residual))
        for length in range(len(self.codebooks) - 1, -1, -1):  # codes that are kept
            leaving = []
            for index, prefix, residual in waiting:
                found = self.nearest(prefix, residual)
                if found is not None:
                    placed[index] = found
                    self.occupy(placed[index : index + 1])
                elif length:
                    leaving.append((index, prefix[:-1], residual + self.codebooks[length - 1][prefix[-1]]))
                else:
                    raise _no_room(rows[index], codes[index])
            waiting = leaving
        return placed

    def nearest(self, prefix: tuple[int, ...], residual: np.ndarray) -> tuple[int, ...] | None:
        """The code below `prefix` with room that is reached by taking, level by level, the nearest centroid to what is
        left of `residual` below which there is room; None when all are full."""
        codebook = self.codebooks[len(prefix)]
        if len(prefix) == len(self.codebooks) - 1:
            free = np.flatnonzero(self._count(prefix) < self.capacity)
            return (*prefix, int(free[_squared_distances(codebook[free], residual).argmin()])) if len(free) else None
        if self.taken[prefix] == self.places[len(prefix)]:
            return None
        for code in _squared_distances(codebook, residual).argsort(kind="stable").tolist():
            found = self.nearest((*prefix, code), residual - codebook[code])
            if found is not None:
                return found
        return None

    def _count(self, prefix: tuple[int, ...]) -> np.ndarray:
        return self.counts.setdefault(prefix, np.zeros(len(self.codebooks[-1]), dtype=np.int64))


class SetRoom:
    """Room among unordered codes: an item changes as few of its codes as it can, and those for the nearest ones."""

    def __init__(self, codebooks: list[np.ndarray], capacity: int):
        self.codebooks = codebooks
        self.capacity = capacity
        self.counts: Counter[tuple[int, ...]] = Counter()

    def occupy(self, codes: np.ndarray) -> None:
        self.counts.update(map(tuple, codes.tolist()))

    def place(self, codes: np.ndarray, latents: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """For each of `codes` (n, L), in turn, the nearest ones with room, which are then occupied.

        Args:
            latents: (n, L, d), what each codebook quantizes.
            rows: (n,) numbers by which an error names the items.

        Raises:
            ValueError: an item finds no codes with room.
        """
        placed = np.empty_like(codes)
        for index, own in enumerate(codes.tolist()):
            candidates = self._by_distance(tuple(own), latents[index])
            found = next((candidate for candidate in candidates if self.counts[candidate] < self.capacity), None)
            if found is None:
                raise _no_room(rows[index], codes[index])
            placed[index] = found
            self.occupy(placed[index : index + 1])
        return placed

    def _by_distance(self, codes: tuple[int, ...], latents: np.ndarray) -> Iterator[tuple[int, ...]]:
        """All code sets: `codes`, then those that differ in one codebook, in two, and so on; among equally many the
        smallest sum of added squared distances first, then the lowest codebooks, then their nearest codes."""
        yield codes
        others, added = [], []  # per codebook: its other codes, nearest first, and what each adds to the distance
        for codebook, code, latent in zip(self.codebooks, codes, latents, strict=True):
            distances = _squared_distances(codebook, latent)
            order = distances.argsort(kind="stable")
            order = order[order != code]
            others.append(order.tolist())
            added.append((distances[order] - distances[code]).tolist())
        changeable = [number for number, codes_left in enumerate(others) if codes_left]
        for changes in range(1, len(changeable) + 1):
            first = (0,) * changes
            heap = [
                (sum(added[number][0] for number in numbers), numbers, first)
                for numbers in combinations(changeable, changes)
            ]
            heapq.heapify(heap)
            while heap:
                _, numbers, ranks = heapq.heappop(heap)
                candidate = list(codes)
                for number, rank in zip(numbers, ranks, strict=True):
                    candidate[number] = others[number][rank]
                yield tuple(candidate)
                # Each combination of ranks has one parent, the one with its first rank above 0 lowered by 1
                for place, number in enumerate(numbers):
                    if ranks[place] + 1 < len(others[number]):
                        further = (*ranks[:place], ranks[place] + 1, *ranks[place + 1 :])
                        distance = sum(added[n][rank] for n, rank in zip(numbers, further, strict=True))
                        heapq.heappush(heap, (distance, numbers, further))
                    if ranks[place]:
                        break


def _squared_distances(centroids: np.ndarray, residual: np.ndarray) -> np.ndarray:
    return np.square(centroids - residual, dtype=np.float64).sum(axis=1)


def _no_room(row: int, codes: np.ndarray) -> ValueError:
    return ValueError(
        f"item row {row} with codes {codes.tolist()} finds no free code, there are more items than codes; "
        "set collisions: extra_code, or enlarge codebook_sizes"
    )
