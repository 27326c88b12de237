"""Writes the tables of README and docs from the rows in benchmarks/results, between their two marks:

    python -m benchmarks.tables            # writes
    python -m benchmarks.tables --check    # says which differ, and ends with 1 if one does

A table stands between `<!-- table: NAME -->` and `<!-- end of table -->`.
"""

import argparse
import re
import sys
from pathlib import Path

from benchmarks.table_rows import BEAUTY, YELP
from benchmarks.tables_of_caches import second_requests, smaller_caches
from benchmarks.tables_of_care import bias_of_care, parts_of_care, post_training
from benchmarks.tables_of_codetree import against_recommenders, codetree, where_codetree_is_ahead
from benchmarks.tables_of_every_method import every_method, every_method_beside, heads, overview, published_beside
from benchmarks.tables_of_rearec import adaptive_depth, against_no_reasoning, reasoning_of_rearec
from benchmarks.tables_of_reg4rec import (
    codebooks_at_equal_epochs,
    codebooks_of_reg4rec,
    long_post_training,
    parts_of_reg4rec,
    seeds_on_yelp,
)

ROOT = Path(__file__).parents[1]
TABLES = {
    "overview": overview,
    "parts of CARE": parts_of_care,
    "bias of CARE": bias_of_care,
    "smaller caches": smaller_caches,
    "second requests": second_requests,
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
    "long post-training of REG4Rec": long_post_training,
    "codebooks at equal epochs": codebooks_at_equal_epochs,
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
