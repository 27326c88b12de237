import gzip
import json
from pathlib import Path

import datasets
import pytest

from hf_genrec.data.arguments import DataArguments
from hf_genrec.dataset_scripts import load_source, sequence_files

AMAZON = [
    {"item_id": 2, "asin": "B2", "keywords": "red polish", "terms": ["opi", "red"], "attributes": [7, 1]},
    {"item_id": 1, "asin": "B1", "keywords": "", "terms": [], "price": 2.5},
]
YELP = [{"item_id": "x", "title": "Sal's", "categories": ["Pizza", "Food"]}]


@pytest.fixture
def folder(tmp_path):
    def write(sequences, items):
        (tmp_path / "sequences.txt").write_text(sequences)
        lines = [line if isinstance(line, str) else json.dumps(line) for line in items]
        (tmp_path / "items.jsonl").write_text("".join(f"{line}\n" for line in lines))
        return str(tmp_path)

    return write


def test_rows_by_hand_streamed_or_not(folder, tmp_path):
    path, cache = folder("u1 2 1 2\nu2 1", AMAZON), str(tmp_path / "cache")
    tables = sequence_files.load(path, cache_dir=cache)
    rows = [("u1", "2"), ("u1", "1"), ("u1", "2"), ("u2", "1")]
    assert list(tables["interactions"]) == [
        {"user_id": user, "item_id": item, "timestamp": None, "row": row, "rating": None}
        for row, (user, item) in enumerate(rows)
    ]
    columns = ["item_id", "title", "description", "categories", "asin", "attributes", "price"]
    assert tables["items"].column_names == columns
    assert [list(row.values()) for row in tables["items"]] == [
        ["2", "red polish", "opi red", None, "B2", "[7, 1]", None],
        ["1", None, None, None, "B1", None, "2.5"],
    ]
    streamed = sequence_files.load(path, cache_dir=cache, streaming=True)
    for key in ("interactions", "items"):
        assert isinstance(streamed[key], datasets.IterableDataset)
        assert list(streamed[key]) == list(tables[key])


def test_compressed_files_and_text_that_is_not_utf8(folder, tmp_path):
    path, cache = Path(folder("1 x", YELP)), str(tmp_path / "cache")
    expected = list(sequence_files.load(str(path), cache_dir=cache)["items"])
    for name in ("sequences.txt", "items.jsonl"):
        (path / f"{name}.gz").write_bytes(gzip.compress((path / name).read_bytes()))
        (path / name).unlink()
    tables = sequence_files.load(str(path), cache_dir=cache)
    assert [row["item_id"] for row in tables["interactions"]] == ["x"]
    assert list(tables["items"]) == expected
    (path / "sequences.txt").write_bytes("1 é\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"sequences\.txt, line 1: not UTF-8 \(byte 0xe9 at column 3\): save"):
        sequence_files.load(str(path), cache_dir=cache)


def test_titles_and_categories(folder, tmp_path):
    tables = sequence_files.load(folder("1 x", YELP), cache_dir=str(tmp_path / "cache"))
    assert list(tables["items"]) == [
        {"item_id": "x", "title": "Sal's", "description": None, "categories": "Pizza, Food"}
    ]


def test_two_paths_instead_of_a_folder(folder, tmp_path):
    path = Path(folder("1 x", YELP))
    (path / "sequences.txt").rename(path / "log.txt")
    (path / "items.jsonl").rename(path / "text.jsonl")
    arguments = DataArguments(
        source="sequence_files", source_path=str(path / "log.txt"), item_path=str(path / "text.jsonl")
    )
    tables = load_source(arguments, cache_dir=str(tmp_path / "cache"))
    assert (tables["interactions"]["item_id"][:], tables["items"]["item_id"][:]) == (["x"], ["x"])
    with pytest.raises(FileNotFoundError, match=r"items\.jsonl is not a file: correct item_path"):
        sequence_files.load(str(path / "log.txt"))


@pytest.mark.parametrize(
    ("sequences", "items", "message"),
    [
        ("1 x\n2\n3\n", YELP, "sequences.txt, line 2: user '2' has no items (2 bad rows"),
        ("1 x\n\n1 y\n", YELP, "sequences.txt, line 3: user '1' is there twice (1 bad row "),
        ("1 x\n", [*YELP, "{"], "items.jsonl, line 2: not JSON (Expecting property name"),
        ("1 x\n", [*YELP, "[1]"], "items.jsonl, line 2: not a JSON object"),
        ("1 x\n", [*YELP, {"title": "y"}], "items.jsonl, line 2: item_id is null"),
        ("1 x\n", [*YELP, {"item_id": 1.5}], "items.jsonl, line 2: item_id is 1.5"),
    ],
)
def test_bad_lines_are_named(folder, tmp_path, sequences, items, message):
    with pytest.raises(ValueError, match=r".") as error:
        sequence_files.load(folder(sequences, items), cache_dir=str(tmp_path / "cache"))
    assert message in str(error.value)
    assert "\n" not in str(error.value)
