"""DuckDB as the engine of `prepare`: a database on disk for the time of one preparation, in bounded memory."""

import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import duckdb
import ibis
import pyarrow as pa

# What DuckDB keeps in memory; beyond it works on disk. The results, which are all in memory, come on top.
MEMORY_LIMIT = "1500MB"


class DuckDBEngine:
    """
    Reads files as tables of Ibis, and keeps a table with the number of each row.

    Args:
        connection: a DuckDB backend of Ibis.
    """

    def __init__(self, connection: Any):
        self.connection = connection

    @property
    def unreadable(self) -> tuple[type[Exception], ...]:
        """What is raised for a file that is not as it was said to be."""
        return (duckdb.DataError, duckdb.ProgrammingError, duckdb.OperationalError, duckdb.NotSupportedError)

    def read_text(self, path: Path, num_columns: int, delimiter: str) -> ibis.Table:
        """A table without quotes, whose first line is its header: the columns c0, c1, ... as text, empty cells null."""
        return self.connection.read_csv(
            str(path),
            columns={f"c{place}": "VARCHAR" for place in range(num_columns)},
            auto_detect=False,
            header=True,
            skip=0,
            delim=delimiter,
            quote="",
            escape="",
            comment="",
            nullstr="",
            strict_mode=True,
        )

    def read_parquet(self, path: Path) -> ibis.Table:
        return self.connection.read_parquet(str(path))

    def numbered(self, table: ibis.Table) -> ibis.Table:
        """The table, read once and kept, with `row`, the place of each row in its file, from 0."""
        kept = self.connection.create_table("kept_rows", table)
        return kept.mutate(row=kept.rowid())

    def collect(self, table: ibis.Table) -> pa.Table:
        """The rows of an ordered table."""
        return table.to_pyarrow()


@contextmanager
def duckdb_engine(folder: Path) -> Iterator[DuckDBEngine]:
    """
    An engine whose database lies in `folder`, which is made for it and removed with all that is in it.

    Raises:
        OSError: where the disk or the memory does not suffice; one line.
    """
    shutil.rmtree(folder, ignore_errors=True)  # of a killed process
    folder.mkdir(parents=True)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        terminated = stack.enter_context(_noting_sigterm())
        connection = ibis.duckdb.connect(
            folder / "log.duckdb", temp_directory=str(folder / "spilled"), memory_limit=MEMORY_LIMIT
        )
        try:
            yield DuckDBEngine(connection)
        except (RuntimeError, duckdb.InterruptException) as error:
            if "Query interrupted" not in str(error):
                raise
            # DuckDB makes an error of its own of what a signal's handler raised: it is raised again.
            terminated()
            raise KeyboardInterrupt from None
        except (duckdb.IOException, duckdb.OutOfMemoryException) as error:
            reason = " ".join(str(error).split())[:200]
            raise OSError(f"{folder}: {reason}: make room there") from error
        finally:
            connection.disconnect()


@contextmanager
def _noting_sigterm() -> Iterator[Callable[[], None]]:
    """Gives a function that does again what SIGTERM has done, if it came meanwhile."""
    handler = signal.getsignal(signal.SIGTERM)
    if not callable(handler) or threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    came = []

    def note(number: int, frame: Any) -> None:
        came.append(number)
        handler(number, frame)

    signal.signal(signal.SIGTERM, note)
    try:
        yield lambda: handler(came[0], None) if came else None
    finally:
        signal.signal(signal.SIGTERM, handler)
