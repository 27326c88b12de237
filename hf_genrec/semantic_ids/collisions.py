"""Items that share their codes: counting them, and telling them apart."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from hf_genrec.models.modeling_residual_kmeans import ResidualKMeansTokenizer

from .ids import SemanticIds


def count_collisions(codes: np.ndarray) -> dict[str, int]:
    """How many items share their codes with another item.

    Example: codes [[0, 1], [0, 1], [0, 1], [2, 2]] -> {"items": 3, "groups": 1, "largest_group": 3, "unique": 2}
    """
    _, counts = np.unique(codes, axis=0, return_counts=True)
    shared = counts[counts > 1]
    return {
        "items": int(shared.sum()),
        "groups": len(shared),
        "largest_group": int(counts.max(initial=0)),
        "unique": len(counts),
    }


def settle_collisions(
    codes: np.ndarray, vectors: np.ndarray, tokenizer: ResidualKMeansTokenizer, policy: str
) -> tuple[np.ndarray, list[int], dict[str, Any]]:
    """Apply a collision policy (resolve, extra_code or keep) to the codes of a whole catalogue.

    Args:
        codes: (N, L), what the tokenizer gave.
        vectors: (N, D), what it quantized.

    Returns:
        (codes (N, L), or (N, L + 1) with extra_code; the codebook sizes of these levels; a report with the collisions
        before and after)
    """
    sizes = list(tokenizer.config.codebook_sizes)
    report: dict[str, Any] = {"policy": policy, "before": count_collisions(codes)}
    if policy == "resolve":
        settled = resolve(codes, vectors, tokenizer)
        report["moved"] = int((settled != codes).any(axis=1).sum())
        report["moved_above_last_level"] = int((settled[:, :-1] != codes[:, :-1]).any(axis=1).sum())
    elif policy == "extra_code":
        settled = extra_code(codes)
        sizes.append(report["before"]["largest_group"])
    elif policy == "keep":
        settled = codes
    else:
        raise ValueError(f"collisions must be resolve, extra_code or keep, not {policy!r}")
    report["after"] = count_collisions(settled)
    return settled, sizes, report


def resolve(codes: np.ndarray, vectors: np.ndarray, tokenizer: ResidualKMeansTokenizer) -> np.ndarray:
    """Give every item codes of its own.

    Of each colliding group the item closest to its centroid stays. The others, in the order of the rows, move to the
    free last-level code that is nearest to their residual; those whose prefix has none left then take the nearest other
    code of the level above below which one is free.

    Returns:
        (N, L) int64, unique rows

    Raises:
        ValueError: an item finds no free code in this way.
    """
    _, group = np.unique(codes, axis=0, return_inverse=True)
    error = np.square(vectors - tokenizer.decode(codes).cpu().numpy()).sum(axis=1)
    order = np.lexsort((np.arange(len(codes)), error, group))
    stays = np.zeros(len(codes), dtype=bool)
    stays[order[np.unique(group[order], return_index=True)[1]]] = True

    room = Room(tokenizer, capacity=1)
    room.occupy(codes[stays])
    return _place(codes, vectors, np.flatnonzero(~stays), room)


def extra_code(codes: np.ndarray) -> np.ndarray:
    """Append a level that counts 0, 1, 2, ... within each group of items with the same codes (TIGER, section 3.1).

    Returns:
        (N, L + 1) int64; the new level has as many codes as the largest group has items
    """
    _, group = np.unique(codes, axis=0, return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.unique(group[order], return_index=True)[1]
    number = np.empty(len(codes), dtype=np.int64)
    number[order] = np.arange(len(codes)) - starts[group[order]]
    return np.column_stack([codes, number])


def place_new_items(
    codes: np.ndarray, vectors: np.ndarray, tokenizer: ResidualKMeansTokenizer, catalogue: SemanticIds
) -> np.ndarray:
    """Codes for new items of a catalogue whose codes stay as they are.

    resolve: a taken code is replaced by the nearest free one. extra_code: the smallest free number in the item's group;
    a full group (the extra level cannot grow without retraining) sends the item to the nearest group with room. keep:
    the codes as they are.

    Args:
        codes: (M, L), what the tokenizer gave the new items.
        vectors: (M, D), what it quantized.
        catalogue: the codes already given; its report says by which policy.

    Returns:
        (M, L), or (M, L + 1) with extra_code

    Raises:
        ValueError: the catalogue's codes are not of this tokenizer, or an item finds no free code.
    """
    policy = catalogue.report.get("collisions", {}).get("policy")
    sizes, levels = list(tokenizer.config.codebook_sizes), codes.shape[1]
    if catalogue.codebook_sizes[:levels] != sizes or len(catalogue.codebook_sizes) != levels + (policy == "extra_code"):
        raise ValueError(
            f"the catalogue's codes (codebook_sizes {catalogue.codebook_sizes}, collisions {policy}) were not made by "
            f"this tokenizer (codebook_sizes {sizes}); load the tokenizer saved with them"
        )
    if policy == "keep":
        return codes
    capacity = catalogue.codebook_sizes[-1] if policy == "extra_code" else 1
    room = Room(tokenizer, capacity)
    room.occupy(catalogue.codes[:, :levels])
    placed = _place(codes, vectors, np.arange(len(codes)), room)
    if policy == "resolve":
        return placed
    taken = {tuple(row) for row in catalogue.codes.tolist()}
    rows = []
    for code in placed.tolist():
        row = next((*code, number) for number in range(capacity) if (*code, number) not in taken)
        taken.add(row)
        rows.append(row)
    return np.array(rows, dtype=np.int64).reshape(-1, levels + 1)


class Room:
    """Which full codes can take one more item, of at most `capacity` each."""

    def __init__(self, tokenizer: ResidualKMeansTokenizer, capacity: int):
        self.codebooks = [codebook.cpu().numpy() for codebook in tokenizer.codebooks]
        self.capacity = capacity
        self.counts: dict[tuple[int, ...], np.ndarray] = {}  # prefix -> items per last-level code

    def occupy(self, codes: np.ndarray) -> None:
        for *prefix, last in codes.tolist():
            self._count(tuple(prefix))[last] += 1

    def nearest(self, prefix: tuple[int, ...], residual: np.ndarray) -> tuple[int, ...] | None:
        """The code below `prefix` with room whose centroid is nearest to `residual`, None when all are full."""
        free = np.flatnonzero(self._count(prefix) < self.capacity)
        if not len(free):
            return None
        return (*prefix, int(free[_squared_distances(self.codebooks[-1][free], residual).argmin()]))

    def nearest_above(self, prefix: tuple[int, ...], residual: np.ndarray) -> tuple[int, ...] | None:
        """As `nearest`, below the nearest other code of the level above; `residual` is the one below `prefix`."""
        if not prefix:
            return None
        residual = residual + self.codebooks[-2][prefix[-1]]
        for code in _squared_distances(self.codebooks[-2], residual).argsort(kind="stable").tolist():
            found = self.nearest((*prefix[:-1], code), residual - self.codebooks[-2][code])
            if found is not None:
                return found
        return None

    def _count(self, prefix: tuple[int, ...]) -> np.ndarray:
        return self.counts.setdefault(prefix, np.zeros(len(self.codebooks[-1]), dtype=np.int64))


def _place(codes: np.ndarray, vectors: np.ndarray, movers: Iterable[int], room: Room) -> np.ndarray:
    """`codes` with those of the rows `movers` replaced by the nearest ones with room, which they then occupy.

    Prefixes first serve their own items: who must leave its prefix is placed after everyone who need not.
    """
    placed = codes.copy()
    leaving = []
    for row in movers:
        prefix = tuple(codes[row, :-1].tolist())
        residual = vectors[row] - sum((room.codebooks[level][code] for level, code in enumerate(prefix)), np.float32(0))
        found = room.nearest(prefix, residual)
        if found is None:
            leaving.append((row, prefix, residual))
        else:
            placed[row] = found
            room.occupy(placed[row : row + 1])
    for row, prefix, residual in leaving:
        found = room.nearest_above(prefix, residual)
        if found is None:
            raise ValueError(
                f"item row {row} with codes {codes[row].tolist()} finds no free code near it; "
                "set collisions: extra_code, or enlarge codebook_sizes"
            )
        placed[row] = found
        room.occupy(placed[row : row + 1])
    return placed


def _squared_distances(centroids: np.ndarray, residual: np.ndarray) -> np.ndarray:
    return np.square(centroids - residual, dtype=np.float64).sum(axis=1)
