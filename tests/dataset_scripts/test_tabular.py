from datetime import UTC, datetime

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_genrec.data.arguments import DataArguments
from hf_genrec.dataset_scripts import load_source, tabular

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
        ("user_id,item_id,timestamp\n1,a,1\n1,b\n", "line 3: 2 fields where the header has 3"),
        ('user_id,item_id,timestamp\n1,a,1\n"1,b,2\n', "line 3: unexpected end of data"),
        ("user_id,item_id,timestamp\n1,é,1\n".encode("latin-1"), "not UTF-8"),
        ("user_id,item_id\n1,a\n", "line 1: no column 'timestamp' (time_column, null if there are no times)"),
        ("", "line 1: the file is empty"),
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
    log = parquet(tmp_path / "log.parquet", user_id=["u", "v"], item_id=[1.0, None])
    with pytest.raises(ValueError, match=r"row 1: the id 1\.0 in column 'item_id' is a decimal number: .*\(2 bad rows"):
        load(log, time_column=None)


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
