"""Tables of ReaRec."""

from benchmarks.cells import read_rows
from benchmarks.table_rows import BEAUTY, THREE, cells, difference, minutes_of, pair


def reasoning_of_rearec() -> list[list[str]]:
    lines = [["", "CPU min", "validation R@10, N@10", "test R@10, N@10", "unseen, test R@10, N@10"]]
    for label, method, seeds in (
        ("none (SASRec)", "rearec-none", THREE),
        ("naive (seed 1)", "rearec-naive", (1,)),
        ("RPE (seed 1)", "rearec-rpe", (1,)),
        ("ERL", "rearec-erl", THREE),
        ("PRL", "rearec-prl", THREE),
        ("none, as published (seed 1)", "rearec-none-as-published", (1,)),
        ("PRL, as published (seed 1)", "rearec-prl-as-published", (1,)),
    ):
        rows = cells(method, seeds)
        lines.append([label, minutes_of(rows), *(pair(rows, split) for split in ("validation", "test", "test-unseen"))])
    lines += [
        ["*RecBole 1.2.1, SASRec, same size*", "20", "", "0.0806, 0.0405", ""],
        ["*published code of ReaRec, no reasoning*", "20", "", "0.0710, 0.0346", ""],
        ["*published: SASRec, sampled softmax; eSASRec*", "", "", "0.0921, 0.0531; 0.0928, 0.0523", ""],
    ]
    return lines


def against_no_reasoning() -> list[list[str]]:
    lines = [["", "test Recall@10", "test NDCG@10", "unseen Recall@10", "unseen NDCG@10"]]
    rows = {row["cell"]: row for row in read_rows("comparisons", BEAUTY)}
    for label, method, other in (
        ("ERL", "rearec-erl", "rearec-none"),
        ("PRL", "rearec-prl", "rearec-none"),
        ("PRL as published (seed 1)", "rearec-prl-as-published", "rearec-none"),
        ("PRL as published, from none as published (seed 1)", "rearec-prl-as-published", "rearec-none-as-published"),
    ):
        row = rows[f"{method} against {other}"]
        keys = [f"{split} {metric}" for split in ("test", "test-unseen") for metric in ("recall@10", "ndcg@10")]
        lines.append([label, *(difference(*row[key]["difference"]) for key in keys)])
    return lines


def adaptive_depth() -> list[list[str]]:
    """Of a reasoning model the best fixed depth by validation, and the rule `halting` beside it, on test."""
    lines = [["", "best fixed depth: test NDCG@10", "`halting`", "steps saved", "headroom kept"]]
    for label, rows in (
        ("PRL, seeds 1, 2, 3", cells("rearec-prl", THREE)),
        ("ERL, seeds 1, 2, 3", cells("rearec-erl", THREE)),
        ("naive; RPE (seed 1)", [*cells("rearec-naive"), *cells("rearec-rpe")]),
    ):
        fixed, halting, saved, kept = [], [], [], []
        for row in rows:
            depths = row["adaptive_depth"]
            names = [name for name in depths["validation"] if name.startswith("depth ")]
            best = max(names, key=lambda name: depths["validation"][name]["ndcg@10"])
            most = max(depths["test"][name]["mean_steps"] for name in names)
            rule = depths["test"]["halting"]
            fixed.append(f"{best.removeprefix('depth ')}: {depths['test'][best]['ndcg@10']:.4f}")
            halting.append(f"{rule['ndcg@10']:.4f}")
            saved.append(f"{1 - rule['mean_steps'] / most:.0%}")
            kept.append(f"{rule['headroom_kept']:.0%}")
        lines.append([label, *(", ".join(column) for column in (fixed, halting, saved, kept))])
    return lines
