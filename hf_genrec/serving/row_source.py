"""Rows of Parquet files, read a part at a time: never more than a part is held."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hf_genrec.cells import as_id, as_text, cells, check_column, is_list, plain_type, shortened, shown_names
from hf_genrec.files import source_fingerprint

Role = Literal["id", "ids", "text"]
ID_LISTS = pa.list_(pa.string())
BUFFER = 2**20  # bytes of a column read at a time: a row group may be larger than the memory


@dataclass(frozen=True)
class RowSource:
    """
    A Parquet file, or the Parquet files of a folder in the order of their names.

    Attributes:
        path: the file or folder.
        roles: the columns that are read: one `id`, and lists of ids (`ids`) or `text`. Numbers are ids as text.
    """

    path: Path
    roles: dict[str, Role]

    @cached_property
    def files(self) -> list[Path]:
        """
        Raises:
            FileNotFoundError: there are none.
        """
        if self.path.is_file():
            return [self.path]
        found = sorted(path for path in self.path.glob("*.parquet") if path.is_file() and path.name[0] not in "._")
        if not found:
            raise FileNotFoundError(f"{self.path} is no Parquet file, and no folder with any: correct the path")
        return found

    def columns(self) -> list[str]:
        """The columns of the first file, read or not."""
        with _reading(self.files[0]) as file:
            return file.schema_arrow.names

    def check(self) -> int:
        """
        The number of rows.

        Raises:
            FileNotFoundError, ValueError: no file, one that is not Parquet, or a column that is missing or of a type
                that cannot be what it is read as.
        """
        return sum(self._check(path) for path in self.files)

    def _check(self, path: Path) -> int:
        with _reading(path) as file:
            schema = file.schema_arrow
            for name, role in self.roles.items():
                if schema.names.count(name) != 1:
                    number = "no column" if name not in schema.names else "more than one column"
                    raise ValueError(f"{path}: {number} {name!r}; columns found: {shown_names(schema.names)}")
                field = schema.field(name)
                if role == "ids":
                    if not is_list(field.type) and not pa.types.is_null(field.type):
                        kind = shortened(str(field.type), 60)
                        raise ValueError(f"{path}: column {name!r} is of type {kind}: give lists of item ids")
                    if is_list(field.type):
                        check_column(path, field.with_type(plain_type(field.type.value_type)), "id", "item ids")
                else:
                    check_column(path, field, role, "item text" if role == "text" else "ids")
            return file.metadata.num_rows

    def fingerprint(self) -> str:
        """What the rows are known by: the content of the file, or of all files of the folder."""
        return source_fingerprint(self.path)

    def parts(self, size: int) -> Iterator[pa.Table]:
        """
        The rows as tables of strings and lists of strings, `size` rows each, the last one with what is left.

        Raises:
            ValueError: no id, a null in the place of a list, or a cell that is none of what its column holds; names
                file and row.
        """
        waiting: list[pa.RecordBatch] = []
        count = 0
        for batch in self._batches(size):
            while batch.num_rows:
                piece = batch.slice(0, size - count)
                waiting, count = [*waiting, piece], count + piece.num_rows
                batch = batch.slice(piece.num_rows)
                if count == size:
                    yield pa.Table.from_batches(waiting).combine_chunks()
                    waiting, count = [], 0
        if count:
            yield pa.Table.from_batches(waiting).combine_chunks()

    def _batches(self, size: int) -> Iterator[pa.RecordBatch]:
        for path in self.files:
            with _reading(path) as file:
                first = 1
                for batch in file.iter_batches(min(size, 8192), columns=list(self.roles), use_threads=False):
                    yield self._converted(path, batch, first)
                    first += batch.num_rows

    def _converted(self, path: Path, batch: pa.RecordBatch, first: int) -> pa.RecordBatch:
        columns = []
        for name, role in self.roles.items():
            column, place = batch.column(batch.schema.get_field_index(name)), (path, name, first)
            if role == "text":
                columns.append(pa.array([as_text(cell, name) for cell in cells(column)], pa.string()))
            else:
                columns.append(_ids(column, place) if role == "id" else _id_lists(column, place))
        return pa.RecordBatch.from_arrays(columns, list(self.roles))


@contextmanager
def _reading(path: Path) -> Iterator[pq.ParquetFile]:
    """Arrow's errors on damaged files as one line that names the file."""
    try:
        with pq.ParquetFile(path, buffer_size=BUFFER, pre_buffer=False) as file:
            yield file
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if path.suffix.lower() == ".csv":
            raise ValueError(
                f"{path} is no Parquet file, which is asked for here: write one, for instance by "
                f"pandas.read_csv({path.name!r}, dtype=str).to_parquet({path.with_suffix('.parquet').name!r})"
            ) from None
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path}: not a Parquet file that can be read ({reason}): write it again") from None


def _ids(column: pa.Array, place: tuple[Path, str, int], row_of: np.ndarray | None = None) -> pa.Array:
    """Ids as text; `row_of` says for each the row it stands in, where that is not its own place."""
    if pa.types.is_string(column.type) and not column.null_count:
        blank = pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(column)), 0)
        if not pc.any(blank).as_py():
            return column
    path, name, first = place
    found = []
    for number, cell in enumerate(cells(column)):
        try:
            found.append(as_id(cell, name))
        except ValueError as error:
            row = first + (number if row_of is None else int(row_of[number]))
            raise ValueError(f"{path}, row {row}: {error}") from None
    return pa.array(found, pa.string())


def _id_lists(column: pa.Array, place: tuple[Path, str, int]) -> pa.Array:
    if column.null_count:
        path, name, first = place
        row = first + column.is_null().to_pylist().index(True)
        raise ValueError(f"{path}, row {row}: null in column {name!r}: an empty list says that there is no history")
    lengths = np.array(pc.list_value_length(column), dtype=np.int32)
    ids = _ids(column.flatten(), place, np.repeat(np.arange(len(lengths)), lengths))
    return pa.ListArray.from_arrays(pa.array(np.cumsum([0, *lengths], dtype=np.int32)), ids)


class PartReader:
    """Parts by their number; they are read in rising order, and anew only for one that was passed."""

    def __init__(self, source: RowSource, size: int):
        self.source, self.size = source, size
        self._next, self._parts = 0, source.parts(size)

    def __call__(self, number: int) -> pa.Table:
        if number < self._next:
            self._next, self._parts = 0, self.source.parts(self.size)
        rows = None
        while self._next <= number:
            rows, self._next = next(self._parts, None), self._next + 1
        if rows is None:
            raise ValueError(f"{self.source.path} has fewer rows than it had: give the command again")
        return rows
