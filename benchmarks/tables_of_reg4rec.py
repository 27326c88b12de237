"""Tables of REG4Rec."""

import numpy as np

from benchmarks.cells import metrics_of_users, read_ranks, read_rows
from benchmarks.grpo_epochs import REWARDS
from benchmarks.reg4rec_ablation import VARIANTS, cell_name
from benchmarks.table_rows import THREE, YELP, ablation, cells, difference, pair
from hf_genrec.evaluation.metrics import paired_bootstrap_difference

LONG_POST_TRAINING = {"grpo-published": "as published", "grpo-own": "our weights"}


def parts_of_reg4rec(data: str) -> list[list[str]]:
    lines = [["", "validation R@10, N@10", "test R@10, N@10", "test R@10 less the full model", "ms a user"]]
    full = read_ranks(cell_name("full", data, 1))["test"]
    finished = {row["variant"] for row in read_rows("reg4rec_ablation", data)}
    for variant in VARIANTS:
        if variant not in finished or "codebooks" in variant:
            continue
        rows, less = ablation(variant, data=data), ""
        own = read_ranks(cell_name(variant, data, 1))["test"]
        if variant != "full" and np.array_equal(own, full):
            less = "the same lists"
        elif variant != "full":
            of_users = [metrics_of_users(ranks)["recall@10"] for ranks in (own, full)]
            less = difference(*paired_bootstrap_difference(*of_users))
        cost = f"{rows[0]['test']['cpu_ms_per_user']:.1f}"
        lines.append([variant, pair(rows, "validation"), pair(rows, "test"), less, cost])
    return lines


def seeds_on_yelp() -> list[list[str]]:
    lines = [["", "validation Recall@10", "test Recall@10", "test NDCG@10", "test, new items: Recall@10", "NDCG@10"]]
    for label, rows in (
        ("REG4Rec, full", ablation("full", THREE, YELP)),
        ("REG4Rec, without PARS", ablation("without PARS", THREE, YELP)),
        ("CARE", cells("care", THREE, data=YELP)),
        ("ReaRec without reasoning (SASRec)", cells("rearec-none", THREE, data=YELP)),
    ):
        columns = [("validation", "recall@10"), ("test", "recall@10"), ("test", "ndcg@10")]
        columns += [("test-unseen", "recall@10"), ("test-unseen", "ndcg@10")]
        lines.append(
            [
                label,
                *(
                    ", ".join(f"{row[split][metric][0]:.4f}" for row in rows) if split in rows[0] else ""
                    for split, metric in columns
                ),
            ]
        )
    return lines


def codebooks_of_reg4rec() -> list[list[str]]:
    lines = [
        ["codebooks", "epochs in the budget", "CPU s an epoch", "validation R@10, N@10", "test R@10, N@10", "ms a user"]
    ]
    for count, variant in ((2, "2 codebooks"), (4, "without PARS"), (8, "8 codebooks"), (12, "12 codebooks")):
        (row,) = ablation(variant)
        first = row["pretraining"]
        lines.append(
            [
                str(count),
                f"{first['epochs']:.1f}",
                f"{60 * first['cpu_minutes'] / first['epochs']:.0f}",
                pair([row], "validation"),
                pair([row], "test"),
                f"{row['test']['cpu_ms_per_user']:.1f}",
            ]
        )
    return lines


def codebooks_at_equal_epochs() -> list[list[str]]:
    """MovieLens 100K: codebooks, where the experts started, and what a fixed order costs the same model."""
    header = ["codebooks, start, epochs", "CPU min", "validation R@10, N@10", "test", "test, fixed order"]
    lines = [[*header, "next bits: mean, least", "bits in common", "items that shared their codes"]]
    rows = read_rows("codebooks", "ml-100k")
    for row in sorted(rows, key=lambda row: (row["epochs"], row["codebooks"], row["start"])):
        figures = [row[name] for name in ("validation", "test", "test, fixed order")]
        bits = row["next_bits"]
        lines.append(
            [
                f"{row['codebooks']}, {row['start']}, {row['epochs']:.0f}",
                f"{row['cpu_minutes']:.0f}",
                *(f"{of['recall@10']:.4f}, {of['ndcg@10']:.4f}" for of in figures),
                f"{np.mean(bits):.2f}, {min(bits):.2f}",
                f"{row['common_bits']:.2f}",
                f"{row['share_with_codes_of_others']:.0%}",
            ]
        )
    return lines


def long_post_training() -> list[list[str]]:
    """Two epochs of GRPO on MovieLens 100K: rewards from beginning to end, and what the lists become."""
    lines = [["", *(f"`{name}`" for name in REWARDS), "divergence", "validation NDCG@10", "last, R@10", "last, N@10"]]
    for row in read_rows("grpo_epochs", "ml-100k"):
        rewards = [
            " → ".join(f"{row[end][f'rewards/{name}/mean']:.3f}" for end in ("start", "end")) for name in REWARDS
        ]
        by_step = [*row["validation_ndcg@10"].values()]
        validation = ", ".join(f"{by_step[tenth]:.4f}" for tenth in (0, 1, 5, 10))
        last = [difference(*row["last"][metric][2:]) for metric in ("recall@10", "ndcg@10")]
        lines.append([LONG_POST_TRAINING[row["cell"]], *rewards, f"{row['end']['kl']:.2f}", validation, *last])
    return lines
