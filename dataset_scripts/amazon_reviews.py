"""Amazon reviews of 2014, 2018 and 2023, a category at a time, in the files as they are distributed.

    tables = load("Video_Games_5.json.gz", "meta_Video_Games.json.gz")   # reviews, and the items' texts
    tables = load("ratings_Beauty.csv")                                  # ratings alone: no texts
    tables["interactions"], tables["items"]

Which of the three it is, a file says itself: reviews of 2014 and 2018 name `reviewerID` and `asin`, those of 2023
`user_id` and `parent_asin`. An item of 2023 is its parent: variants of colour and size are one item.

Ratings as CSV have no header in 2014 (user, item, rating, time) and in 2018 (item, user, rating, time): the column
whose ids all have the ten letters of an ASIN is the item's. The items' text of 2014 is written as Python writes it, and
read without running anything.

J. McAuley et al., Image-based Recommendations on Styles and Substitutes (SIGIR 2015); J. Ni et al., Justifying
Recommendations (EMNLP 2019); Y. Hou et al., Bridging Language and Items (arXiv 2403.03952).
"""

import itertools
import re
from collections.abc import Iterator
from typing import Any

import datasets

from hf_genrec.data.times import TimeUnit, parse_time
from hf_genrec.dataset_scripts.json_lines import parse_object
from hf_genrec.dataset_scripts.rows import checked
from hf_genrec.dataset_scripts.table_file import kind_of, text_lines
from hf_genrec.dataset_scripts.two_files import (
    TwoFiles,
    joined_text,
    load_two_files,
    parse_mapping,
    read_rating,
    require_id,
)

ASIN = re.compile(r"[A-Z0-9]{10}")
LOOKED_AT = 1000  # rows of a CSV without a header, to tell users from items
HEADER = ("user_id", "parent_asin", "rating", "timestamp")


class AmazonReviews(TwoFiles):
    """Configs: `interactions` and `items`."""

    FURTHER = ("brand", "price", "image")

    def interactions(self, path: str) -> Iterator[dict[str, Any]]:
        return _ratings(path) if kind_of(path) == ".csv" else checked(path, text_lines(path), _review)

    def items(self, path: str) -> Iterator[dict[str, Any]]:
        return checked(path, text_lines(path), _item)


def load(
    path: str, item_path: str | None = None, cache_dir: str | None = None, streaming: bool = False
) -> dict[str, datasets.Dataset]:
    """As [`load_two_files`], from a file of reviews or ratings and, optionally, one of items."""
    return load_two_files(AmazonReviews, path, item_path, cache_dir, streaming)


# ---- reviews ----


def _review(line: str) -> dict[str, Any]:
    review = parse_object(line)
    if "parent_asin" in review:
        return _interaction(*map(review.get, HEADER), "ms")
    if "reviewerID" in review:
        return _interaction(*map(review.get, ("reviewerID", "asin", "overall", "unixReviewTime")), "s")
    raise ValueError("neither reviewerID nor parent_asin: is it a file of reviews?")


def _interaction(user: Any, item: Any, rating: Any, time: Any, unit: TimeUnit) -> dict[str, Any]:
    user, item = require_id(user, "the user"), require_id(item, "the item")
    if time is None:
        raise ValueError("no time")
    return {"user_id": user, "item_id": item, "timestamp": parse_time(time, unit), "rating": read_rating(rating)}


def _ratings(path: str) -> Iterator[dict[str, Any]]:
    lines = text_lines(path)
    first = list(itertools.islice(lines, LOOKED_AT))
    names = [name.strip() for name in first[0][1].split(",")] if first else []
    if set(HEADER) <= set(names):
        places, width, unit = [names.index(name) for name in HEADER], len(names), "ms"
        first = first[1:]
    else:
        places, width, unit = [*_user_and_item(path, first), 2, 3], 4, "s"

    def convert(line: str) -> dict[str, Any]:
        cells = line.rstrip("\r\n").split(",")
        if len(cells) != width:
            raise ValueError(f"{len(cells)} fields, expected {width}")
        return _interaction(*(cells[place] for place in places), unit)

    return checked(path, itertools.chain(first, lines), convert)


def _user_and_item(path: str, lines: list[tuple[int, str]]) -> list[int]:
    """
    The columns of users and of items in a CSV without a header.

    Raises:
        ValueError: both or neither hold nothing but ASINs.
    """
    rows = [cells for _, line in lines if len(cells := line.rstrip("\r\n").split(",")) == 4]
    are_items = [bool(rows) and all(ASIN.fullmatch(row[place]) for row in rows) for place in (0, 1)]
    if rows and sum(are_items) != 1:
        raise ValueError(
            f"{path}, line 1: users and items cannot be told apart (no header, and one column of ten-letter ASINs is "
            f"expected among the first two): give a header, and use source: tabular"
        )
    return [1, 0] if are_items[0] else [0, 1]


# ---- items ----


def _item(line: str) -> dict[str, Any]:
    found = parse_mapping(line)
    categories = found.get("categories") or found.get("category") or found.get("main_category")
    image = found.get("imUrl") or found.get("imageURLHighRes") or found.get("imageURL") or found.get("images")
    title = joined_text(found.get("title"), " ")
    return {
        "item_id": require_id(found.get("parent_asin", found.get("asin")), "the item's asin"),
        "title": None if title is not None and "getTime" in title else title,  # a script of the shop's page (2018)
        "description": joined_text(found.get("description"), " "),
        "categories": joined_text(categories, ", "),
        "brand": joined_text(found.get("brand") or found.get("store"), ", "),
        "price": joined_text(found.get("price"), ", "),
        "image": _first_image(image),
    }


def _first_image(value: Any) -> str | None:
    if isinstance(value, list):
        value = value[0] if value else None
    if isinstance(value, dict):  # 2023: one picture in several sizes
        value = value.get("hi_res") or value.get("large") or value.get("thumb")
    return value if isinstance(value, str) and value else None
