"""How well the codes of a catalogue are used, as numbers and as a picture."""

from pathlib import Path
from typing import Any

import numpy as np

from hf_genrec.files import whole_file
from hf_genrec.models.modeling_residual_kmeans import ResidualKMeansTokenizer

from .collisions import count_collisions
from .ids import SemanticIds


def health_report(
    semantic_ids: SemanticIds,
    tokenizer: ResidualKMeansTokenizer | None = None,
    vectors: np.ndarray | None = None,
) -> dict[str, Any]:
    """Usage per level, collisions and, where the quantized vectors (N, D) are at hand, the reconstruction error.

    Per level: `size`, `used` codes, `usage` = used / size, `entropy` of the code frequencies in nats and
    `perplexity` = exp(entropy), the number of equally frequent codes with that entropy. `reconstruction_error` after
    level l is the mean squared distance to the sum of the centroids of levels 0..l, divided by the vectors' variance;
    a level that `extra_code` added has none.

    Example: codes [0, 0, 1, 1] in a codebook of 4 -> usage 0.5, entropy log 2, perplexity 2.
    """
    codes = semantic_ids.codes
    levels = []
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
        variance = float(np.square(vectors - vectors.mean(axis=0)).sum(axis=1).mean())
        for level in range(len(tokenizer.config.codebook_sizes)):
            coarse = tokenizer.decode(codes[:, : level + 1]).cpu().numpy()
            levels[level]["reconstruction_error"] = float(np.square(vectors - coarse).sum(axis=1).mean()) / variance
    return health


def draw_health(semantic_ids: SemanticIds, health: dict[str, Any], path: str | Path) -> None:
    """A PNG: the items of each code, most used first, per level, and the reconstruction error by level."""
    from matplotlib.figure import Figure  # a Figure of one's own draws with Agg and touches no global state

    levels = health["levels"]
    errors = [level["reconstruction_error"] for level in levels if "reconstruction_error" in level]
    panels = len(levels) + bool(errors)
    columns = 2 if panels == 4 else min(panels, 3)
    rows = -(-panels // columns)
    figure = Figure(figsize=(4.2 * columns, 3.2 * rows + 0.6), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    after = health["collisions"]["after"]
    figure.suptitle(
        f"{health['items']:,} items, {health['unique_ids']:,} different semantic IDs, "
        f"{after['items']:,} items share theirs",
        fontsize=13,
    )
    for number, (axis, level) in enumerate(zip(axes, levels, strict=False)):
        counts = np.sort(np.bincount(semantic_ids.codes[:, number], minlength=level["size"]))[::-1]
        axis.fill_between(np.arange(len(counts) + 1), np.append(counts, 0), step="post", color="tab:blue", alpha=0.8)
        even = health["items"] / level["size"]
        axis.axhline(even, color="black", linewidth=1, linestyle="--", label=f"even use: {even:,.0f}")
        axis.set(xlim=(0, len(counts)), ylim=(0, None), xlabel="code, most used first", ylabel="items")
        axis.set_title(
            f"level {number}: {level['used']} of {level['size']} codes used ({level['usage']:.0%})\n"
            f"perplexity {level['perplexity']:.3g}",
            fontsize=11,
        )
        axis.legend(frameon=False, fontsize=9)
    if errors:
        axis = axes[len(levels)]
        bars = axis.bar(
            range(len(errors)),
            errors,
            tick_label=[str(level) for level in range(len(errors))],
            color="tab:orange",
            width=0.6,
        )
        axis.bar_label(bars, fmt="{:.2f}", padding=2)
        axis.set(ylim=(0, 1.1 * max(1.0, *errors)), xlabel="after level", ylabel="share of variance left")
        axis.set_title("reconstruction error\n(lower is better)", fontsize=11)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[panels:]:
        axis.set_visible(False)

    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
