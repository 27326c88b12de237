"""Tables of CodeTree."""

from benchmarks.cells import read_rows
from benchmarks.table_rows import BEAUTY, DISTILLED, THREE, TWO_RECOMMENDERS, YELP, cells, difference, minutes_of, pair

DATA = {"Beauty": BEAUTY, "Toys": "amazon2014_toys", "Yelp": YELP}


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
