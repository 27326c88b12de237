"""Rows of Parquet files, whose columns have types."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hf_genrec.cells import cells, check_column, is_list, is_picture, is_temporal, milliseconds, plain_type
from hf_genrec.data.times import TimeUnit
from hf_genrec.dataset_scripts.table_file import TableFile, Wanted


class ParquetFile(TableFile):
    """A Parquet file; a column whose type cannot be what it is wanted as is refused.

    Raises:
        ValueError: not a Parquet file, a column name that is there twice.
    """

    place = "row"

    def __init__(self, path: Path) -> None:
        with _one_line(path):
            self._fields = list(pq.ParquetFile(path).schema_arrow)
        names = [field.name.strip() or f"column_{number}" for number, field in enumerate(self._fields, start=1)]
        super().__init__(path, names)
        self._by_name = dict(zip(names, self._fields, strict=True))

    def fits(self, wanted: Wanted) -> bool:
        field = self._by_name[wanted.name]
        if is_list(field.type) and pa.types.is_floating(field.type.value_type):
            return False  # a vector
        if wanted.role == "further" and is_picture(field.type):
            raise ValueError(
                f"{self.path}: column {wanted.name!r} holds pictures: name it as image_column, or leave it out"
            )
        check_column(self.path, field, wanted.role, wanted.setting)
        return True

    @property
    def stored_names(self) -> list[str]:
        """The names of the columns as the file has them."""
        return [field.name for field in self._fields]

    def field(self, column: str) -> pa.Field:
        """A column as the file has it."""
        return self._by_name[column]

    def time_unit(self, column: str, unit: TimeUnit) -> TimeUnit:
        return "ms" if is_temporal(plain_type(self._by_name[column].type)) else unit

    def _rows(self, wanted: Sequence[Wanted]) -> Iterator[tuple[int, tuple[Any, ...]]]:
        fields = [self._by_name[column.name] for column in wanted]
        for column, field in zip(wanted, fields, strict=True):
            check_column(self.path, field, column.role, column.setting)
        number = 0
        with _one_line(self.path):
            for batch in pq.ParquetFile(self.path).iter_batches(
                65_536 if all(column.role != "image" for column in wanted) else 256,
                columns=[field.name for field in fields],
            ):
                columns = []
                for column, field in zip(wanted, fields, strict=True):
                    values = batch.column(batch.schema.get_field_index(field.name))
                    if column.role == "time" and is_temporal(plain_type(field.type)):
                        values = values.dictionary_decode() if pa.types.is_dictionary(field.type) else values
                        columns.append(milliseconds(values))
                    else:
                        columns.append(cells(values))
                for row in zip(*columns, strict=True):
                    number += 1
                    yield number, row

    def _picker(self, wanted: Sequence[Wanted]) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
        return lambda row: row


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """Arrow's errors on damaged files as one line that names the file."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path}: not a Parquet file that can be read ({reason}): write it again") from None
