"""How well the codes of a catalogue are used, as numbers and as a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hf_genrec.files import whole_file
from hf_genrec.item_tokenizers.item_tokenizer import ItemTokenizer

from .collisions import count_collisions
from .ids import SemanticIds


def health_report(
    semantic_ids: SemanticIds,
    tokenizer: ItemTokenizer | None = None,
    vectors: np.ndarray | None = None,
    sequences: Sequence[np.ndarray] | None = None,
) -> dict[str, Any]:
    """Usage per level, collisions and, where the quantized vectors (N, D) are at hand, the reconstruction error; where
    the training sequences are (rows of the catalogue, a user's each), what each level tells of the next item.

    Per level: `size`, `used` codes, `usage` = used / size, `entropy` of the code frequencies in nats and
    `perplexity` = exp(entropy), the number of equally frequent codes with that entropy. `reconstruction_error` is the
    mean squared distance to what the codes decode to, divided by the vectors' variance: of ordered codes the error
    after each level, of unordered ones that of the whole set; a level that `extra_code` added has none. `next_bits` is
    the mutual information of an item's code and the next item's at the same level, see [`next_item_information`].

    Example: codes [0, 0, 1, 1] in a codebook of 4 -> usage 0.5, entropy log 2, perplexity 2.
    """
    codes = semantic_ids.codes
    levels: list[dict[str, Any]] = []
    for level, size in enumerate(semantic_ids.codebook_sizes):
        counts = np.bincount(codes[:, level], minlength=size)
        share = counts[counts > 0] / max(1, len(codes))
        entropy = float(-(share * np.log(share)).sum())
        used = int((counts > 0).sum())
        levels.append(
            {"size": size, "used": used, "usage": used / size, "entropy": entropy, "perplexity": float(np.exp(entropy))}
        )
    health: dict[str, Any] = {
        "items": len(codes),
        "unique_ids": len(np.unique(codes, axis=0)),
        "collisions": semantic_ids.report.get("collisions") or {"after": count_collisions(codes)},
        "levels": levels,
    }
    if tokenizer is not None and vectors is not None:
        made = len(tokenizer.config.codebook_sizes)
        if tokenizer.ordered:
            for level in range(made):
                levels[level]["reconstruction_error"] = _reconstruction_error(tokenizer, codes[:, : level + 1], vectors)
        else:
            health["reconstruction_error"] = _reconstruction_error(tokenizer, codes[:, :made], vectors)
    if sequences is not None:
        told = next_item_information(codes, semantic_ids.codebook_sizes, sequences)
        for row, bits in zip(levels, told, strict=True):
            row["next_bits"] = bits
    return health


def next_item_information(codes: np.ndarray, sizes: Sequence[int], sequences: Sequence[np.ndarray]) -> list[float]:
    """
    How many bits the code of an item tells of the code of the item after it, of each codebook: the mutual information
    of the two over all neighbours in the sequences, above chance. What is below 0 is 0.

    Args:
        codes: (N, L).
        sequences: rows of the catalogue, oldest first, a user's each.
    """
    newest = np.concatenate([np.zeros(0, np.int64), *(sequence[:-1] for sequence in sequences)])
    following = np.concatenate([np.zeros(0, np.int64), *(sequence[1:] for sequence in sequences)])
    return [
        max(0.0, information_above_chance(column[newest], column[following], size))
        for column, size in zip(codes.T, sizes, strict=True)
    ]


def information_above_chance(first: np.ndarray, second: np.ndarray, size: int) -> float:
    """
    Mutual information in bits of pairs of codes below `size`. Few pairs seem to tell something of each other in any
    case: what the same pairs do when they are dealt out anew is taken off.
    """
    dealt = np.random.default_rng(0).permutation(second)
    return _information(first, second, size) - _information(first, dealt, size)


def _information(first: np.ndarray, second: np.ndarray, size: int) -> float:
    """Mutual information in bits of pairs of codes below `size`."""
    pairs, counts = np.unique(first * size + second, return_counts=True)
    of_first, of_second = np.bincount(first, minlength=size), np.bincount(second, minlength=size)
    expected = of_first[pairs // size] * of_second[pairs % size] / max(1, len(first))
    return float((counts * np.log2(counts / expected)).sum() / max(1, len(first)))


def _reconstruction_error(tokenizer: ItemTokenizer, codes: np.ndarray, vectors: np.ndarray) -> float:
    left = np.square(vectors - tokenizer.decode(codes).cpu().numpy()).sum(axis=1).mean()
    return float(left / np.square(vectors - vectors.mean(axis=0)).sum(axis=1).mean())


def draw_health(semantic_ids: SemanticIds, health: dict[str, Any], path: str | Path) -> None:
    """A PNG: the items of each code, most used first, per codebook, and the reconstruction error."""
    from matplotlib.figure import Figure  # a Figure of one's own draws with Agg and touches no global state

    levels = health["levels"]
    errors = [level["reconstruction_error"] for level in levels if "reconstruction_error" in level]
    panels = len(levels) + bool(errors)
    small = panels > 6
    columns = 4 if small else 2 if panels == 4 else min(panels, 3)
    rows = -(-panels // columns)
    width, height = (3.3, 2.5) if small else (4.2, 3.2)
    figure = Figure(figsize=(width * columns, height * rows + 0.6), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    after = health["collisions"]["after"]
    title = (
        f"{health['items']:,} items, {health['unique_ids']:,} different semantic IDs, "
        f"{after['items']:,} items share theirs"
    )
    if "reconstruction_error" in health:
        title += f"; reconstruction error {health['reconstruction_error']:.2f}"
    figure.suptitle(title, fontsize=13)
    for number, (axis, level) in enumerate(zip(axes, levels, strict=False)):
        counts = np.sort(np.bincount(semantic_ids.codes[:, number], minlength=level["size"]))[::-1]
        axis.fill_between(np.arange(len(counts) + 1), np.append(counts, 0), step="post", color="tab:blue", alpha=0.8)
        even = health["items"] / level["size"]
        axis.axhline(even, color="black", linewidth=1, linestyle="--", label=f"even use: {even:,.0f}")
        axis.set(xlim=(0, len(counts)), ylim=(0, None))
        if not small or number >= panels - columns:
            axis.set_xlabel("code, most used first")
        if not small or number % columns == 0:
            axis.set_ylabel("items")
        axis.set_title(
            f"codebook {number + 1}: {level['used']} of {level['size']} codes used ({level['usage']:.0%})\n"
            f"perplexity {level['perplexity']:.3g}"
            + (f", tells {level['next_bits']:.2f} bits of the next item" if "next_bits" in level else ""),
            fontsize=9 if small else 11,
        )
        axis.legend(frameon=False, fontsize=8 if small else 9)
    if errors:
        axis = axes[len(levels)]
        bars = axis.bar(
            range(len(errors)),
            errors,
            tick_label=[str(level) for level in range(len(errors))],
            color="tab:orange",
            width=0.6,
        )
        axis.bar_label(bars, fmt="{:.2f}", padding=2, fontsize=8 if small else 10)
        axis.set(ylim=(0, 1.1 * max(1.0, *errors)), xlabel="after codebook", ylabel="share of variance left")
        axis.set_title("reconstruction error\n(lower is better)", fontsize=9 if small else 11)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[panels:]:
        axis.set_visible(False)

    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
