"""Spark prepares what DuckDB prepares: the same rows, splits and counts."""

import importlib.util
import os
import shutil
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_genrec.data.arguments import DataArguments
from hf_genrec.data.duckdb_engine import duckdb_engine
from hf_genrec.data.preparation import prepare
from hf_genrec.data.spark_engine import spark_engine
from hf_genrec.dataset_scripts.whole_logs import require_rows, whole_log
from hf_genrec.trainers import prepare_data
from hf_genrec.training.config import parse_command_line

HAS_JAVA = shutil.which("java") is not None or os.path.isfile(os.path.join(os.environ.get("JAVA_HOME", ""), "bin/java"))
HAS_SPARK = importlib.util.find_spec("pyspark") is not None
MISSING = "there is no java" if not HAS_JAVA else 'pyspark is not there: pip install "hf_genrec[spark]"'


def needs_spark(test):
    test = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")(test)
    return pytest.mark.slow(pytest.mark.skipif(not (HAS_JAVA and HAS_SPARK), reason=MISSING)(test))


HEADER = "user_id,item_id,timestamp,stars,title"


@pytest.fixture(scope="module")
def spark(tmp_path_factory):
    with spark_engine(tmp_path_factory.mktemp("spark") / "engine", "local[2]") as engine:
        engine._session.conf.set("spark.sql.files.maxPartitionBytes", "2000")  # a block: the files have many
        engine._session.conf.set("spark.sql.files.openCostInBytes", "0")
        yield engine


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """One log as CSV, TSV and Parquet of several types: ties, missing ratings, a blank line, letters of two bytes."""
    folder, generator = tmp_path_factory.mktemp("logs"), np.random.default_rng(0)
    users = [f"u{user}" if user % 3 else f"é{user}" for user in generator.integers(0, 60, 1500)]
    items = [f"i{item}" for item in generator.zipf(1.4, 1500) % 40]
    times = (1_500_000_000 + generator.integers(0, 300, 1500)).tolist()
    stars = [None if star > 5 else star / 2 for star in generator.integers(1, 7, 1500).tolist()]
    titles = [f"Title of {item}" if place % 5 else None for place, item in enumerate(items)]
    table = pa.table({"user_id": users, "item_id": items, "timestamp": times, "stars": stars, "title": titles})
    pq.write_table(table, folder / "log.parquet", row_group_size=200)
    moments = pa.array([time * 1000 + place % 7 for place, time in enumerate(times)], pa.timestamp("ms", "UTC"))
    pq.write_table(table.set_column(2, "timestamp", moments), folder / "moments.parquet", row_group_size=333)
    whole = [int(user[1:]) for user in users]
    pq.write_table(table.set_column(0, "user_id", [whole]), folder / "numbers.parquet")
    rows = [
        ",".join("" if cell is None else str(cell) for cell in row)
        for row in zip(*table.to_pydict().values(), strict=True)
    ]
    (folder / "log.csv").write_text("\n".join([HEADER, *rows[:700], "", *rows[700:]]))
    (folder / "log.tsv").write_text("\r\n".join([HEADER, *rows, ""]).replace(",", "\t"), newline="")
    dates = [row.split(",") for row in rows]
    iso = [np.datetime64(int(row[2]), "s").astype(str) for row in dates]
    (folder / "iso.csv").write_text(
        "\n".join([HEADER, *(",".join([*row[:2], time, *row[3:]]) for row, time in zip(dates, iso, strict=True))])
    )
    return folder


CASES = {
    "log.parquet": {"user_core": 5, "item_core": 5},
    "log.csv": {"user_core": 5, "item_core": 5},
    "log.tsv": {"tie_order": "shuffle", "tie_seed": 3},
    "iso.csv": {
        "time_unit": "iso",
        "split": "global_time",
        "validation_time": "2017-07-14T02:42",
        "test_time": "2017-07-14T02:43:30",
    },
    "moments.parquet": {
        "rating_column": "stars",
        "min_rating": 1.5,
        "drop_repeats": True,
        "start_time": "1500000030000",
    },
    "numbers.parquet": {"time_column": None, "user_core": 2},
}


def prepared_by(engine, path, options):
    arguments = DataArguments(source="tabular", source_path=str(path), **options)
    log = whole_log(arguments, engine)
    assert log is not None
    return prepare(log.interactions, log.items, arguments, engine.collect)


@needs_spark
@pytest.mark.parametrize("name", CASES)
def test_spark_writes_the_rows_of_duckdb(spark, logs, tmp_path, name):
    ours = prepared_by(spark, logs / name, CASES[name])
    with duckdb_engine(tmp_path / "engine") as duckdb:
        theirs = prepared_by(duckdb, logs / name, CASES[name])
    assert ours.report == theirs.report
    assert ours.user_ids == theirs.user_ids
    assert ours.items.equals(theirs.items)
    assert ours.sequences == theirs.sequences
    assert ours.fingerprint == theirs.fingerprint


@needs_spark
@pytest.mark.parametrize("row", ["u,,3,,", "u,i,noon,,", "u,i", "u,i,3,,,", "u,i,3,,x,y", '"u",i,3,,', "   "])
def test_what_is_not_plain_is_left_out_of_spark(spark, tmp_path, row):
    path = tmp_path / "log.csv"
    path.write_text("\n".join([HEADER, *["u,i,7,,"] * 500, row, "v,j,8,,"]) + "\n")
    arguments = DataArguments(source="tabular", source_path=str(path), rating_column="stars")
    assert whole_log(arguments, spark) is None
    with pytest.raises(ValueError, match=r"log\.csv, line 502: |Parquet with ids as text") as error:
        require_rows(arguments)
    assert ("line 502" in str(error.value)) is not row.startswith('"')


# ---- without Spark ----


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"master": "local[2]"}, "master needs engine: spark"),
        ({"engine": "spark", "source": "movielens"}, "engine: spark reads source: tabular"),
        ({"engine": "polars"}, "engine: 'polars' is not one of duckdb, spark"),
    ],
)
def test_settings_that_do_not_go_together(settings, message):
    with pytest.raises(ValueError, match=message):
        DataArguments(**{"source": "tabular", "source_path": "log.csv"} | settings)


def test_the_engine_is_none_of_the_settings_that_decide():
    spark = DataArguments(source="tabular", source_path="log.csv", engine="spark", master="local[2]")
    assert spark.deciding() == DataArguments(source="tabular", source_path="log.csv").deciding()


@pytest.mark.parametrize(
    ("master", "error", "message"),
    [
        ("nowhere", ValueError, "'nowhere' is none of Spark's"),
        ("local[0]", ValueError, "is none of Spark's"),
        ("spark://here", ValueError, "is not spark://host:port"),
        ("spark://127.0.0.1:1", OSError, r"no Spark master answers at spark://127\.0\.0\.1:1 \(Connection refused\)"),
    ],
)
@pytest.mark.skipif(not (HAS_SPARK and HAS_JAVA), reason="there is no java, or no pyspark")
def test_a_master_that_does_not_answer_is_one_line(tmp_path, master, error, message):
    (tmp_path / "log.csv").write_text(f"{HEADER}\nu,i,7,,\n")
    words = ["--source", "tabular", "--source_path", str(tmp_path / "log.csv"), "--engine", "spark"]
    with pytest.raises(error, match=message):
        prepare_data.main(parse_command_line([*words, "--master", master, "--output_dir", str(tmp_path / "run")]))
    assert os.listdir(tmp_path / "run") == []


@pytest.mark.skipif(not HAS_SPARK, reason="pyspark is not there")
def test_without_java_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    missing = "needs Java, and there is no java on the PATH: install Java 17"
    with pytest.raises(OSError, match=missing), spark_engine(tmp_path / "engine"):
        pass


def test_without_pyspark_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyspark", None)
    for name in [name for name in sys.modules if name.startswith("pyspark.")]:
        monkeypatch.delitem(sys.modules, name)
    missing = r"engine: spark needs pyspark .*hf_genrec\[spark\]"
    with pytest.raises(ImportError, match=missing), spark_engine(tmp_path / "engine"):
        pass
