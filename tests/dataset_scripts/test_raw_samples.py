"""Files as their owners distribute them, from `prepare` to a recommendation."""

import gzip
import json

import numpy as np
import pytest
from conftest import exit_code

from hf_genrec.data.prepared import PreparedData
from hf_genrec.method import open_model

pytestmark = pytest.mark.libraries

USERS, ITEMS = 30, 12


def visits():
    """(user, item, seconds): even users like even items."""
    rng = np.random.default_rng(0)
    for user in range(USERS):
        for place, item in enumerate(rng.permutation(np.arange(user % 2, ITEMS, 2))):
            yield user, int(item), 1_445_040_000 + 86_400 * place + user


def amazon_2018(folder):
    reviews = [
        {"overall": 5.0, "verified": True, "reviewerID": f"A1HP7NVNPFMA{user:02d}", "asin": f"07000266{item:02d}",
         "reviewText": "ok", "summary": "ok", "unixReviewTime": seconds, "reviewTime": "10 17, 2015"}
        for user, item, seconds in visits()
    ]  # fmt: skip
    items = [
        {"asin": f"07000266{item:02d}", "title": f"Game {item}", "description": ["Number", str(item)],
         "category": ["Video Games", "Even" if item % 2 == 0 else "Odd"], "brand": "Sierra", "price": "$9.99"}
        for item in range(ITEMS)
    ]  # fmt: skip
    return "amazon_reviews", ("Video_Games_5.json.gz", reviews), ("meta_Video_Games.json.gz", items), "A1HP7NVNPFMA04"


def yelp(folder):
    dates = {s: str(np.datetime64(s, "s")).replace("T", " ") for _, _, s in visits()}
    reviews = [
        {"review_id": f"r{user}-{item}", "user_id": f"user-{user}", "business_id": f"place-{item}", "stars": 5.0,
         "useful": 0, "funny": 0, "cool": 0, "text": "ok", "date": dates[seconds]}
        for user, item, seconds in visits()
    ]  # fmt: skip
    places = [
        {"business_id": f"place-{item}", "name": f"Café {item}", "address": "", "city": "Santa Barbara", "state": "CA",
         "stars": 4.5, "review_count": 9, "is_open": 1, "attributes": None, "categories": "Coffee & Tea, Food"}
        for item in range(ITEMS)
    ]  # fmt: skip
    files = ("yelp_academic_dataset_review.json", reviews), ("yelp_academic_dataset_business.json", places)
    return "yelp", *files, "user-4"


@pytest.mark.parametrize("sample", [amazon_2018, yelp])
def test_from_the_raw_files_to_a_recommendation(tmp_path, sample):
    source, log, items, user = sample(tmp_path)
    for name, rows in (log, items):
        text = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
        (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    shared = ["--method", "codetree", "--source", source, "--source_path", tmp_path / log[0]]
    shared += ["--item_path", tmp_path / items[0], "--output_dir", tmp_path / "run", "--max_history", "8"]
    shared += ["--vectors", "collaborative", "--collaborative_dim", "4", "--codebook_sizes", "4", "4"]
    shared += ["--hidden_size", "16", "--num_train_epochs", "1", "--use_cpu", "true", "--disable_tqdm", "true"]
    for command in ("prepare", "tokenize", "train"):
        assert exit_code(command, *shared) == 0
    prepared = PreparedData.load(tmp_path / "run/data")
    expected = {}
    for number, item, _ in visits():
        expected.setdefault(number, []).append(item)
    ids = [[int(prepared.item_ids[row].removeprefix("07000266").removeprefix("place-")) for row in sequence]
           for sequence in prepared.sequences]  # fmt: skip
    assert ids == list(expected.values())
    assert prepared.report["items_without_text"] == 0
    assert exit_code("recommend", tmp_path / "run", "--user", user, "-k", "3") == 0
    model = open_model(tmp_path / "run")
    titles = {model.processor.title(item) for item in model.recommend(prepared.item_ids[:1], k=3)[0]}
    assert len(titles) == 3
    assert titles <= {f"Game {item}" for item in range(ITEMS)} | {f"Café {item}" for item in range(ITEMS)}
