"""Items that share their codes: counting them, and telling them apart."""

from typing import Any

import numpy as np
import torch

from hf_genrec.item_tokenizers.item_tokenizer import ItemTokenizer
from hf_genrec.item_tokenizers.sinkhorn import sinkhorn_codes

from .free_codes import room_for
from .ids import SemanticIds

# LETTER's: how often groups are spread, and how evenly
SPREAD_ROUNDS = 20
SPREAD_EPSILON, SPREAD_ITERATIONS = 0.003, 50


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
    codes: np.ndarray, vectors: np.ndarray, tokenizer: ItemTokenizer, policy: str
) -> tuple[np.ndarray, list[int], dict[str, Any]]:
    """Apply a collision policy (resolve, extra_code, spread or keep) to the codes of a whole catalogue.

    Args:
        codes: (N, L), what the tokenizer gave.
        vectors: (N, D), what it quantized.

    Returns:
        (codes (N, L), or (N, L + 1) with extra_code; the codebook sizes of these levels; a report with the collisions
        before and after)

    Raises:
        ValueError: an unknown policy, or one that these codes cannot follow.
    """
    sizes = list(tokenizer.config.codebook_sizes)
    report: dict[str, Any] = {"policy": policy, "before": count_collisions(codes)}
    if policy == "resolve":
        settled = resolve(codes, vectors, tokenizer)
        report["moved"] = int((settled != codes).any(axis=1).sum())
        if tokenizer.ordered:
            report["moved_above_last_level"] = int((settled[:, :-1] != codes[:, :-1]).any(axis=1).sum())
        else:
            report["most_codes_changed"] = int((settled != codes).sum(axis=1).max(initial=0))
    elif policy == "extra_code":
        settled = extra_code(codes)
        sizes.append(report["before"]["largest_group"])
    elif policy == "spread":
        settled = spread(codes, vectors, tokenizer)
        report["moved"] = int((settled != codes).any(axis=1).sum())
    elif policy == "keep":
        settled = codes
    else:
        raise ValueError(f"collisions must be resolve, extra_code, spread or keep, not {policy!r}")
    report["after"] = count_collisions(settled)
    return settled, sizes, report


def resolve(codes: np.ndarray, vectors: np.ndarray, tokenizer: ItemTokenizer) -> np.ndarray:
    """Give every item codes of its own.

    Of each colliding group the item that is closest to its codewords stays. The others, in the order of the rows, move:

    - ordered codes: to the free last-level code that is nearest to their residual; those whose prefix has none left
      then take the nearest other code of the level above below which one is free, and so on upwards.
    - unordered codes: to the free set that differs in the fewest codebooks and, among these, adds the least to the
      summed squared distance to the codewords.

    Returns:
        (N, L) int64, unique rows

    Raises:
        ValueError: there are more items than codes.
    """
    _, group, size = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    shared = np.flatnonzero(size[group] > 1)
    latents, group = tokenizer.latents(vectors[shared]), group[shared]
    order = np.lexsort((shared, _quantization_error(codes[shared], latents, tokenizer), group))
    moves = np.ones(len(shared), dtype=bool)
    moves[order[np.unique(group[order], return_index=True)[1]]] = False

    movers = shared[moves]
    room = room_for(tokenizer, capacity=1)
    room.occupy(np.delete(codes, movers, axis=0))
    settled = codes.copy()
    settled[movers] = room.place(codes[movers], latents[moves], movers)
    return settled


def _quantization_error(codes: np.ndarray, latents: np.ndarray, tokenizer: ItemTokenizer) -> np.ndarray:
    """(N,) squared distance of what was quantized to its codewords."""
    codewords = [codebook.cpu().numpy()[column] for codebook, column in zip(tokenizer.codebooks, codes.T, strict=True)]
    if tokenizer.ordered:
        return np.square(latents - sum(codewords)).sum(axis=1)
    return np.square(latents - np.stack(codewords, axis=1)).sum(axis=(1, 2))


def extra_code(codes: np.ndarray) -> np.ndarray:
    """Append a level that counts 0, 1, 2, ... within each group of items with the same codes (arXiv 2305.05065,
    section 3.1).

    Returns:
        (N, L + 1) int64; the new level has as many codes as the largest group has items
    """
    _, group = np.unique(codes, axis=0, return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.unique(group[order], return_index=True)[1]
    number = np.empty(len(codes), dtype=np.int64)
    number[order] = np.arange(len(codes)) - starts[group[order]]
    return np.column_stack([codes, number])


def spread(codes: np.ndarray, vectors: np.ndarray, tokenizer: ItemTokenizer) -> np.ndarray:
    """Give each group of items with the same codes last-level codes that it uses evenly, by Sinkhorn's algorithm on the
    group alone; up to 20 times, as new groups may arise (LETTER's published code).

    Another item of the prefix may have such a code, and items with the same vector stay together.

    Returns:
        (N, L) int64; rows may still be alike

    Raises:
        ValueError: for codes without an order.
    """
    if not tokenizer.ordered:
        raise ValueError("collisions: spread moves last-level codes, and these have no order: use resolve")
    codes, latents = codes.copy(), torch.from_numpy(tokenizer.latents(vectors)).double()
    codebooks = [codebook.cpu().double() for codebook in tokenizer.codebooks]
    for codebook, column in zip(codebooks[:-1], codes.T, strict=False):
        latents -= codebook[column]
    for _ in range(SPREAD_ROUNDS):
        before = codes.copy()
        _, group, size = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
        for shared in np.flatnonzero(size > 1):
            rows = np.flatnonzero(group == shared)
            # The published epsilon is one of numbers of about 1, and distances are those of vectors of that length
            distances = torch.cdist(latents[rows], codebooks[-1]).square() * latents.shape[1]
            codes[rows, -1] = sinkhorn_codes(distances, SPREAD_EPSILON, SPREAD_ITERATIONS).numpy()
        if np.array_equal(codes, before):
            break
    return codes


def place_new_items(
    codes: np.ndarray, vectors: np.ndarray, tokenizer: ItemTokenizer, catalogue: SemanticIds
) -> np.ndarray:
    """Codes for new items of a catalogue whose codes stay as they are.

    resolve, spread: a taken code is replaced by the nearest free one. extra_code: the smallest free number in the
    item's group; a full group (the extra level cannot grow without retraining) sends the item to the nearest group with
    room. keep: the codes as they are.

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
    room = room_for(tokenizer, capacity)
    room.occupy(catalogue.codes[:, :levels])
    placed = room.place(codes, tokenizer.latents(vectors), np.arange(len(codes)))
    if policy != "extra_code":
        return placed
    taken = {tuple(row) for row in catalogue.codes.tolist()}
    rows = []
    for code in placed.tolist():
        row = next((*code, number) for number in range(capacity) if (*code, number) not in taken)
        taken.add(row)
        rows.append(row)
    return np.array(rows, dtype=np.int64).reshape(-1, levels + 1)
