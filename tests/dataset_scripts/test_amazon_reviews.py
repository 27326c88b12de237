"""Amazon's files of three years, as they are distributed."""

import gzip
import json

import pytest

from hf_genrec.data.arguments import DataArguments
from hf_genrec.dataset_scripts import amazon_reviews, load_source

REVIEW_2014 = {
    "reviewerID": "A1YJEY40YUW4SE", "asin": "7806397051", "reviewerName": "Andrea", "helpful": [3, 4],
    "reviewText": "Very oily", "overall": 1.0, "summary": "Don't", "unixReviewTime": 1391040000,
    "reviewTime": "01 30, 2014",
}  # fmt: skip
ITEM_2014 = (
    "{'asin': '7806397051', 'description': 'WAWO &quot;15&quot; Color', 'title': \"WAWO 15 Color's Palette\", "
    "'price': 12.5, 'imUrl': 'http://x/1.jpg', 'related': {'also_viewed': ['B00']}, 'salesRank': {'Beauty': 7}, "
    "'brand': 'WAWO', 'categories': [['Beauty', 'Makeup', 'Face'], ['Beauty', 'Concealer']]}"
)
REVIEW_2018 = {
    "overall": 5.0, "verified": True, "reviewTime": "10 17, 2015", "reviewerID": "A1HP7NVNPFMA4N",
    "asin": "0700026657", "reviewerName": "Ambrosia", "reviewText": "nice", "summary": "ok",
    "unixReviewTime": 1445040000, "style": {"Platform:": " PC"}, "image": ["http://x/r.jpg"],
}  # fmt: skip
ITEM_2018 = {
    "category": ["Video Games", "PC", "Games"], "tech1": "", "description": ["Step into", "the game"], "fit": "",
    "title": "Reversi &amp; Co", "also_buy": [], "brand": "Sierra", "feature": [], "rank": [">#2 in"],
    "main_cat": "Video Games", "date": "", "price": "$9.99", "asin": "0700026657",
    "imageURL": ["http://x/s.jpg"], "imageURLHighRes": ["http://x/l.jpg"],
}  # fmt: skip
REVIEW_2023 = {
    "rating": 4.0, "title": "Cute", "text": "I like it", "images": [], "asin": "B088", "parent_asin": "B08BHN9PK5",
    "user_id": "AGKHLEW2SOWHNMFQIJGBECAF7INQ", "timestamp": 1588687728923, "helpful_vote": 0,
    "verified_purchase": True,
}  # fmt: skip
ITEM_2023 = {
    "main_category": "All Beauty", "title": "Howard Leather", "average_rating": 4.8, "rating_number": 10,
    "features": ["soft"], "description": [], "price": None,
    "images": [{"thumb": "http://x/t.jpg", "large": "http://x/L.jpg", "variant": "MAIN", "hi_res": None}],
    "videos": [], "store": "Howard Products", "categories": [], "details": {"Package": "7"},
    "parent_asin": "B08BHN9PK5", "bought_together": None,
}  # fmt: skip


@pytest.fixture
def load(tmp_path):
    def write(name, lines):
        text = "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines)
        (tmp_path / name).write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return str(tmp_path / name)

    def load(name, lines, item_name=None, items=()):
        item_path = None if item_name is None else write(item_name, items)
        arguments = DataArguments(source="amazon_reviews", source_path=write(name, lines), item_path=item_path)
        return load_source(arguments, cache_dir=str(tmp_path / "cache"))

    return load


def rows(table, *columns):
    return [tuple(row[column] for column in columns) for row in table]


@pytest.mark.parametrize(
    ("name", "review", "item_name", "item", "interaction", "text"),
    [
        (
            "reviews_Beauty_5.json.gz", REVIEW_2014, "meta_Beauty.json.gz", ITEM_2014,
            ("A1YJEY40YUW4SE", "7806397051", 1391040000000, 1.0, 0),
            ("7806397051", "WAWO 15 Color's Palette", 'WAWO "15" Color', "Beauty, Makeup, Face, Concealer", "WAWO",
             "12.5", "http://x/1.jpg"),
        ),
        (
            "Video_Games_5.json.gz", REVIEW_2018, "meta_Video_Games.json.gz", ITEM_2018,
            ("A1HP7NVNPFMA4N", "0700026657", 1445040000000, 5.0, 0),
            ("0700026657", "Reversi & Co", "Step into the game", "Video Games, PC, Games", "Sierra", "$9.99",
             "http://x/l.jpg"),
        ),
        (
            "All_Beauty.jsonl.gz", REVIEW_2023, "meta_All_Beauty.jsonl.gz", ITEM_2023,
            ("AGKHLEW2SOWHNMFQIJGBECAF7INQ", "B08BHN9PK5", 1588687728923, 4.0, 0),
            ("B08BHN9PK5", "Howard Leather", None, "All Beauty", "Howard Products", None, "http://x/L.jpg"),
        ),
    ],
    ids=["2014", "2018", "2023"],
)  # fmt: skip
def test_reviews_and_items(load, name, review, item_name, item, interaction, text):
    tables = load(name, [review], item_name, [item, item])  # 2018 has items twice
    assert rows(tables["interactions"], "user_id", "item_id", "timestamp", "rating", "row") == [interaction]
    columns = ("item_id", "title", "description", "categories", "brand", "price", "image")
    assert tables["items"].column_names == list(columns)
    assert rows(tables["items"], *columns) == [text]


def test_a_script_of_the_shop_is_no_title(load):
    item = ITEM_2018 | {"title": "var aPageStart = (new Date()).getTime();"}
    tables = load("Video_Games_5.json", [REVIEW_2018], "meta.json", [item])
    assert rows(tables["items"], "item_id", "title") == [("0700026657", None)]


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("ratings.csv", ["A39HTATAQ9V7YF,0205616461,5.0,1369699200", "A3JM6GV9MNOF9X,B000052YM4,3.0,1355443200"]),
        ("Video_Games.csv", ["0205616461,A39HTATAQ9V7YF,5.0,1369699200", "B000052YM4,A3JM6GV9MNOF9X,3.0,1355443200"]),
        (
            "Toys.train.csv",
            ["user_id,parent_asin,rating,timestamp,history", "A39HTATAQ9V7YF,0205616461,5.0,1369699200000,",
             "A3JM6GV9MNOF9X,B000052YM4,3.0,1355443200000,0205616461 B000052YM5"],
        ),
    ],
    ids=["2014", "2018", "2023"],
)  # fmt: skip
def test_ratings_alone(load, name, lines):
    tables = load(name, lines)
    assert rows(tables["interactions"], "user_id", "item_id", "timestamp", "rating", "row") == [
        ("A39HTATAQ9V7YF", "0205616461", 1369699200000, 5.0, 0),
        ("A3JM6GV9MNOF9X", "B000052YM4", 1355443200000, 3.0, 1),
    ]
    assert rows(tables["items"], *tables["items"].column_names) == [
        ("0205616461", None, None, None), ("B000052YM4", None, None, None)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        ("r.json", [REVIEW_2014, "{"], "r.json, line 2: not JSON (Expecting property name"),
        ("r.json", [ITEM_2018], "r.json, line 1: neither reviewerID nor parent_asin: is it a file of reviews?"),
        ("r.json", [REVIEW_2014 | {"asin": None}], "r.json, line 1: the item is None: text is expected"),
        ("r.json", [REVIEW_2014, REVIEW_2014 | {"unixReviewTime": None}], "r.json, line 2: no time"),
        ("r.json", [REVIEW_2014 | {"unixReviewTime": "soon"}], "r.json, line 1: 'soon' is not a number"),
        ("r.json", [REVIEW_2014 | {"overall": 11}], "bad rating: 11 is not one of 0 to 5 stars"),
        ("r.json", [REVIEW_2014 | {"overall": "good"}], "bad rating: 'good' is not a number"),
        ("r.csv", ["A39HTATAQ9V7YF,0205616461,5.0", "A39HTATAQ9V7YF,0205616461,5.0,1369699200"], "r.csv, line 1: 3 f"),
        ("r.csv", ["ann,film,5.0,1369699200"], "users and items cannot be told apart"),
        ("r.csv", ["B000052YM4,0205616461,5.0,1369699200"], "users and items cannot be told apart"),
        ("r.csv", ["user_id,parent_asin,rating,timestamp"], "r.csv holds no rows"),
        ("r.json.gz", [], "r.json.gz holds no rows"),
    ],
)
def test_bad_lines_are_named(load, name, lines, message):
    with pytest.raises(ValueError, match=r".") as error:
        load(name, lines)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("{'asin': open('x')}", "line 1: neither JSON nor a mapping as Python writes it"),
        ("{'asin'}", "line 1: not a mapping: write one a line"),
        ("{'asin': 7}", "line 1: the item's asin is 7: text is expected"),
        ("{'a': " + "[" * 90000, "line 1: neither JSON nor a mapping as Python writes it"),
    ],
)
def test_items_that_are_none(load, item, message):
    with pytest.raises(ValueError, match=r".") as error:
        load("r.json", [REVIEW_2014], "m.json", [item])
    assert message in str(error.value)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a file: correct source_path"):
        amazon_reviews.load(str(tmp_path / "nothing"))
