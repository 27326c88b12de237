"""Writes the tables of README and docs from the rows in benchmarks/results, between their two marks:

    python -m benchmarks.tables            # writes
    python -m benchmarks.tables --check    # says which differ, and ends with 1 if one does

A table stands between `<!-- table: NAME -->` and `<!-- end of table -->`.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cells import metrics_of_users, read_rows
from benchmarks.reg4rec_ablation import VARIANTS, read_ranks
from hf_genrec.evaluation.metrics import paired_bootstrap_difference

ROOT = Path(__file__).parents[1]
BEAUTY, YELP = "amazon2014_beauty", "yelp2019"
BEST = "care-no-queries-recommender-codes-centroids-dropout"
TWO_RECOMMENDERS, DISTILLED = "ensemble-two-rearec-none", "codetree-distilled"
THREE = (1, 2, 3)
DATA = {"Beauty": BEAUTY, "Toys": "amazon2014_toys", "Yelp": YELP}


def cells(method: str, seeds: Sequence[int] = (1,), minutes: float = 30, data: str = BEAUTY) -> list[dict[str, Any]]:
    """The rows of a method, one per seed."""
    found = {row["cell"]: row for row in read_rows("quality", data)}
    return [found[f"{method}-{data}-seed{seed}-{minutes:g}min"] for seed in seeds]


def baseline(name: str, data: str = BEAUTY) -> list[dict[str, Any]]:
    return [row for row in read_rows("quality", data) if row["cell"] == name]


def mean(rows: list[dict[str, Any]], split: str, metric: str) -> str:
    return f"{np.mean([row[split][metric][0] for row in rows]):.4f}"


def pair(rows: list[dict[str, Any]], split: str) -> str:
    return f"{mean(rows, split, 'recall@10')}, {mean(rows, split, 'ndcg@10')}"


def minutes_of(rows: list[dict[str, Any]], digits: int = 1) -> str:
    """CPU minutes of the training, and of those of the models that it is made of, where the rows say them."""
    trained = [row["training"] for row in rows]
    minutes = [of["cpu_minutes"] + sum(of.get("parts_cpu_minutes", {}).values()) for of in trained]
    return f"{np.mean(minutes):.{digits}f}"


# ---- the tables: a header, and a list of cells per row ----


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


def reasoning_of_rearec() -> list[list[str]]:
    lines = [["", "CPU min", "validation R@10, N@10", "test R@10, N@10", "unseen, test R@10, N@10"]]
    for label, method, seeds in (
        ("none (SASRec)", "rearec-none", THREE),
        ("naive (seed 1)", "rearec-naive", (1,)),
        ("RPE (seed 1)", "rearec-rpe", (1,)),
        ("ERL", "rearec-erl", THREE),
        ("PRL", "rearec-prl", THREE),
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
    for label, method in (("ERL", "rearec-erl"), ("PRL", "rearec-prl")):
        row = rows[f"{method} against rearec-none"]
        keys = [f"{split} {metric}" for split in ("test", "test-unseen") for metric in ("recall@10", "ndcg@10")]
        lines.append([label, *(difference(*row[key]["difference"]) for key in keys)])
    return lines


def codetree() -> list[list[str]]:
    """CodeTree and what it learns from, with the CPU minutes of everything that a model is made of."""
    lines = [
        ["", "", "CPU min, all parts", *(f"{split} R@10, N@10" for split in ("validation", "test", "unseen, test"))]
    ]
    for title, data in DATA.items():
        for label, rows in (
            ("SASRec", cells("rearec-none", THREE, data=data)),
            ("two of these added up", cells(TWO_RECOMMENDERS, THREE, data=data)),
            ("CodeTree, learned from these two", cells(DISTILLED, THREE, 14, data)),
        ):
            figures = [pair(rows, split) for split in ("validation", "test", "test-unseen")]
            lines.append([title if label == "SASRec" else "", label, minutes_of(rows, 0), *figures])
    return lines


def against_recommenders() -> list[list[str]]:
    lines = [["", "CodeTree less", "test Recall@10", "test NDCG@10", "unseen Recall@10", "unseen NDCG@10"]]
    for title, data in DATA.items():
        rows = {row["cell"]: row for row in read_rows("comparisons", data)}
        for label, method in (("one SASRec", "rearec-none"), ("two added up", TWO_RECOMMENDERS)):
            row = rows[f"{DISTILLED} against {method}"]
            keys = [f"{split} {metric}" for split in ("test", "test-unseen") for metric in ("recall@10", "ndcg@10")]
            lines.append([title, label, *(difference(*row[key]["difference"]) for key in keys)])
    return lines


def where_codetree_is_ahead() -> list[list[str]]:
    """By group of test users: NDCG@10 of one SASRec, and what CodeTree has more."""
    lines = [["test users", *(f"{title}: users, SASRec, more by CodeTree" for title in DATA)]]
    found = {}
    for data in DATA.values():
        rows = {row["cell"]: row for row in read_rows("comparisons", data)}
        found[data] = rows[f"{DISTILLED} against rearec-none"]["test ndcg@10 by group"]
    for name in found[YELP]:  # where people go back to an item: of the groups it has all
        shown = [name]
        for groups in found.values():
            number, _, other, *interval = groups.get(name, [0, 0, 0])
            shown.append(f"{number:,}: {other:.4f}, {difference(*interval)}" if number else "none")
        lines.append(shown)
    return lines


# model, its codes, its loss, what it thinks before it answers, and the cell: method, seeds, minutes of the model alone
OWN, OF_SASREC = "text, co-occurrence", "SASRec's vectors"
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
    ("S2GR", OF_SASREC, "labels", "before each code", "s2gr-recommender-codes", (1,), 30),
    ("COBRA", OF_SASREC, "labels", "none", "cobra-recommender-codes", (1,), 30),
    ("LIGER", OF_SASREC, "labels", "none", "liger-recommender-codes", (1,), 30),
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
        rows = cells(method, seeds, minutes)
        compared = against.get(f"{method} against rearec-none")
        shown = "" if compared is None else difference(*compared["test ndcg@10"]["difference"])
        if compared is not None and len(compared["seeds"]) < len(seeds):
            shown += f", seed {', '.join(map(str, compared['seeds']))}"
        figures = [minutes_of(rows, 0), pair(rows, "test"), shown, pair(rows, "test-unseen")]
        lines.append([label, codes, loss, thinking, str(len(seeds)), *figures])
    return lines


def every_method_beside() -> list[list[str]]:
    """The same models: rare items, coverage, bias by the position of a code, speed."""
    lines = [["model, codes, loss, thinking", "rare: R@10", "coverage", "bias by code", "users/s"]]
    for *named, method, seeds, minutes in _best_first():
        rows = cells(method, seeds, minutes)
        tests = [row["test"] for row in rows]
        of_rare = "recall@10 of rare items"  # which not every older row has
        rare = {row["seed"]: row["test"][of_rare] for row in rows if of_rare in row["test"]}
        bias = np.mean([[groups[0] for groups in test.get("bias", [])] for test in tests], 0)
        lines.append(
            [
                ", ".join(named),
                _of_seeds(rare, seeds),
                f"{np.mean([test['coverage@10'] for test in tests]):.2f}",
                ", ".join(f"{share:+.0%}" for share in bias),
                f"{np.mean([test['users_per_second'] for test in tests]):,.0f}",
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
    return sorted(EVERY_METHOD, key=lambda entry: mean(cells(*entry[4:]), "test", "ndcg@10"), reverse=True)


def difference(value: float, low: float, high: float) -> str:
    return f"{value:+.4f} [{low:+.4f}, {high:+.4f}]"


def ablation(variant: str, seeds: Sequence[int] = (1,), data: str = BEAUTY) -> list[dict[str, Any]]:
    found = {row["cell"]: row for row in read_rows("reg4rec_ablation", data)}
    return [found[f"{variant}, seed {seed}"] for seed in seeds]


def parts_of_reg4rec(data: str) -> list[list[str]]:
    lines = [["", "validation R@10, N@10", "test R@10, N@10", "test R@10 less the full model", "ms a user"]]
    ranks = read_ranks(data)
    full = metrics_of_users(ranks["full, seed 1 test"])["recall@10"]
    finished = {row["variant"] for row in read_rows("reg4rec_ablation", data)}
    for variant in VARIANTS:
        if variant not in finished or "codebooks" in variant:
            continue
        rows, less = ablation(variant, data=data), ""
        own = ranks[f"{variant}, seed 1 test"]
        if variant != "full" and np.array_equal(own, ranks["full, seed 1 test"]):
            less = "the same lists"
        elif variant != "full":
            less = difference(*paired_bootstrap_difference(metrics_of_users(own)["recall@10"], full))
        cost = f"{rows[0]['test']['cpu_ms_per_user']:.1f}"
        lines.append([variant, pair(rows, "validation"), pair(rows, "test"), less, cost])
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


TABLES = {
    "overview": overview,
    "parts of CARE": parts_of_care,
    "bias of CARE": bias_of_care,
    "reasoning of ReaRec": reasoning_of_rearec,
    "adaptive depth": adaptive_depth,
    "every method": every_method,
    "every method beside": every_method_beside,
    "published beside": published_beside,
    "heads": heads,
    "CodeTree": codetree,
    "CodeTree against recommenders": against_recommenders,
    "where CodeTree is ahead": where_codetree_is_ahead,
    "post-training of CARE": post_training,
    "against no reasoning": against_no_reasoning,
    "parts of REG4Rec on Beauty": lambda: parts_of_reg4rec(BEAUTY),
    "parts of REG4Rec on Yelp": lambda: parts_of_reg4rec(YELP),
    "three seeds on Yelp": seeds_on_yelp,
    "codebooks of REG4Rec": codebooks_of_reg4rec,
}


def markdown(lines: list[list[str]]) -> str:
    header, *rows = lines
    rule = ["---", *("---:" for _ in header[1:])]
    return "\n".join(
        "|" + "|".join(f" {cell} " if cell else " " for cell in line) + "|" for line in (header, rule, *rows)
    )


def written(text: str) -> tuple[str, list[str]]:
    """A page with its tables made anew, and their names."""
    names = []

    def make(match: re.Match) -> str:
        names.append(match[1])
        return f"<!-- table: {match[1]} -->\n\n{markdown(TABLES[match[1]]())}\n\n<!-- end of table -->"

    return re.sub(r"<!-- table: (.*?) -->\n.*?<!-- end of table -->", make, text, flags=re.DOTALL), names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    check, made, stale = parser.parse_args().check, [], []
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = path.read_text(encoding="utf-8")
        anew, names = written(text)
        made += names
        if anew != text:
            stale.append(path)
            if not check:
                path.write_text(anew, encoding="utf-8")
    for path in stale:
        print(f"{path.relative_to(ROOT)}: {'its tables differ from the results' if check else 'written'}")
    missing = sorted(set(TABLES) - set(made))
    if missing:
        print(f"no page has the tables {', '.join(missing)}")
    sys.exit(1 if missing or (check and stale) else 0)


if __name__ == "__main__":
    main()
