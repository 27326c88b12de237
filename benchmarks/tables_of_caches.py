"""Tables of user caches: what a smaller one costs in quality, and what a second request takes."""

from benchmarks.cells import read_rows
from benchmarks.table_rows import BEAUTY, difference

LABELS = {
    "as the run ended": "before these epochs",
    "plain": "keys and values, float32",
    "int8": "int8, a scale a head",
}


def smaller_caches() -> list[list[str]]:
    lines = [["cache", "bytes a user", "share", "Recall@10, NDCG@10", "NDCG@10 less float32", "relative"]]
    rows = sorted(read_rows("user_cache", BEAUTY), key=lambda row: (-row["bytes_per_user"], -row["ndcg@10"]))
    (plain,) = (row for row in rows if row["name"] == "plain")
    for row in rows:
        label = LABELS.get(row["name"], row["name"])
        less = ["", ""]
        if row is not plain:
            less = [difference(*row["less_plain"]), f"{row['relative']:+.1%}"]
        share = f"{row['bytes_per_user'] / plain['bytes_per_user']:.1%}"
        figures = f"{row['recall@10']:.4f}, {row['ndcg@10']:.4f}"
        lines.append([label, f"{row['bytes_per_user']:,.0f}", share, figures, *less])
    return lines


RUNS = {
    "care-amazon2014_beauty-seed1-30min-3/plain": "CARE, keys and values, float32",
    "care-amazon2014_beauty-seed1-30min-3/pool-256-own-1": "CARE, pool 256, own 1",
    "quality/tiger-amazon2014_beauty-seed1-15min": "TIGER, states, the same history again",
}


def second_requests() -> list[list[str]]:
    """CPU milliseconds of a request without the cache, and with it."""
    lines = [["model and cache", "bytes a user", "one by one", "64 at a time", "times the throughput"]]
    found = {row["cell"]: row for row in read_rows("second_requests", BEAUTY)}
    for cell, label in RUNS.items():
        row = found[cell]
        alone, together = row["ms_by_1"], row["ms_by_64"]
        times = [f"{first:.1f}, {second:.1f}" for first, second in (alone, together)]
        lines.append([label, f"{row['bytes_per_user']:,.0f}", *times, f"{together[0] / together[1]:.2f}"])
    return lines
