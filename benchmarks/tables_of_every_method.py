"""Tables that hold methods against each other."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.cells import read_rows
from benchmarks.table_rows import (
    BEAUTY,
    BEST,
    DISTILLED,
    THREE,
    TWO_RECOMMENDERS,
    ablation,
    baseline,
    cells,
    difference,
    mean,
    minutes_of,
    pair,
)


def overview() -> list[list[str]]:
    """README: every kind of model on Beauty."""
    lines = [["", "CPU min", "Recall@10", "NDCG@10", "new items: Recall@10", "NDCG@10"]]
    for label, rows, more in (
        ("CARE, codes of text and co-occurrence; three seeds", cells("care", THREE), ""),
        ("CARE's decoder, no queries, codes of ReaRec's vectors; three seeds", cells(BEST, THREE), " + 8"),
        ("the same three times as long; one seed", cells(BEST, minutes=90), " + 9"),
        ("ReaRec without reasoning (SASRec); three seeds", cells("rearec-none", THREE), ""),
        ("two of these added up; three seeds", cells(TWO_RECOMMENDERS, THREE), ""),
        ("CodeTree that has learned from these two; three seeds", cells(DISTILLED, THREE, 14), ""),
        ("ReaRec, ERL; three seeds", cells("rearec-erl", THREE), ""),
        ("most popular", baseline("most popular"), None),
        ("item-kNN", baseline("item-kNN"), None),
    ):
        cost = "" if more is None else minutes_of(rows, 0) + more
        figures = [mean(rows, split, name) for split in ("test", "test-unseen") for name in ("recall@10", "ndcg@10")]
        lines.append([label, cost, *figures])
    rows = ablation("full", THREE)
    stages = ("pretraining", "post_training")
    cost = " + ".join(f"{np.mean([row[stage]['cpu_minutes'] for row in rows]):.0f}" for stage in stages)
    figures = [mean(rows, "test", "recall@10"), mean(rows, "test", "ndcg@10"), "", ""]
    lines.insert(4, ["REG4Rec, four codebooks, all its parts; three seeds", cost, *figures])
    lines += [
        ["*published:* SASRec (in the TIGER paper)", "", "0.0605", "0.0318", "", ""],
        ["*published:* TIGER", "", "0.0648", "0.0384", "", ""],
        ["*published:* REG4Rec (text and images)", "", "0.0792", "0.0493", "", ""],
        ["*published:* eSASRec", "", "0.0928", "0.0523", "", ""],
    ]
    return lines


OWN, PARALLEL, OF_SASREC = "text, co-occurrence", "MPQ of text, co-occurrence", "SASRec's vectors"
ABLATION = "reg4rec_ablation"  # before a variant of it
# model, its codes, its loss, what it thinks before it answers, and the cell: method, seeds, minutes of the model alone
EVERY_METHOD: list[tuple[str, str, str, str, str, tuple[int, ...], float]] = [
    ("SASRec (ReaRec, no reasoning)", "none", "labels", "none", "rearec-none", THREE, 30),
    ("two of these added up", "none", "labels", "none", TWO_RECOMMENDERS, THREE, 30),
    ("ReaRec, ERL", "none", "labels", "two steps", "rearec-erl", THREE, 30),
    ("ReaRec, PRL", "none", "labels", "two steps", "rearec-prl", THREE, 30),
    ("CodeTree", OWN, "labels", "none", "codetree", (1,), 14),
    ("CodeTree", OF_SASREC, "labels", "none", "codetree-recommender-codes", (1,), 14),
    ("CodeTree", OF_SASREC, "TCA4Rec, from one", "none", "codetree-soft-targets", (1,), 14),
    ("CodeTree", "CoBa RQ-VAE", "labels", "none", "codetree-coba-codes", (1,), 14),
    ("CodeTree", "LETTER", "labels", "none", "codetree-letter-codes", (1,), 14),
    ("CodeTree", OF_SASREC, "distilled from one", "none", "codetree-distilled-from-one", (1,), 14),
    ("CodeTree", OF_SASREC, "distilled from two", "none", DISTILLED, THREE, 14),
    ("TIGER", OF_SASREC, "labels", "none", "tiger-recommender-codes", (1,), 30),
    ("TIGER", OWN, "labels", "none", "tiger", (1,), 15),
    ("STREAM from this TIGER", OWN, "labels, traces", "four codes", "stream", (1,), 15),
    ("S2GR", OF_SASREC, "labels", "before each code", "s2gr-recommender-codes", (1,), 30),
    ("COBRA", OF_SASREC, "labels", "none", "cobra-recommender-codes", (1,), 30),
    ("LIGER", OF_SASREC, "labels", "none", "liger-recommender-codes", (1,), 30),
    ("REG4Rec", PARALLEL, "labels, four rewards", "reflection", f"{ABLATION} full", THREE, 25),
    ("REG4Rec, in a fixed order", PARALLEL, "labels, four rewards", "reflection", f"{ABLATION} without CRSS", (1,), 25),
    ("MDGR", "OPQ of text, co-occurrence", "labels, masked", "none", "mdgr", (1,), 30),
    ("S3-Rec", "none", "labels, pretrained", "none", "s3rec", (1,), 30),
    ("CARE as published", OWN, "labels", "queries", "care", THREE, 30),
    ("CARE's decoder", OWN, "labels", "none", "care-no-queries", (1,), 30),
    ("CARE's decoder", OF_SASREC, "labels", "none", BEST, THREE, 30),
    ("CARE's decoder", OF_SASREC, "TCA4Rec, from one", "none", f"{BEST}-soft-targets", (1,), 30),
]


def every_method() -> list[list[str]]:
    """Beauty, test split: what each method and each of its parts gives, best NDCG@10 first."""
    lines = [["model", "codes", "loss", "thinking", "seeds", "CPU min", "R@10, N@10", "N@10 less SASRec", "unseen"]]
    against = {row["cell"]: row for row in read_rows("comparisons", BEAUTY)}
    for label, codes, loss, thinking, method, seeds, minutes in _best_first():
        rows = _rows(method, seeds, minutes)
        compared = against.get(f"{method} against rearec-none")
        shown = "" if compared is None else difference(*compared["test ndcg@10"]["difference"])
        if compared is not None and len(compared["seeds"]) < len(seeds):
            shown += f", seed {', '.join(map(str, compared['seeds']))}"
        unseen = pair(rows, "test-unseen") if "test-unseen" in rows[0] else ""
        figures = [_cost(rows), pair(rows, "test"), shown, unseen]
        lines.append([label, codes, loss, thinking, str(len(seeds)), *figures])
    return lines


def every_method_beside() -> list[list[str]]:
    """The same models: rare items, coverage, bias by the position of a code, speed."""
    lines = [["model, codes, loss, thinking", "rare: R@10", "coverage", "bias by code", "users/s"]]
    for *named, method, seeds, minutes in _best_first():
        tests = [row["test"] for row in _rows(method, seeds, minutes)]
        of_rare = "recall@10 of rare items"  # which not every older row has
        rare = {seed: test[of_rare] for seed, test in zip(seeds, tests, strict=True) if of_rare in test}
        bias = np.mean([[groups[0] for groups in test.get("bias", [])] for test in tests], 0)
        lines.append(
            [
                ", ".join(named),
                _of_seeds(rare, seeds),
                f"{np.mean([test['coverage@10'] for test in tests]):.2f}" if "coverage@10" in tests[0] else "",
                ", ".join(f"{share:+.0%}" for share in bias),
                f"{np.mean([_users_per_second(test) for test in tests]):,.0f}",
            ]
        )
    return lines


def published_beside() -> list[list[str]]:
    """Beauty, test split: what papers print, and the same model here."""
    lines = [["model", "published R@10, N@10", "here", "of the published N@10", "epochs here"]]
    for label, recall, ndcg, rows in (
        ("SASRec, as TIGER's paper has it", 0.0605, 0.0318, cells("rearec-none", THREE)),
        ("SASRec with sampled softmax, tuned (eSASRec)", 0.0921, 0.0531, cells("rearec-none", THREE)),
        ("ReaRec on SASRec, by REG4Rec's authors", 0.0654, 0.0375, cells("rearec-erl", THREE)),
        ("TIGER", 0.0648, 0.0384, cells("tiger-recommender-codes")),
        ("S3-Rec", 0.0647, 0.0327, cells("s3rec")),
        ("STREAM, by REG4Rec's authors", 0.0691, 0.0422, cells("stream", minutes=15)),
        ("COBRA", 0.0725, 0.0456, cells("cobra-recommender-codes")),
        ("REG4Rec, text and images; here text alone", 0.0792, 0.0493, ablation("full", THREE)),
    ):
        share = np.mean([row["test"]["ndcg@10"][0] for row in rows]) / ndcg
        epochs = np.mean([(row.get("training") or row["pretraining"])["epochs"] for row in rows])
        lines.append([label, f"{recall:.4f}, {ndcg:.4f}", pair(rows, "test"), f"{share:.0%}", f"{epochs:.0f}"])
    return lines


def _of_seeds(figures: dict[int, float], seeds: Sequence[int]) -> str:
    """The mean of some seeds' figures, and which these are where they are not all."""
    if not figures:
        return ""
    which = "" if len(figures) == len(seeds) else f", seed {', '.join(map(str, figures))}"
    return f"{np.mean([*figures.values()]):.4f}{which}"


def heads() -> list[list[str]]:
    """Beauty, test split: lists of one and the same model by its codes, by its dense vector, and by both."""
    lines = [["", "codes alone", "dense alone", "both", "users a CPU second"]]
    found = {row["cell"]: row for row in read_rows("heads", BEAUTY)}
    for label, cell, both in (
        ("COBRA", "cobra-recommender-codes", "fusion"),
        ("LIGER", "liger-recommender-codes", "hybrid"),
    ):
        rows = [found[f"{cell}-{BEAUTY}-seed1-30min {way}"] for way in ("sparse", "dense", both)]
        figures = [f"{row['recall@10']:.4f}, {row['ndcg@10']:.4f}" for row in rows]
        lines.append([label, *figures, ", ".join(f"{row['users_per_cpu_second']:,.0f}" for row in rows)])
    return lines


def _best_first() -> list[tuple[str, str, str, str, str, tuple[int, ...], float]]:
    return sorted(EVERY_METHOD, key=lambda entry: mean(_rows(*entry[4:]), "test", "ndcg@10"), reverse=True)


def _rows(method: str, seeds: Sequence[int], minutes: float) -> list[dict[str, Any]]:
    kind, _, variant = method.partition(" ")
    return ablation(variant, seeds) if kind == ABLATION else cells(method, seeds, minutes)


def _cost(rows: list[dict[str, Any]]) -> str:
    if "training" in rows[0]:
        return minutes_of(rows, 0)
    stages = [row[stage] for row in rows for stage in ("pretraining", "post_training") if stage in row]
    return f"{sum(stage['cpu_minutes'] for stage in stages) / len(rows):.0f}"


def _users_per_second(test: dict[str, Any]) -> float:
    return test["users_per_second"] if "users_per_second" in test else 1000 / test["cpu_ms_per_user"]
