"""Yelp's academic data set: reviews and businesses, JSON Lines as they are distributed.

    tables = load("yelp_academic_dataset_review.json", "yelp_academic_dataset_business.json")
    tables["interactions"], tables["items"]

A business is an item: its name is the title; `address`, `city` and `state` are columns of their own. Dates have no zone
and are read as UTC. The terms of use are Yelp's: nothing of the data is part of this package.
"""

from collections.abc import Iterator
from typing import Any

import datasets

from hf_genrec.dataset_scripts.json_lines import parse_object
from hf_genrec.dataset_scripts.rows import checked
from hf_genrec.dataset_scripts.table_file import text_lines
from hf_genrec.dataset_scripts.two_files import (
    TwoFiles,
    dated_review,
    joined_text,
    load_two_files,
    read_rating,
    require_id,
)


class Yelp(TwoFiles):
    """Configs: `interactions` and `items`."""

    FURTHER = ("address", "city", "state")

    def interactions(self, path: str) -> Iterator[dict[str, Any]]:
        return checked(path, text_lines(path), _review)

    def items(self, path: str) -> Iterator[dict[str, Any]]:
        return checked(path, text_lines(path), _business)


def load(
    path: str, item_path: str | None = None, cache_dir: str | None = None, streaming: bool = False
) -> dict[str, datasets.Dataset]:
    """As [`load_two_files`], from a file of reviews and, optionally, one of businesses."""
    return load_two_files(Yelp, path, item_path, cache_dir, streaming)


def _review(line: str) -> dict[str, Any]:
    review = parse_object(line)
    return dated_review(review, "user_id", "business_id") | {"rating": read_rating(review.get("stars"))}


def _business(line: str) -> dict[str, Any]:
    business = parse_object(line)
    return {
        "item_id": require_id(business.get("business_id"), "business_id"),
        "title": joined_text(business.get("name"), " "),
        "description": None,
        "categories": joined_text(business.get("categories"), ", "),
        **{name: joined_text(business.get(name), ", ") for name in Yelp.FURTHER},
    }
