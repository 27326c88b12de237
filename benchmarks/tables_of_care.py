"""Tables of CARE: its parts, its bias, post-training and smaller user caches."""

from benchmarks.cells import read_rows
from benchmarks.table_rows import BEST, THREE, cells, minutes_of, pair


def parts_of_care() -> list[list[str]]:
    splits = ("validation", "test", "test-unseen")
    lines = [
        ["", "weights", "CPU min", "validation R@10, N@10", "test R@10, N@10", "unseen, test R@10, N@10"],
    ]
    for label, rows, more in (
        ("CARE, a query per code, progressive; three seeds", cells("care", THREE), ""),
        ("no progressive attention (`care-no-progressive`)", cells("care-no-progressive"), ""),
        ("no diversity term (`care-no-diversity`)", cells("care-no-diversity"), ""),
        ("dropout 0.1 (`care-dropout`)", cells("care-dropout"), ""),
        ("label smoothing 0.1 (`care-smoothing`)", cells("care-smoothing"), ""),
        ("hidden 64 instead of 128 (`care-hidden-64`)", cells("care-hidden-64"), ""),
        ("hidden 256, 6.1 epochs (`care-hidden-256`)", cells("care-hidden-256"), ""),
        ("codes of co-occurrence alone (`care-collaborative-codes`)", cells("care-collaborative-codes"), ""),
        ("LETTER's published codes, four an item (`care-letter-codes`)", cells("care-letter-codes"), ""),
        ("no queries", cells("care-no-queries"), ""),
        ("no queries, codes of a recommender's item vectors", cells("care-no-queries-recommender-codes"), " + 9"),
        (
            "the same, embeddings that start from the quantizer's centroids (`-centroids`)",
            cells("care-no-queries-recommender-codes-centroids"),
            " + 9",
        ),
        (
            "the same, dropout 0.1 instead (`-dropout`)",
            cells("care-no-queries-recommender-codes-dropout"),
            " + 9",
        ),
        ("the same, both (`-centroids-dropout`); three seeds", cells(BEST, THREE), " + 8"),
        ("the last one three times as long (`--minutes 90`)", cells(BEST, minutes=90), " + 9"),
    ):
        weights = f"{rows[0]['training']['num_weights']:,}"
        lines.append([label, weights, minutes_of(rows) + more, *(pair(rows, split) for split in splits)])
    lines += [
        ["*published: TIGER*", "", "", "", "0.0648, 0.0384", ""],
        ["*published: REG4Rec (text and images)*", "", "", "", "0.0792, 0.0493", ""],
    ]
    return lines


def bias_of_care() -> list[list[str]]:
    columns = {
        "CARE: groups 1 to 5": cells("care"),
        "no queries": cells("care-no-queries"),
        "no queries, a recommender's codes": cells("care-no-queries-recommender-codes"),
        "the long run": cells(BEST, minutes=90),
    }
    lines = [["code", *columns]]
    for level in range(3):
        shares = [", ".join(f"{share:+.0%}" for share in row["test"]["bias"][level]) for (row,) in columns.values()]
        lines.append([str(level + 1), *shares])
    return lines


def post_training() -> list[list[str]]:
    """What each setting of GRPO does to CARE on MovieLens 100K: the last step less the start, validation users."""
    lines = [["", "reward", "divergence", "Recall@10", "NDCG@10"]]
    rows = {row["name"]: row for row in read_rows("grpo_quality", "ml-100k")}
    for label, name in (
        ("learning rate 1e-3", "rate-1e-3"),
        ("learning rate 3e-4", "rate-3e-4"),
        ("learning rate 1e-4", "default"),
        ("learning rate 3e-5 (the default)", "rate-3e-5"),
        ("`beta: 1`", "beta-1"),
        ("`beta: 0.1`", "beta-0.1"),
        ("`beta: 0`", "beta-0"),
        ("`hit` alone", "hit-only"),
        ("`hit`, `rank`", "hit-rank"),
        ("`horizon: 3`", "horizon-3"),
        ("`temperature: 0.7`", "temperature-0.7"),
        ("`temperature: 1.5`", "temperature-1.5"),
        ("groups of 64 (8 histories)", "group-64"),
        ("`entropy_coef: 0.05`", "entropy-0.05"),
        ("LoRA, rank 8, 1e-3", "lora"),
        ("rewards not divided by their deviation, 1e-3", "unscaled"),
    ):
        row = rows[name]
        change = row["differences"].get("last") or row["differences"]["best"]
        shown = [
            f"{change[metric]['difference']:+.3f} [{change[metric]['low']:+.3f}, {change[metric]['high']:+.3f}]"
            for metric in ("recall@10", "ndcg@10")
        ]
        reward = f"{row['start']['reward']:.3f} → {row['end']['reward']:.3f}"
        lines.append([label, reward, f"{row['end']['kl']:.3f}", *shown])
    return lines
