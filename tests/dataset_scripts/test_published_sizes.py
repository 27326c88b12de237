"""The data sets of the papers: users, items and interactions as published, by every builder that reads their form.

The raw files are not at hand: they are written here from the published sequences, in the owners' formats, with reviews
that the 5-core has to drop.
"""

import csv
import gzip
import json
from pathlib import Path

import pytest

from hf_genrec.data.arguments import DataArguments
from hf_genrec.data.preparation import prepare
from hf_genrec.dataset_scripts import load_source

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
SIZES = {
    "amazon2014_beauty": (22363, 12101, 198502),
    "amazon2014_toys": (19412, 11924, 167597),
    "yelp2019": (30431, 20033, 316354),
    "ml-100k": (943, 1682, 100000),
}
CORE = {"user_core": 5, "item_core": 5}
DAY, FIRST = 86_400, 1_000_000_000
FEW = 4  # reviews of those that the core drops

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED}, the published data, is missing"),
]


def published(name):
    """user -> items, oldest first."""
    lines = (SHARED / name / "sequences.txt").read_text().splitlines()
    return {user: items for user, *items in map(str.split, lines)}


def dropped():
    return {f"few{user}": [f"rare{user}-{item}" for item in range(FEW)] for user in range(100)}


def prepared_by(tmp_path, **settings):
    arguments = DataArguments(**settings)
    tables = load_source(arguments, cache_dir=str(tmp_path / "cache"))
    return prepare(tables["interactions"], tables["items"], arguments)


def assert_published(name, prepared, expected=None, item_of=str):
    users, items, interactions = SIZES[name]
    assert prepared.report["kept"] == {"users": users, "items": items, "interactions": interactions}
    for user, sequence in zip(prepared.user_ids, prepared.sequences, strict=True):
        assert [prepared.item_ids[row] for row in sequence] == [item_of(item) for item in expected[user]]


@pytest.mark.parametrize("name", ["amazon2014_beauty", "amazon2014_toys", "yelp2019"])
def test_sequences_as_published(tmp_path, name):
    prepared = prepared_by(tmp_path, source="sequence_files", source_path=str(SHARED / name), **CORE)
    assert prepared.report["dropped"]["k_core"] == {"users": 0, "items": 0, "interactions": 0}
    assert_published(name, prepared, published(name))


def write_lines(path, lines):
    with gzip.open(path, "wt", compresslevel=1) as file:
        file.writelines(f"{line}\n" for line in lines)
    return str(path)


@pytest.mark.parametrize("form", ["reviews", "ratings"])
@pytest.mark.parametrize("name", ["amazon2014_beauty", "amazon2014_toys"])
def test_amazon_2014(tmp_path, name, form):
    """Reviews with the items' texts as Python writes them, and ratings alone."""
    found = published(name)
    rows = [
        (user, f"{item:0>10}"[:10] if user.isdigit() else f"R{user[3:]:0>4}{place:05}", FIRST + DAY * place)
        for user, items in (found | dropped()).items()
        for place, item in enumerate(items)
    ]
    settings = {}
    if form == "reviews":
        log = write_lines(tmp_path / "reviews_5.json.gz", (
            json.dumps({"reviewerID": user, "asin": item, "overall": 5.0, "unixReviewTime": time, "reviewText": ""})
            for user, item, time in rows
        ))  # fmt: skip
        settings["item_path"] = write_lines(tmp_path / "meta.json.gz", (
            repr({"asin": asin, "title": f"Item {asin}", "categories": [["Beauty", "It's new"]], "price": 9.5})
            for asin in sorted({item for _, item, _ in rows})
        ))  # fmt: skip
    else:
        log = str(tmp_path / "ratings.csv")
        Path(log).write_text("".join(f"{user},{item},5.0,{time}\n" for user, item, time in rows))
    prepared = prepared_by(tmp_path, source="amazon_reviews", source_path=log, **settings, **CORE)
    assert prepared.report["dropped"]["k_core"] == {"users": 100, "items": 100 * FEW, "interactions": 100 * FEW}
    assert_published(name, prepared, found, lambda item: f"{item:0>10}")
    if form == "reviews":
        assert prepared.report["items_without_text"] == 0
        assert prepared.items["categories"][0].as_py() == "Beauty, It's new"


def test_yelp(tmp_path):
    name, found = "yelp2019", published("yelp2019")
    rows = [(u, item, place) for u, items in (found | dropped()).items() for place, item in enumerate(items)]
    log = write_lines(tmp_path / "review.json.gz", (
        json.dumps({"review_id": "r", "user_id": user, "business_id": item, "stars": 4.0, "text": "",
                    "date": f"{2000 + place // 336:04}-{place // 28 % 12 + 1:02}-{place % 28 + 1:02} 10:00:00"})
        for user, item, place in rows
    ))  # fmt: skip
    texts = map(json.loads, (SHARED / name / "items.jsonl").read_text().splitlines())
    items = write_lines(tmp_path / "business.json.gz", (
        json.dumps({"business_id": str(text["item_id"]), "name": text["title"], "city": "Philadelphia",
                    "categories": ", ".join(text["categories"])})
        for text in texts
    ))  # fmt: skip
    prepared = prepared_by(tmp_path, source="yelp", source_path=log, item_path=items, **CORE)
    assert_published(name, prepared, found)
    assert prepared.items["title"][0].as_py() == "The Great Greek"
    assert prepared.report["items_without_text"] == 0


def test_rows_of_targets(tmp_path):
    """Beauty as `care_csv` has it: 80 % of the targets train, by time, ten items before each."""
    name, found = "amazon2014_beauty", published("amazon2014_beauty")
    rows = [
        [user, [int(before) for before in items[max(place - 10, 0) : place]], int(items[place]), place]
        for user, items in found.items()
        for place in range(1, len(items))
    ]
    rows.sort(key=lambda row: row[-1])
    cuts = [0, int(len(rows) * 0.8), int(len(rows) * 0.9), len(rows)]
    for part, start, end in zip(("train", "valid", "test"), cuts, cuts[1:], strict=False):
        (tmp_path / part).mkdir()
        with open(tmp_path / part / "Beauty.csv", "w", newline="") as file:
            csv.writer(file).writerows(
                [["user_id", "history_item_id", "item_id"], *(row[:3] for row in rows[start:end])]
            )
    prepared = prepared_by(tmp_path, source="care_csv", source_path=str(tmp_path), split="given")
    assert_published(name, prepared, found)
    assert prepared.report["split"]["validation_interactions"] == cuts[2] - cuts[1]
    assert prepared.report["split"]["test_interactions"] == cuts[3] - cuts[2]


def test_movielens_100k_as_atomic_files(tmp_path):
    """The table's own columns, and no key but the files, give what the builder of MovieLens gives."""
    path = SHARED / "ml-100k"
    files = {"source_path": str(path / "ml-100k.inter"), "item_path": str(path / "ml-100k.item")}
    prepared = prepared_by(tmp_path, source="tabular", **files)
    other = prepared_by(tmp_path, source="movielens", source_path=str(path))
    expected = {
        user: [other.item_ids[row] for row in sequence]
        for user, sequence in zip(other.user_ids, other.sequences, strict=True)
    }
    assert_published("ml-100k", prepared, expected)
    assert prepared.items["categories"].to_pylist() == other.items["categories"].to_pylist()
    assert prepared_by(tmp_path, source="tabular", min_rating=4, **files).report["kept"]["interactions"] == 55375
