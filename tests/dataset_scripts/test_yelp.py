"""Yelp's academic data set, as it is distributed."""

import json

import pytest

from hf_genrec.data.arguments import DataArguments
from hf_genrec.dataset_scripts import load_source

REVIEW = {
    "review_id": "KU_O5udG6zpxOg-VcAEodg", "user_id": "mh_-eMZ6K5RLWhZyISBhwA",
    "business_id": "XQfwVwDr-v0ZS3_CbbE5Xw", "stars": 3.0, "useful": 0, "funny": 0, "cool": 0, "text": "ok",
    "date": "2018-07-07 22:09:11",
}  # fmt: skip
BUSINESS = {
    "business_id": "XQfwVwDr-v0ZS3_CbbE5Xw", "name": "Turning Point", "address": "1460 Bethlehem Pike",
    "city": "North Wales", "state": "PA", "postal_code": "19454", "latitude": 40.2, "longitude": -75.2, "stars": 3.0,
    "review_count": 169, "is_open": 1, "attributes": {"GoodForKids": "True"},
    "categories": "Restaurants, Breakfast & Brunch", "hours": None,
}  # fmt: skip


@pytest.fixture
def load(tmp_path):
    def load(reviews, businesses=None):
        paths = {}
        for name, lines in (("review.json", reviews), ("business.json", businesses)):
            if lines is not None:
                text = "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines)
                (tmp_path / name).write_text(text)
                paths[name] = str(tmp_path / name)
        arguments = DataArguments(source="yelp", source_path=paths["review.json"], item_path=paths.get("business.json"))
        return load_source(arguments, cache_dir=str(tmp_path / "cache"))

    return load


def test_reviews_and_businesses(load):
    tables = load([REVIEW], [BUSINESS])
    assert list(tables["interactions"]) == [
        {"user_id": REVIEW["user_id"], "item_id": BUSINESS["business_id"], "timestamp": 1531001351000, "row": 0,
         "rating": 3.0}
    ]  # fmt: skip
    assert list(tables["items"]) == [
        {"item_id": BUSINESS["business_id"], "title": "Turning Point", "description": None,
         "categories": "Restaurants, Breakfast & Brunch", "address": "1460 Bethlehem Pike", "city": "North Wales",
         "state": "PA"}
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("reviews", "businesses", "message"),
    [
        ([REVIEW, "{"], None, "review.json, line 2: not JSON"),
        ([BUSINESS], None, "review.json, line 1: no date: is it the file of reviews?"),
        ([REVIEW | {"date": "yesterday"}], None, "review.json, line 1: 'yesterday' is not an ISO 8601 time"),
        ([REVIEW | {"business_id": ""}], None, "review.json, line 1: business_id is '': text is expected"),
        ([REVIEW], [BUSINESS, {"name": "x"}], "business.json, line 2: business_id is None: text is expected"),
    ],
)
def test_bad_lines_are_named(load, reviews, businesses, message):
    with pytest.raises(ValueError, match=r".") as error:
        load(reviews, businesses)
    assert message in str(error.value)
