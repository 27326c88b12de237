"""Parquet rows, read a part at a time."""

from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from batch_runs import write_histories

from hf_genrec.serving.row_source import PartReader, RowSource

ROLES = {"user_id": "id", "item_ids": "ids"}
HISTORIES = [["a"] * (row % 4) for row in range(25)]


def test_parts_have_their_size_whatever_the_files_and_row_groups(tmp_path):
    write_histories(tmp_path / "1.parquet", HISTORIES[:11], row_group_size=3)
    write_histories(tmp_path / "2.parquet", HISTORIES[11:], range(11, 25), row_group_size=100)
    (tmp_path / "_SUCCESS").write_text("")
    (tmp_path / "_2.parquet").write_text("no Parquet")
    source = RowSource(tmp_path, ROLES)
    assert source.check() == 25
    for size in (1, 4, 7, 25, 100):
        parts = list(source.parts(size))
        assert [part.num_rows for part in parts] == [size] * (25 // size) + [25 % size] * (25 % size > 0)
        whole = pa.concat_tables(parts)
        assert whole["item_ids"].to_pylist() == HISTORIES
        assert whole["user_id"].to_pylist() == [f"u{row}" for row in range(11)] + [str(row) for row in range(11, 25)]
        assert {part.schema for part in parts} == {
            pa.schema({"user_id": pa.string(), "item_ids": pa.list_(pa.string())})
        }


def test_parts_by_number_in_any_order(tmp_path):
    source = RowSource(write_histories(tmp_path / "h.parquet", HISTORIES), ROLES)
    parts, read = list(source.parts(4)), PartReader(source, 4)
    for number in (0, 3, 4, 1, 6, 0):
        assert read(number).equals(parts[number])


@pytest.mark.parametrize(
    ("users", "items", "expected"),
    [
        ([1, 2], [[3], []], [["1", ["3"]], ["2", []]]),
        ([1.0, 2.0], [[Decimal(3)], []], [["1", ["3"]], ["2", []]]),
        (pa.array(["x", "y"]).dictionary_encode(), pa.array([["a"], []], pa.large_list(pa.large_string())), None),
        ([b"x", b"y"], pa.array([["a"], []], pa.list_(pa.string_view())), None),
    ],
)
def test_ids_of_other_types_are_ids_as_text(tmp_path, users, items, expected):
    path = write_histories(tmp_path / "h.parquet", items, users)
    rows = next(RowSource(path, ROLES).parts(5)).to_pylist()
    assert [list(row.values()) for row in rows] == (expected or [["x", ["a"]], ["y", []]])


@pytest.mark.parametrize(
    ("users", "items", "message"),
    [
        (["x", None], [["a"], []], r"row 2: no id in column 'user_id'"),
        (["x", " "], [["a"], []], r"row 2: no id in column 'user_id'"),
        (["x", "y"], [["a"], ["b", None]], r"row 2: no id in column 'item_ids'"),
        (["x", "y"], [["a"], ["b", ""]], r"row 2: no id in column 'item_ids'"),
        (["x", "y"], [["a"], None], r"row 2: null in column 'item_ids': an empty list says"),
        ([1.5, 2.0], [["a"], []], r"row 1: the id 1.5 in column 'user_id' is a decimal number"),
        (["x", "y"], ["a", "b"], r"column 'item_ids' is of type string: give lists of item ids"),
        (["x", "y"], [[["a"]], []], r"column 'item_ids' \(item ids\) is of type"),
        ([True, False], [["a"], []], r"column 'user_id' \(ids\) is of type bool"),
    ],
)
def test_rows_that_cannot_be_read_are_named(tmp_path, users, items, message):
    path = write_histories(tmp_path / "h.parquet", items, users)
    source = RowSource(path, ROLES)
    with pytest.raises(ValueError, match=rf"h\.parquet.*{message}"):
        assert source.check() == len(list(source.parts(1)))


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing is no Parquet file"):
        RowSource(tmp_path / "nothing", ROLES).check()
    with pytest.raises(FileNotFoundError, match="no folder with any"):
        RowSource(tmp_path, ROLES).check()
    (tmp_path / "text.parquet").write_text("user_id,item_ids\n")
    with pytest.raises(ValueError, match=r"text\.parquet: not a Parquet file that can be read"):
        RowSource(tmp_path, ROLES).check()
    (tmp_path / "films.csv").write_text("item_id,title\n")
    with pytest.raises(
        ValueError, match=r"films\.csv is no Parquet file.*read_csv\('films\.csv', dtype=str\)\.to_parquet"
    ):
        RowSource(tmp_path / "films.csv", ROLES).check()
    pq.write_table(pa.table({"user": ["x"]}), tmp_path / "text.parquet")
    with pytest.raises(ValueError, match=r"no column 'user_id'; columns found: user"):
        RowSource(tmp_path, ROLES).check()


def test_text_is_that_of_prepare(tmp_path):
    lists = pa.table({"item_id": [7, 8], "tags": [["a", "b"], None], "year": [1999, 2000]})
    pq.write_table(lists, tmp_path / "items.parquet")
    source = RowSource(tmp_path / "items.parquet", {"item_id": "id", "tags": "text", "year": "text"})
    assert source.check() == 2
    assert next(source.parts(5)).to_pylist() == [
        {"item_id": "7", "tags": "a, b", "year": "1999"},
        {"item_id": "8", "tags": None, "year": "2000"},
    ]
