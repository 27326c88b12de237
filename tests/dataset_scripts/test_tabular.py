import csv
import gzip
import json
import re
import subprocess
import sys
import time
from datetime import UTC, date, datetime
from decimal import Decimal
from uuid import UUID

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_genrec.data.arguments import DataArguments
from hf_genrec.dataset_scripts import delimited, load_source, table_file, tabular

LOG = "user_id,item_id,timestamp\n007,a,10\n007,b,11.5\n8,a,\n"
ROWS = [
    {"user_id": "007", "item_id": "a", "timestamp": 10000, "row": 0, "rating": None},
    {"user_id": "007", "item_id": "b", "timestamp": 11500, "row": 1, "rating": None},
    {"user_id": "8", "item_id": "a", "timestamp": None, "row": 2, "rating": None},
]
NO_TEXT = {"title": None, "description": None, "categories": None}


@pytest.fixture
def write(tmp_path):
    def write_file(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write_file


@pytest.fixture
def load(tmp_path):
    def load_tables(*paths, **settings):
        return tabular.load(*paths, cache_dir=str(tmp_path / "cache"), **settings)

    return load_tables


def parquet(path, **columns):
    pq.write_table(pa.table(columns), path)
    return str(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("log.csv", LOG),
        ("log.csv", "\ufeff" + LOG.replace("\n", "\r\n")),
        ("log.csv", LOG.replace("007,b", '"007","b"').replace("\n8", "\n\n8")),
        ("log.tsv", LOG.replace(",", "\t")),
        (
            "log.inter",
            LOG.replace("user_id,item_id,timestamp", "user_id:token,item_id:token,timestamp:float").replace(",", "\t"),
        ),
    ],
)
def test_text_files_give_the_same_rows_streamed_or_not(write, load, name, content):
    path = write(name, content)
    tables = load(path)
    assert list(tables["interactions"]) == ROWS
    # without an items file: the items of the log
    assert list(tables["items"]) == [{"item_id": "a", **NO_TEXT}, {"item_id": "b", **NO_TEXT}]
    streamed = load(path, streaming=True)
    for key in ("interactions", "items"):
        assert isinstance(streamed[key], datasets.IterableDataset)
        assert list(streamed[key]) == list(tables[key])
        assert streamed[key].features == tables[key].features


def test_mapped_columns_and_an_items_file(write, load):
    log = write("log.csv", "who,what,when,stars,note\nu,x,2015-01-01,4.5,hm\nu,y,2015-01-02T00:00:01Z,,\n")
    films = 'what,name,description,brand\ny,"Y, the\nfilm",,ACME\nx,X,about x,\n'
    columns = {"user_column": "who", "item_column": "what", "time_column": "when", "rating_column": "stars"}
    tables = load(log, write("films.csv", films), **columns, time_unit="iso", title_column="name")
    assert list(tables["interactions"]) == [
        {"user_id": "u", "item_id": "x", "timestamp": 1420070400000, "row": 0, "rating": 4.5},
        {"user_id": "u", "item_id": "y", "timestamp": 1420156801000, "row": 1, "rating": None},
    ]
    empty = {"description": None, "categories": None}
    assert list(tables["items"]) == [
        {**empty, "item_id": "y", "title": "Y, the\nfilm", "brand": "ACME"},
        {**empty, "item_id": "x", "title": "X", "description": "about x", "brand": None},
    ]


def test_text_columns_of_the_log_describe_items_by_their_first_row(write, load):
    tables = load(write("log.csv", "user_id,item_id,title\n1,a,A\n2,b,B\n3,a,other\n"), time_column=None)
    assert [(row["item_id"], row["title"]) for row in tables["items"]] == [("a", "A"), ("b", "B")]
    assert tables["interactions"]["timestamp"][:] == [None, None, None]


def test_atomic_files_are_never_quoted(write, load):
    log = write("x.inter", "user_id:token\titem_id:token\n1\ta\n")
    items = write("x.item", 'item_id:token\ttitle:token_seq\na\t"Half a quote\nb\tB\n')
    tables = load(log, items, time_column=None)
    assert tables["items"]["title"][:] == ['"Half a quote', "B"]


def test_parquet_types(tmp_path, load):
    when = pa.array([datetime(2015, 1, 1, tzinfo=UTC), None], pa.timestamp("us", "UTC"))
    log = parquet(tmp_path / "log.parquet", user_id=[7, 8], item_id=["a", "b"], timestamp=when, stars=[1, 2])
    items = parquet(tmp_path / "items.parquet", item_id=["a", "b"], categories=[["x", "y"], []])
    tables = load(log, items, rating_column="stars")
    assert list(tables["interactions"]) == [
        {"user_id": "7", "item_id": "a", "timestamp": 1420070400000, "row": 0, "rating": 1.0},
        {"user_id": "8", "item_id": "b", "timestamp": None, "row": 1, "rating": 2.0},
    ]
    assert tables["items"]["categories"][:] == ["x, y", None]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("user_id,product\n1,a\n", "line 1: no column 'item_id' (item_column); columns found: user_id, product"),
        ("user_id,item_id,item_id\n1,a,b\n", "line 1: duplicate column item_id"),
        ("user_id,item_id,timestamp\n1,a,1\n,b,2\n3, ,3\n", "line 3: no id in column 'user_id' (2 bad rows"),
        ('user_id,item_id,timestamp\n"1\n1",a,1\n\n2,,2\n', "line 5: no id in column 'item_id' (1 bad row "),
        ("user_id,item_id,timestamp\n1,a,1\n1,b,noon\n", "line 3: bad timestamp: 'noon' is not a number"),
        ("user_id,item_id,timestamp\n1,a,1420070400000\n", "line 2: bad timestamp: '1420070400000' is no date"),
        ("user_id,item_id,timestamp,stars\n1,a,1,good\n", "line 2: bad rating: 'good' is not a number"),
        ("user_id,item_id,timestamp,stars\n1,a,1,1_0\n", "line 2: bad rating: '1_0' is not a number"),
        ("user_id,item_id,timestamp\n1,a,1\n1,b\n", "line 3: 2 fields where the header has 3"),
        ('user_id,item_id,timestamp\n1,a,1\n"1,b,2\n', "line 3: unexpected end of data"),
        ("user_id,item_id,timestamp\n1,é,1\n".encode("latin-1"), "not UTF-8"),
        ("user_id,item_id\n1,a\n", "line 1: no column 'timestamp' (time_column, null if there are no times)"),
        ("", "line 1: the file is empty"),
        ('user_id,item_id,"time\nstamp"\n1,a,1\n', "columns found: user_id, item_id, time stamp"),
    ],
)
def test_bad_files_are_one_line_with_file_and_line(write, load, content, message, streaming):
    path = write("log.csv", content)
    rating_column = "stars" if "stars" in str(content) else None
    with pytest.raises(ValueError, match=r".") as error:
        list(load(path, rating_column=rating_column, streaming=streaming)["interactions"])
    assert str(error.value).startswith(path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_bad_parquet_rows_are_named(tmp_path, load):
    log = parquet(tmp_path / "log.parquet", user_id=["u", None], item_id=["a", "b"])
    with pytest.raises(ValueError, match=r"log\.parquet, row 2: no id in column 'user_id'"):
        load(log, time_column=None)
    log = parquet(tmp_path / "log.parquet", user_id=["u", "v"], item_id=[1.5, None])
    with pytest.raises(ValueError, match=r"row 1: the id 1\.5 in column 'item_id' is a decimal number: .*\(2 bad rows"):
        load(log, time_column=None)


LOG_COLUMNS = {"user_id": ["u", "v"], "item_id": ["a", "b"], "timestamp": [1_600_000_000, 1_600_000_001]}


@pytest.mark.parametrize(
    ("cells", "ids"),
    [
        (pa.array([b"i1", "é".encode()]), ["i1", "é"]),
        (pa.array(["i1", "i2"]).dictionary_encode(), ["i1", "i2"]),
        (pa.array([10, 2**63], pa.uint64()), ["10", "9223372036854775808"]),
        (pa.array([10, 11]).dictionary_encode(), ["10", "11"]),
        (pa.array([10.0, -3.0]), ["10", "-3"]),  # whole numbers that pandas has turned into floats
        (pa.array([Decimal("10.00"), Decimal("7")]), ["10", "7"]),
        (pa.array([Decimal(10) ** 50, Decimal(7)], pa.decimal256(60, 2)), [str(10**50), "7"]),
        (pa.array(["10.0", "007"], pa.large_string()), ["10.0", "007"]),
        (pa.array([b"0" * 16, b"1" * 16], pa.uuid()), [str(UUID(bytes=b"0" * 16)), str(UUID(bytes=b"1" * 16))]),
    ],
)
def test_ids_of_a_parquet_file(tmp_path, load, cells, ids):
    tables = load(parquet(tmp_path / "log.parquet", **LOG_COLUMNS | {"item_id": cells}))
    assert tables["interactions"]["item_id"][:] == tables["items"]["item_id"][:] == ids


BAD_TYPES = {
    "bool": pa.array([True, False]),
    "list<element: string>": pa.array([["a"], ["b"]]),
    "fixed_size_list<element: int64>[1]": pa.array([[1], [2]], pa.list_(pa.int64(), 1)),
    "struct<x: int64>": pa.array([{"x": 1}, {"x": 2}]),
    "map<string, int64": pa.array([[("x", 1)], []], pa.map_(pa.string(), pa.int64())),
    "time64[us]": pa.array([1, 2], pa.time64("us")),
    "duration[s]": pa.array([1, 2], pa.duration("s")),
}


@pytest.mark.parametrize("kind", BAD_TYPES)
@pytest.mark.parametrize("column", ["user_id", "item_id", "timestamp", "stars", "title"])
def test_parquet_columns_of_other_types_are_refused_by_name(tmp_path, load, column, kind):
    if column == "title" and kind.startswith(("list", "fixed")):
        return  # a list of text is text
    log = parquet(tmp_path / "log.parquet", **LOG_COLUMNS | {"stars": [1, 2]} | {column: BAD_TYPES[kind]})
    with pytest.raises(ValueError, match=r".") as error:
        load(log, rating_column="stars")
    assert re.match(rf"{log}: column '{column}' \(.*\) is of type {re.escape(kind)}.*: convert it", str(error.value))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "cells", [pa.array([datetime(2020, 1, 1), None], pa.timestamp("s")), pa.array([1.0, 2.0], pa.float32())]
)
def test_points_in_time_and_short_floats_are_no_ids(tmp_path, load, cells):
    with pytest.raises(ValueError, match=r"column 'item_id' \(item_column\) is of type"):
        load(parquet(tmp_path / "log.parquet", **LOG_COLUMNS | {"item_id": cells}))


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "+02:00", "America/New_York"])
def test_parquet_timestamps_of_every_unit_and_zone(tmp_path, load, unit, zone):
    factor = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    # -1 of the unit is before 1970: rounded down, whatever is below a millisecond
    times = pa.array([1_420_070_400 * factor, 1_420_070_400 * factor + (1 if unit == "ns" else 0)], pa.int64())
    log = parquet(tmp_path / "log.parquet", **LOG_COLUMNS | {"timestamp": times.cast(pa.timestamp(unit, zone))})
    assert load(log)["interactions"]["timestamp"][:] == [1_420_070_400_000] * 2  # time_unit is not asked


@pytest.mark.parametrize(
    ("cells", "milliseconds"),
    [
        (pa.array([date(2015, 1, 1), None]), [1_420_070_400_000, None]),
        (pa.array([date(2015, 1, 1), date(1969, 12, 31)], pa.date64()), [1_420_070_400_000, -86_400_000]),
        (pa.array([-1, None], pa.timestamp("ns")), [-1, None]),
        (pa.array([datetime(2015, 1, 1), None]).dictionary_encode(), [1_420_070_400_000, None]),
        (pa.array([1.5, None], pa.float32()), [1500, None]),
        (pa.array([Decimal("1.25"), None]), [1250, None]),
        (pa.array([b"2", b"3"]), [2000, 3000]),
        (pa.nulls(2), [None, None]),
    ],
)
def test_other_times_of_a_parquet_file(tmp_path, load, cells, milliseconds):
    log = parquet(tmp_path / "log.parquet", **LOG_COLUMNS | {"timestamp": cells})
    assert load(log)["interactions"]["timestamp"][:] == milliseconds


def test_parquet_times_beyond_all_dates_are_named(tmp_path, load):
    log = parquet(tmp_path / "log.parquet", **LOG_COLUMNS | {"timestamp": pa.array([1, 2**52], pa.timestamp("s"))})
    with pytest.raises(ValueError, match=r"log\.parquet, row 2: bad timestamp: .* is no date"):
        load(log)


def test_columns_of_parquet_items(tmp_path, load, caplog):
    items = {"item_id": [1, 2], "title": [b"A", None], "categories": [["x", None], []], "in_stock": [True, False]}
    items |= {"since": [date(2020, 1, 1), None], "vector": pa.array([[0.5, 1.0]] * 2), "price": [1.5, None]}
    log = parquet(tmp_path / "log.parquet", **LOG_COLUMNS | {"item_id": [1, 2]})
    tables = load(log, parquet(tmp_path / "items.parquet", **items))
    assert list(tables["items"]) == [
        {"item_id": "1", "title": "A", "description": None, "categories": "x"}
        | {"in_stock": "true", "since": "2020-01-01", "price": "1.5"},
        {"item_id": "2", "title": None, "description": None, "categories": None}
        | {"in_stock": "false", "since": None, "price": None},
    ]
    assert "column vector holds vectors, not text: left out of the items" in caplog.text
    with pytest.raises(
        ValueError, match=r"items\.parquet: column 'maker' \(item_path\) is of type struct.*leave it out"
    ):
        load(log, parquet(tmp_path / "items.parquet", item_id=[1], maker=[{"name": "ACME"}]))
    with pytest.raises(ValueError, match=r"items\.parquet, row 2: column 'title' is not UTF-8"):
        load(log, parquet(tmp_path / "items.parquet", item_id=[1, 2], title=[b"A", b"\xff"]))


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_json_lines_and_compressed_files_give_the_same_rows(write, load, suffix):
    lines = [
        {"user_id": "007", "item_id": "a", "timestamp": 10},
        {"timestamp": "11.5", "item_id": "b", "user_id": "007", "more": {}},
        {"user_id": 8, "item_id": "a"},
    ]
    pack = gzip.compress if suffix else bytes
    text = "\n\n".join(map(json.dumps, lines))
    for name in ("log.jsonl", "log.json", "log.NDJSON"):
        path = write(name + suffix, pack(text.encode()))
        assert list(load(path)["interactions"]) == list(load(path, streaming=True)["interactions"]) == ROWS
    for name, content in (("log.csv", LOG), ("log.tsv", LOG.replace(",", "\t"))):
        assert list(load(write(name + suffix, pack(content.encode())))["interactions"]) == ROWS


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not JSON (Expecting property name"),
        ('["u", "a"]', "line 2: not a JSON object: write one object a line"),
        ("[", "line 2: not JSON (Expecting value at column"),
        ("[" * 100_000, "line 2: not JSON that can be read (nested too deeply)"),
        ('{"user_id": "u", "user_id": "v"}', "line 2: key 'user_id' is there twice"),
        ('{"user_id": "u"}', "line 2: no id in column 'item_id'"),
        ('{"user_id": "u", "item_id": NaN}', "line 2: no id in column 'item_id'"),
        ('{"user_id": true, "item_id": "a"}', "line 2: the id in column 'user_id' is true or false"),
        ('{"user_id": ["u"], "item_id": "a"}', "line 2: the id in column 'user_id' is a list"),
        ('{"user_id": {}, "item_id": "a"}', "line 2: the id in column 'user_id' is an object"),
        ('{"user_id": 1.5, "item_id": "a"}', "line 2: the id 1.5 in column 'user_id' is a decimal number"),
        ('{"user_id": 9007199254740993.0, "item_id": "a"}', "line 2: the id 9007199254740992.0 in column 'user_id'"),
        ('{"user_id": 1e300, "item_id": "a"}', "line 2: the id 1e+300 in column 'user_id' is a decimal number"),
        ('{"user_id": "\\ud800", "item_id": "a"}', "line 2: not JSON that can be read (half a character"),
        ('{"user_id": "u", "item_id": "a", "timestamp": [1]}', "line 2: bad timestamp: [1] is no time"),
        ('{"user_id": "u", "item_id": "a", "timestamp": true}', "line 2: bad timestamp: True is no time"),
        ('{"user_id": "u", "item_id": "a", "timestamp": 1' + "0" * 400 + "}", "line 2: bad timestamp"),
        ('{"user_id": "u", "item_id": "a", "stars": true}', "line 2: bad rating: True is not a number"),
        ('{"user_id": "u", "item_id": "a", "stars": 1' + "0" * 400 + "}", "line 2: bad rating"),
        ('{"user_id": "u", "item_id": "a", "stars": {"x": 1}}', "line 2: bad rating: {'x': 1} is not a number"),
    ],
)
def test_bad_json_lines_are_named(write, load, line, message):
    path = write("log.jsonl", '{"user_id": "u", "item_id": "a", "timestamp": 1, "stars": 1}\n' + line + "\n")
    with pytest.raises(ValueError, match=r".") as error:
        load(path, rating_column="stars")
    assert str(error.value).startswith(path)
    assert message in str(error.value)
    assert "1 bad row in this file" in str(error.value)


def test_damaged_compressed_files_are_named(write, load):
    log = gzip.compress(LOG.encode() * 5000)
    whole = r"log\.csv\.gz, after line \d+: not a whole gzip file"
    for content, message in (
        (log[: len(log) // 2], whole),
        (log[:-6] + b"......", whole),
        (b"not gzip", r"log\.csv\.gz is no gzip file: take \.gz off its name"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            load(write("log.csv.gz", content))
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"log\.parquet\.gz: unknown kind of file"):
        load(write("log.parquet.gz", b""))


def test_cells_of_any_length_and_the_limit_of_others_as_it_was(write, load):
    before = csv.field_size_limit()
    text = "x" * 200_000
    tables = load(write("log.csv", f"user_id,item_id,title\n1,a,{text}\n2,b,B\n"), time_column=None)
    assert tables["items"]["title"][:] == [text, "B"]
    assert csv.field_size_limit() == before


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("log.csv", "user_id,item_id\na,1\nb,{x}\n", "line 3: 1,000 characters without a line break: give a file with"),
        ("log.csv", "{x}", "line 1: 1,000 characters without a line break"),
        ("log.tsv", "user_id\titem_id\n{tabs}", "line 2: 1,000 characters"),
        ("log.inter", "user_id:token\titem_id:token\na\tb\n{x}", "line 3: 1,000 characters"),
        ("log.jsonl", '{{"user_id": "a", "item_id": "b"}}\n{{"user_id": "{x}"', "line 2: 1,000 characters"),
        (
            "log.csv",
            'user_id,item_id\na,1\nb,"{lines}"\n',
            "line 3: a row of more than 1,000 characters: correct the quot",
        ),
        ("log.csv", "user_id,item_id\na,1\n{cells}", "line 3: a row of more than 1,000 characters: correct the quotes"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_lines_without_end_are_not_read_to_their_end(write, load, monkeypatch, name, content, message, packed):
    """A small gzip file can unpack to gigabytes without a line break."""
    for module in (table_file, delimited):
        monkeypatch.setattr(module, "MAX_LINE", 1000)
    content = content.format(x="x" * 2000, tabs="\t" * 2000, lines="abc\n" * 500, cells='"\n",' * 500).encode()
    path = write(name + ".gz" * packed, gzip.compress(content) if packed else content)
    with pytest.raises(ValueError, match=rf"{re.escape(path)}, {message}") as error:
        load(path, time_column=None)
    assert "\n" not in str(error.value)


def test_many_lines_and_a_line_just_short_enough_are_read(write, load, monkeypatch):
    for module in (table_file, delimited):
        monkeypatch.setattr(module, "MAX_LINE", 1000)
    text = "x" * 800 + "\n" + "y" * 50
    rows = [{"user_id": "1", "item_id": f"i{row}", "title": text} for row in range(20)]
    log = "user_id,item_id,title\r\n" + "".join(f'1,i{row},"{text}"\r\n' for row in range(20))
    for path in (write("log.csv", log), write("log.jsonl", "\n".join(map(json.dumps, rows)))):
        assert load(path, time_column=None)["items"]["title"][:] == [text] * 20


def test_a_file_that_unpacks_to_a_gigabyte_takes_little_memory(tmp_path):
    """One line of 256 MB; a process of its own says the most that it took."""
    path = tmp_path / "log.csv.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(b"user_id,item_id\n")
        for _ in range(64):
            file.write(b"x" * 2**22)
    program = (
        "import sys, tracemalloc\n"
        "from hf_genrec.dataset_scripts.delimited import DelimitedFile\n"
        "tracemalloc.start()\n"
        "try: list(DelimitedFile(sys.argv[1])._lines())\n"
        "except ValueError as error: print(error)\n"
        "print(tracemalloc.get_traced_memory()[1] < 160e6)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
    assert done.stdout.endswith(
        "line 2: 67,108,864 characters without a line break: give a file with one row a line\nTrue\n"
    )


def test_the_header_is_read_in_linear_time(write):
    names = [f"c{number}" for number in range(60_000)]
    start = time.perf_counter()
    table = tabular.open_table(write("wide.csv", ",".join(names) + "\n"))
    with pytest.raises(
        ValueError, match=r"no column 'x' \(title_column\); columns found: c0, .*c19, \.\.\. \(59980 more\)"
    ):
        table.require("x", "title_column")
    with pytest.raises(ValueError, match=r"duplicate column c1, c2: rename"):
        tabular.open_table(write("wide.csv", ",".join([*names, "c2", "c1", "c1"]) + "\n"))
    assert time.perf_counter() - start < 2  # counting each name takes minutes


@pytest.mark.parametrize(
    ("cell", "unit"), [("1_000", "s"), ("١٢", "s"), ("0x10", "ms"), ("1420070400000", "iso"), ("14200704000", "iso")]
)
def test_what_only_python_takes_for_a_number_or_a_date_is_refused(write, load, cell, unit):
    with pytest.raises(ValueError, match=r"log\.csv, line 2: bad timestamp"):
        load(write("log.csv", f"user_id,item_id,timestamp\n1,a,{cell}\n"), time_unit=unit)


def test_files_that_cannot_be_read(write, load, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.csv is not a file: correct source_path"):
        load(str(tmp_path / "none.csv"))
    with pytest.raises(ValueError, match=r"log\.xlsx: unknown kind of file"):
        load(write("log.xlsx", "x"))
    with pytest.raises(ValueError, match=r"log\.parquet: not a Parquet file"):
        load(write("log.parquet", "x" * 100))
    log = write("log.csv", LOG)
    with pytest.raises(ValueError, match=r"items\.csv, line 1: column 'title' is also the name"):
        load(log, write("items.csv", "item_id,title,name\n"), title_column="name")


def test_a_changed_file_is_read_again(write, load):
    path = write("log.csv", LOG)
    assert len(load(path)["interactions"]) == 3
    write("log.csv", LOG + "9,c,12\n")
    tables = load(path)
    assert tables["interactions"]["user_id"][:] == ["007", "007", "8", "9"]
    assert tables["items"]["item_id"][:] == ["a", "b", "c"]


def test_the_builder_class_is_enough(write, tmp_path):
    path = write("log.csv", LOG)
    builder = tabular.Tabular(
        cache_dir=str(tmp_path / "cache"), config_name="interactions", interactions_path=path, time_column="timestamp"
    )
    builder.download_and_prepare()
    table = builder.as_dataset(split="train")
    assert list(table) == ROWS
    table.to_parquet(str(tmp_path / "log.parquet"))
    assert pq.read_table(tmp_path / "log.parquet").to_pylist() == ROWS
    with pytest.raises(ValueError, match="BuilderConfig 'users' not found"):
        tabular.Tabular(cache_dir=str(tmp_path / "cache"), config_name="users", interactions_path=path)


def test_load_source_passes_the_mapping_on(write, tmp_path):
    log = write("log.csv", "u,i,t,r,name,about,kinds\n1,a,1420070400000,3,A,text,x|y\n")
    arguments = DataArguments(
        source="tabular",
        source_path=log,
        user_column="u",
        item_column="i",
        time_column="t",
        rating_column="r",
        time_unit="ms",
        title_column="name",
        description_column="about",
        categories_column="kinds",
    )
    tables = load_source(arguments, cache_dir=str(tmp_path / "cache"))
    assert list(tables["interactions"]) == [
        {"user_id": "1", "item_id": "a", "timestamp": 1420070400000, "row": 0, "rating": 3.0}
    ]
    assert list(tables["items"]) == [{"item_id": "a", "title": "A", "description": "text", "categories": "x|y"}]


def test_a_file_without_rows_is_named(tmp_path):
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\n")
    with pytest.raises(ValueError, match=r"log\.csv holds no rows"):
        tabular.load(str(tmp_path / "log.csv"), cache_dir=str(tmp_path))
