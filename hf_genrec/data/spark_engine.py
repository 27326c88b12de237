"""Spark as the engine of `prepare`, for logs that outgrow one machine."""

import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ibis
import pyarrow as pa
import pyarrow.parquet as pq

LOCAL = "local[*]"
_CONNECT_SECONDS = 5
_REMEDY = 'install Java 17 and pip install "hf_genrec[spark]", or leave engine: spark out'
# Errors alone: the rest of what Spark says is about itself.
_LOGGING = """rootLogger.level = error
rootLogger.appenderRef.stderr.ref = stderr
appender.stderr.type = Console
appender.stderr.name = stderr
appender.stderr.target = SYSTEM_ERR
appender.stderr.layout.type = PatternLayout
appender.stderr.layout.pattern = %p %c{1}: %m%n
"""


class SparkEngine:
    """
    Reads files as tables of Ibis, and keeps a table with the number of each row.

    Args:
        connection: a Spark backend of Ibis.
        folder: where tables are kept meanwhile; every worker must be able to write there.
    """

    def __init__(self, connection: Any, session: Any, folder: Path):
        self.connection, self._session, self._folder = connection, session, folder

    @property
    def unreadable(self) -> tuple[type[Exception], ...]:
        """What is raised for a file that is not as it was said to be."""
        from py4j.protocol import Py4JJavaError
        from pyspark.errors import PySparkException

        return (PySparkException, Py4JJavaError)

    def read_text(self, path: Path, num_columns: int, delimiter: str) -> ibis.Table:
        """A table without quotes, whose first line is its header: the columns c0, c1, ... as text, empty cells null."""
        from pyspark.sql import functions

        schema = ", ".join(f"c{place} string" for place in range(num_columns))
        options = {"sep": delimiter, "quote": "", "mode": "FAILFAST", "maxCharsPerColumn": "-1", "nullValue": ""}
        frame = self._session.read.schema(schema).options(header=True, **options).csv(_uri(path))
        columns = [f"c{place}" for place in range(num_columns)]
        block = functions.col("_metadata.file_block_start").alias("in_file_block")
        return self._table(
            frame.select(*columns, block, functions.monotonically_increasing_id().alias("in_file_row")), "text_rows"
        )

    def read_parquet(self, path: Path) -> ibis.Table:
        from pyspark.sql import functions

        frame = self._session.read.parquet(_uri(path))
        return self._table(frame.select("*", functions.col("_metadata.row_index").alias("in_file_row")), "parquet_rows")

    def numbered(self, table: ibis.Table) -> ibis.Table:
        """The table, read once and kept, with `row`, the place of each row in its file, from 0."""
        from pyspark.sql import functions

        kept = _uri(self._folder / ibis.util.gen_name("kept_rows"))
        self.connection.to_parquet(table, kept)
        frame = self._session.read.parquet(kept)
        if "in_file_block" in frame.columns:
            # Rows of a block have numbers one behind the other, blocks have them in any order.
            numbers = functions.min("in_file_row").alias("first"), functions.count("*").alias("rows")
            blocks = frame.groupBy("in_file_block").agg(*numbers).orderBy("in_file_block").collect()
            before, shifts = 0, []
            for block in blocks:
                shifts.append((block["in_file_block"], before - block["first"]))
                before += block["rows"]
            shift = self._session.createDataFrame(shifts, "in_file_block long, shift long")
            frame = frame.join(functions.broadcast(shift), "in_file_block")
            frame = frame.withColumn("row", functions.col("in_file_row") + functions.col("shift"))
        else:
            frame = frame.withColumnRenamed("in_file_row", "row")
        return self._table(frame, "numbered_rows")

    def collect(self, table: ibis.Table) -> pa.Table:
        """The rows of an ordered table: written by the workers in parts, and read in their order."""
        folder = self._folder / ibis.util.gen_name("result")
        self.connection.to_parquet(table, _uri(folder))
        parts = [pq.ParquetFile(path).read() for path in sorted(folder.glob("part-*.parquet"))]
        schema = table.schema().to_pyarrow()
        return pa.concat_tables([part.cast(schema) for part in parts] or [schema.empty_table()])

    def _table(self, frame: Any, name: str) -> ibis.Table:
        name = ibis.util.gen_name(name)
        frame.createOrReplaceTempView(name)
        return self.connection.table(name)


@contextmanager
def spark_engine(folder: Path, master: str | None = None) -> Iterator[SparkEngine]:
    """
    An engine whose tables lie in `folder`, which is made for it and removed with all that is in it.

    Args:
        master: of the cluster, `spark://host:port` for instance; by default all cores of this machine.

    Raises:
        ImportError: no pyspark.
        OSError: no Java, or a master that does not answer.
        ValueError: a master that is none.
    """
    try:
        from pyspark.errors import PySparkException
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise ImportError(f"engine: spark needs pyspark ({error}): {_REMEDY}") from None
    if shutil.which("java") is None and not Path(os.environ.get("JAVA_HOME", ""), "bin/java").is_file():
        raise OSError(f"engine: spark needs Java, and there is no java on the PATH: {_REMEDY}")
    master = master or LOCAL
    _require_master(master)
    if set("*?[]{}") & set(str(folder.absolute())):
        raise ValueError(f"{folder.absolute()}: Spark takes one of *?[]{{}} in a path for a pattern: rename the folder")
    shutil.rmtree(folder, ignore_errors=True)  # of a killed process
    folder = folder.absolute()
    folder.mkdir(parents=True)
    session = None
    try:
        (folder / "log4j2.properties").write_text(_LOGGING)
        settings = {
            "spark.sql.session.timeZone": "UTC",
            "spark.sql.execution.arrow.pyspark.enabled": "true",
            "spark.sql.warehouse.dir": _uri(folder / "warehouse"),
            "spark.ui.enabled": "false",
            "spark.ui.showConsoleProgress": "false",
            "spark.driver.extraJavaOptions": f"-Dlog4j2.configurationFile=file:{folder / 'log4j2.properties'}",
        }
        if master.startswith("local"):
            settings |= {"spark.local.dir": str(folder / "spilled"), "spark.driver.bindAddress": "127.0.0.1"}
            settings |= {"spark.driver.host": "127.0.0.1", "spark.sql.shuffle.partitions": "16"}
            settings |= {"spark.driver.memory": os.environ.get("SPARK_DRIVER_MEMORY", "2g")}
        builder = SparkSession.builder.master(master).appName("hf-genrec prepare")
        for name, value in settings.items():
            builder = builder.config(name, value)
        try:
            session = builder.getOrCreate()
        except Exception as error:  # of Java, in many classes
            raise OSError(f"Spark does not start at {master} ({_first_line(error)}): correct master") from error
        try:
            yield SparkEngine(ibis.pyspark.connect(session), session, folder)
        except PySparkException as error:
            raise OSError(f"Spark at {master} failed: {_first_line(error)}") from error
    finally:
        if session is not None:
            session.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _require_master(master: str) -> None:
    if re.fullmatch(r"local(\[(\*|[1-9][0-9]*)(, *[0-9]+)?\])?|yarn|k8s://.+", master):
        return
    if not master.startswith("spark://"):
        raise ValueError(f"master: {master!r} is none of Spark's: local[2], spark://host:port, yarn, k8s://...")
    for place in master.removeprefix("spark://").split(","):
        host, _, port = place.rpartition(":")
        if not host or not port.isdigit():
            raise ValueError(f"master: {master!r} is not spark://host:port")
        try:
            socket.create_connection((host, int(port)), _CONNECT_SECONDS).close()
            return
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
    raise OSError(f"no Spark master answers at {master} ({reason}): start it, or correct master")


def _uri(path: Path) -> str:
    return path.absolute().as_uri()


def _first_line(error: Exception) -> str:
    return next((line.strip()[:200] for line in str(error).splitlines() if line.strip()), type(error).__name__)
