"""What an engine reads whole is what is read row by row, or is left to be read row by row."""

import logging
import os
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_genrec.data.arguments import DataArguments
from hf_genrec.data.duckdb_engine import duckdb_engine
from hf_genrec.data.prepared import PreparedData
from hf_genrec.dataset_scripts import tabular
from hf_genrec.dataset_scripts.whole_logs import whole_log
from hf_genrec.trainers import prepare_data
from hf_genrec.training.config import parse_command_line

HEADER = "user_id,item_id,timestamp"
COLUMNS = ("user_id", "item_id", "timestamp", "rating", "row")


def whole(path, tmp_path, **options):
    """Interactions and items as lists, or `None`."""
    arguments = DataArguments(source="tabular", source_path=str(path), **options)
    with duckdb_engine(tmp_path / "engine") as engine:
        log = whole_log(arguments, engine)
        if log is None:
            return None
        items = None if log.items is None else log.items.to_pylist()
        return log.interactions.order_by("row").select(*COLUMNS).to_pyarrow().to_pylist(), items


def row_by_row(path, **options):
    """The same by the builders' own generators, or the error."""
    defaults = {"time_column": "timestamp", "interactions_path": str(path)}
    builders = [tabular.Tabular(config_name=name, **defaults | options) for name in ("interactions", "items")]
    try:
        interactions, items = ([row for _, row in builder._generate_examples()] for builder in builders)
    except ValueError as error:
        return error
    return [{name: row[name] for name in COLUMNS} for row in interactions], items


def same(path, tmp_path, **options):
    """Whether the file was read whole; if so, as row by row."""
    found = whole(path, tmp_path, **options)
    if found is not None:
        assert found == row_by_row(path, **options)
    assert not (tmp_path / "engine").exists()
    return found is not None


@pytest.mark.parametrize(
    ("content", "options"),
    [
        (f"{HEADER}\n007,a,10\n007,b,11.5\n8,a,\n", {}),
        (f"{HEADER}\r\n007,a,10\r\n\r\n8,a,\r\n", {}),
        (f"\ufeff{HEADER}\n007,a,10\n\n\n8,é,-12", {}),
        (f'"user_id","item_id",timestamp\n{"x" * 5000},a#b,10\n', {}),
        (f"{HEADER},title\nu,b,3,B\nu,a,1,\nu,b,2,other\n", {}),
        (f"{HEADER},stars,name\nu,b,3,4.5,B\nu,a,1,,A\n", {"rating_column": "stars", "title_column": "name"}),
        ("a,user_id,item_id\n,u,i\n1,v,i\n", {"time_column": None}),
        (f"{HEADER}\nu,a,1420070400123\nu,b,1420070400123.4\n", {"time_unit": "ms"}),
        (f"{HEADER}\nu,a,2015-01-01\nu,b,2015-01-02T10:11:12\nu,b,2015-01-02 10:11:12Z\nu,b,\n", {"time_unit": "iso"}),
        (f"{HEADER}\nu,a,1600000000.123\nu,b,1600000000.999\nu,c,0.25\n", {}),
    ],
)
def test_plain_text_is_read_whole(tmp_path, content, options):
    path = tmp_path / "log.csv"
    path.write_bytes(content.encode())
    assert same(path, tmp_path, **options)


@pytest.mark.parametrize(
    "content",
    [
        f'{HEADER}\n"u",a,1\n',
        f"{HEADER}\nu,a,1\r\nv,a,2\rw,a,3\n",
        f"{HEADER}\nu,a,1\n,b,2\n",
        f"{HEADER}\nu,a,1\n ,b,2\n",
        f"{HEADER}\nu,a,1\n\u2003,b,2\n",
        f"{HEADER}\nu,a,1\nu,b\n",
        f"{HEADER}\nu,a,1\nu,b,2,3\n",
        f"{HEADER}\nu,a,1\nu,b,2,\n",
        f"{HEADER}\nu,a,noon\n",
        f"{HEADER}\nu,a,1_0\n",
        f"{HEADER}\nu,a,007\n",
        f"{HEADER}\nu,a,1420070400000\n",
        f"{HEADER}\nu,a,99999999999999999999\n",
        f"{HEADER}\nu,a, 1\n",
        f"{HEADER}\nu,a,0.0005\n",
        f"{HEADER}\nu,a\0,1\n",
        f"{HEADER}\n",
        HEADER,
        (HEADER + "\nu,a,1" * 3000 + "\nu,é,1\n").encode("latin-1"),
        (HEADER + ",note" + "\nu,a,1," * 3000 + "é\n").encode("latin-1"),
        f"{HEADER}\nu,é,1".encode()[:-4],
    ],
)
def test_what_is_not_plain_is_left_to_be_read_row_by_row(tmp_path, content):
    path = tmp_path / "log.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert whole(path, tmp_path) is None


TOKENS = [
    "u",
    "i1",
    "",
    " ",
    "10",
    "-3",
    "1.5",
    "é",
    "\xa0x",
    "\n",
    "\r\n",
    ",",
    ",",
    '"',
    "#",
    "2015-01-01",
    "1e3",
    "+1",
]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.one_of(st.sampled_from(TOKENS), st.just("\nu,i,7"), st.just("\nv,j,8.25")), max_size=12), st.booleans()
)
def test_any_text_is_read_as_row_by_row_or_left(tmp_path, tokens, iso):
    path = tmp_path / "log.csv"
    path.write_text(HEADER + "\n" + "u,i,7\n" * (not iso) + "".join(tokens), encoding="utf-8", newline="")
    same(path, tmp_path, time_unit="iso" if iso else "s")


LOG = {"user_id": ["u", "v"], "item_id": ["a", "b"], "timestamp": [1_600_000_000, None]}
MOMENTS = [datetime(2015, 1, 1, 10, 11, 12, 345678, tzinfo=UTC), None]


@pytest.mark.parametrize(
    ("columns", "is_whole"),
    [
        ({}, True),
        ({"user_id": [7, -8]}, True),
        ({"user_id": pa.array([7, 2**63], pa.uint64())}, True),
        ({"item_id": pa.array(["a", "b"]).dictionary_encode()}, True),
        ({"item_id": pa.array(["a", "b"], pa.large_string())}, True),
        ({"item_id": ["10.0", "é\u3000"]}, True),
        ({"timestamp": [1.25, None]}, True),
        ({"timestamp": [1.5e9 + 0.123, -4.0]}, True),
        ({"timestamp": ["12", ""]}, True),
        ({"timestamp": pa.nulls(2, pa.int64())}, True),
        *(
            ({"timestamp": pa.array(MOMENTS, pa.timestamp(unit, zone))}, True)
            for unit in ("us",)
            for zone in ("UTC", None)
        ),
        ({"timestamp": pa.array(MOMENTS, pa.timestamp("us", "America/New_York"))}, True),
        ({"timestamp": pa.array([1000, 1_420_070_400_123], pa.timestamp("ms"))}, True),
        ({"timestamp": pa.array([-1, 1_420_070_400_123], pa.timestamp("ms"))}, False),
        ({"timestamp": pa.array([2**53, 1], pa.timestamp("ms"))}, False),
        ({"timestamp": pa.array([1, 2], pa.timestamp("ns"))}, False),
        ({"timestamp": [float("nan"), 1.0]}, False),
        ({"timestamp": [2**62, 1]}, False),
        ({"timestamp": pa.array([1, 2], pa.uint64())}, False),
        ({"user_id": ["u", None]}, False),
        ({"user_id": ["u", ""]}, False),
        ({"user_id": ["u", "\n"]}, False),
        ({"user_id": [b"u", b"v"]}, False),
        ({"user_id": [1.0, 2.0]}, False),
        ({"USER_ID": [1.0, 2.0]}, False),
        ({"in_file_row": [1, 2]}, False),
        ({"title": ["A", None]}, True),
        ({"title": ["", "B"]}, True),
        ({"title": [["A"], None]}, False),
        ({"title": [1, 2]}, False),
        ({"stars": [1, None]}, True),
        ({"stars": [1.5, None]}, True),
        ({"stars": pa.array([1.1, None], pa.float32())}, True),
        ({"stars": ["4.5", ""]}, True),
        ({"stars": [float("inf"), None]}, False),
        ({"stars": ["good", ""]}, False),
        ({"stars": [True, False]}, False),
    ],
)
def test_parquet_columns_are_read_whole_where_their_types_are_plain(tmp_path, columns, is_whole):
    path = tmp_path / "log.parquet"
    pq.write_table(pa.table(LOG | columns), path)
    assert same(path, tmp_path, rating_column="stars" if "stars" in columns else None) is is_whole


def test_a_path_is_no_pattern(tmp_path):
    for name, user in (("log1.csv", "other"), ("log[1].csv", "u"), ("log*.csv", "v")):
        (tmp_path / name).write_text(f"{HEADER}\n{user},a,1\n")
    assert whole(tmp_path / "log[1].csv", tmp_path) is None
    assert prepared(tmp_path, tmp_path / "log[1].csv").user_ids == ["u"]
    assert prepared(tmp_path, tmp_path / "log*.csv").user_ids == ["v"]


def test_rows_of_many_groups_keep_their_places(tmp_path):
    """Blocks that threads read apart."""
    users = [f"u{(place * 7919) % 10007}" for place in range(200_000)]
    table = pa.table({"user_id": users, "item_id": users, "timestamp": range(200_000)})
    pq.write_table(table, tmp_path / "log.parquet", row_group_size=10_000)
    (tmp_path / "log.csv").write_text(
        "\n".join([HEADER, *(f"{user},{user},{place}" for place, user in enumerate(users))])
    )
    for name in ("log.parquet", "log.csv"):
        interactions, items = whole(tmp_path / name, tmp_path)
        assert [row["timestamp"] for row in interactions] == [place * 1000 for place in range(200_000)]
        assert [row["row"] for row in interactions] == list(range(200_000))
        assert [row["item_id"] for row in items] == list(dict.fromkeys(users))


def prepared(tmp_path, path, *options):
    words = ["--source", "tabular", "--source_path", str(path), "--output_dir", str(tmp_path / "run"), *options]
    prepare_data.main(parse_command_line(words))
    assert sorted(os.listdir(tmp_path / "run")) == ["data"]
    return PreparedData.load(tmp_path / "run/data")


@pytest.mark.parametrize("options", [(), ("--user_core", "2", "--item_core", "2"), ("--tie_order", "shuffle")])
def test_prepared_data_are_the_same_either_way(tmp_path, monkeypatch, options):
    rows = [f"u{(place * 31) % 17},i{(place * 7) % 23},{1_500_000_000 + place // 4}" for place in range(300)]
    path, items = tmp_path / "log.csv", tmp_path / "items.csv"
    path.write_text("\n".join([HEADER, *rows]))
    items.write_text("item_id,title\n" + "".join(f"i{item},Title {item}\n" for item in reversed(range(20))))
    for more in (options, (*options, "--item_path", str(items))):
        fast = prepared(tmp_path, path, *more)
        with monkeypatch.context() as patch:
            patch.setattr(prepare_data, "whole_log", lambda *_: None)
            careful = prepared(tmp_path, path, *more)
        assert fast.report == careful.report
        assert fast.fingerprint == careful.fingerprint


def test_a_bad_line_is_named_and_nothing_is_left(tmp_path, caplog):
    path = tmp_path / "log.csv"
    path.write_text(f"{HEADER}\nu,a,1\n\nu,,2\n")
    with caplog.at_level(logging.INFO), pytest.raises(ValueError, match=r"log\.csv, line 4: no id in column 'item_id'"):
        prepared(tmp_path, path)
    assert os.listdir(tmp_path / "run") == []


def test_what_a_killed_process_left_is_removed(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text(f"{HEADER}\nu,a,1\n")
    (tmp_path / "run/.prepare/spilled").mkdir(parents=True)
    (tmp_path / "run/.prepare/log.duckdb").write_bytes(b"half a database")
    assert prepared(tmp_path, path).user_ids == ["u"]
