"""Tables of other libraries as Arrow, and the Parquet file of them."""

import datetime

import datasets
import pandas
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_genrec.data.tables import as_arrow, holds_numbers, write_parquet

COLUMNS = {"user": ["b", "a", "b"], "item": [3, 1, 2], "time": [30, 10, 20]}
PANDAS = pandas.DataFrame(COLUMNS, index=[7, 7, 9])
DATASET = datasets.Dataset.from_dict(COLUMNS)


@pytest.mark.parametrize(
    "table",
    [
        PANDAS,
        PANDAS.astype({"user": "category", "item": "Int64"}),
        PANDAS.astype({"user": object}),
        polars.DataFrame(COLUMNS),
        polars.DataFrame(COLUMNS).lazy(),
        polars.DataFrame(COLUMNS).with_columns(polars.col("user").cast(polars.Categorical)),
        polars.concat([polars.DataFrame(COLUMNS)[:1], polars.DataFrame(COLUMNS)[1:]], rechunk=False),
        pa.table(COLUMNS),
        pa.RecordBatchReader.from_batches(pa.table(COLUMNS).schema, pa.table(COLUMNS).to_batches()),
        DATASET,
        DATASET.select([2, 1, 0]).select([2, 1, 0]),
        datasets.Dataset.from_dict({name: [*values, None] for name, values in COLUMNS.items()}).select(range(3)),
        COLUMNS,
    ],
    ids=lambda table: type(table).__module__,
)
def test_every_table_has_the_same_rows(table, tmp_path):
    found = as_arrow(table, "interactions")
    assert found.to_pydict() == COLUMNS
    write_parquet(found, tmp_path / "table.parquet")
    assert pq.read_table(tmp_path / "table.parquet").to_pydict() == COLUMNS
    assert [path.name for path in tmp_path.iterdir()] == ["table.parquet"]


def test_the_same_table_gives_the_same_file(tmp_path):
    for name in ("one", "two"):
        write_parquet(as_arrow(PANDAS, "interactions"), tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert b"pandas" not in (tmp_path / "one").read_bytes()  # its version would be part of what the data are known by


def test_points_in_time_stay_such():
    times = [datetime.datetime(2020, 1, 1), datetime.datetime(2021, 1, 1)]
    for library in (pandas, polars):
        assert pa.types.is_timestamp(as_arrow(library.DataFrame({"time": times}), "interactions").schema[0].type)


@pytest.mark.parametrize(
    ("table", "line"),
    [
        ([("b", 3)], "interactions: a list is no table: give a DataFrame"),
        (None, "interactions: a NoneType is no table"),
        (PANDAS["user"], "interactions: a Series is no table"),
        (polars.Series([1]), "interactions: a Series is no table"),
        (PANDAS.to_numpy(), "interactions: a ndarray is no table"),
        (datasets.DatasetDict({"train": DATASET}), "interactions: a DatasetDict of splits train: give one of them"),
        (DATASET.to_iterable_dataset(), "interactions: a streamed IterableDataset"),
        (pandas.concat([PANDAS, PANDAS[["user"]]], axis=1), "interactions: column 'user' is there twice"),
        (pa.table([[1], [2]], ["user", "user"]), "interactions: column 'user' is there twice"),
        (PANDAS.assign(user=["a", 3, 4]), r"interactions: a column cannot be read .* user .*give each column one type"),
        ({"user": [1, 2], "item": [1]}, "interactions: a column cannot be read"),
    ],
)
def test_what_is_no_table_is_named(table, line):
    with pytest.raises(ValueError, match=line):
        as_arrow(table, "interactions")


def test_which_ids_are_numbers():
    schema = as_arrow(PANDAS.assign(real=[1.0, 2.0, 3.0], truth=True), "interactions").schema
    assert [holds_numbers(schema, name) for name in ("item", "real", "user", "truth", "nothing")] == [
        True, True, False, False, False,
    ]  # fmt: skip
