"""MicroLens' pairs and titles, as they are distributed."""

import pytest

from hf_genrec.data.arguments import DataArguments
from hf_genrec.dataset_scripts import load_source

PAIRS = "user,item,timestamp\n1,1,1662984066081\n2,17,1662984066082\n1,17,1663118949081\n"


@pytest.fixture
def load(tmp_path):
    def load(pairs, titles=None):
        (tmp_path / "pairs.csv").write_text(pairs)
        item_path = None
        if titles is not None:
            (tmp_path / "titles.csv").write_text(titles)
            item_path = str(tmp_path / "titles.csv")
        arguments = DataArguments(source="microlens", source_path=str(tmp_path / "pairs.csv"), item_path=item_path)
        return load_source(arguments, cache_dir=str(tmp_path / "cache"))

    return load


@pytest.mark.parametrize("header", ["item,title\n", ""])
def test_pairs_and_titles(load, header):
    tables = load(PAIRS, f'{header}1,Happy dog, happy life\n17,"She said ""hi"", and left"\n')
    assert [list(row.values()) for row in tables["interactions"]] == [
        ["1", "1", 1662984066081, 0, None], ["2", "17", 1662984066082, 1, None], ["1", "17", 1663118949081, 2, None]
    ]  # fmt: skip
    assert [(row["item_id"], row["title"]) for row in tables["items"]] == [
        ("1", "Happy dog, happy life"), ("17", 'She said "hi", and left')
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("pairs", "titles", "message"),
    [
        ("1,1,1662984066081\n", None, "pairs.csv, line 1: the header user,item,timestamp is expected"),
        (PAIRS + "3,4\n", None, "pairs.csv, line 5: 2 fields, expected 3"),
        (PAIRS + "3,,5\n", None, "pairs.csv, line 5: the item is '': text is expected"),
        (PAIRS + "3,4,now\n", None, "pairs.csv, line 5: 'now' is not a number"),
        (PAIRS, ",no id\n", "titles.csv, line 1: the item is '': text is expected"),
    ],
)
def test_bad_lines_are_named(load, pairs, titles, message):
    with pytest.raises(ValueError, match=r".") as error:
        load(pairs, titles)
    assert message in str(error.value)
