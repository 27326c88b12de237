"""MicroLens: who watched which short video, and the videos' titles, as they are distributed.

    tables = load("MicroLens-100k_pairs.csv", "MicroLens-100k_title_en.csv")
    tables["interactions"], tables["items"]

The pairs have a header (user, item, timestamp; milliseconds). The titles are lines `item,title`, with a header in some
releases and none in others; a title may hold commas.

Y. Ni et al.: A Content-Driven Micro-Video Recommendation Dataset at Scale (arXiv 2309.15379).
"""

import csv
from collections.abc import Iterator
from typing import Any

import datasets

from hf_genrec.data.times import parse_time
from hf_genrec.dataset_scripts.rows import checked
from hf_genrec.dataset_scripts.table_file import text_lines
from hf_genrec.dataset_scripts.two_files import TwoFiles, joined_text, load_two_files, require_id

PAIRS = ["user", "item", "timestamp"]


class MicroLens(TwoFiles):
    """Configs: `interactions` and `items`."""

    def interactions(self, path: str) -> Iterator[dict[str, Any]]:
        lines = text_lines(path)
        _, header = next(lines, (1, ""))
        if header.strip().split(",") != PAIRS:
            raise ValueError(f"{path}, line 1: the header {','.join(PAIRS)} is expected: is it the file of pairs?")
        return checked(path, lines, _pair)

    def items(self, path: str) -> Iterator[dict[str, Any]]:
        lines = text_lines(path)
        return checked(path, ((number, line) for number, line in lines if not _is_header(number, line)), _title)


def load(
    path: str, item_path: str | None = None, cache_dir: str | None = None, streaming: bool = False
) -> dict[str, datasets.Dataset]:
    """As [`load_two_files`], from a file of pairs and, optionally, one of titles."""
    return load_two_files(MicroLens, path, item_path, cache_dir, streaming)


def _pair(line: str) -> dict[str, Any]:
    cells = line.strip().split(",")
    if len(cells) != len(PAIRS):
        raise ValueError(f"{len(cells)} fields, expected {len(PAIRS)}")
    user, item, time = cells
    ids = {"user_id": require_id(user, "the user"), "item_id": require_id(item, "the item")}
    return {**ids, "timestamp": parse_time(time, "ms"), "rating": None}


def _is_header(number: int, line: str) -> bool:
    return number == 1 and line.partition(",")[0].strip() == "item"


def _title(line: str) -> dict[str, Any]:
    item, _, title = line.strip().partition(",")
    if title.startswith('"'):
        item, *titles = next(csv.reader([line.strip()]))
        title = ",".join(titles)
    return {
        "item_id": require_id(item, "the item"),
        "title": joined_text(title, " "),
        "description": None,
        "categories": None,
    }
