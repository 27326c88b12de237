"""Rows of CSV, TSV, RecBole atomic and Parquet files, with their line numbers."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# RecBole's atomic files are tab separated, never quoted, and their headers read `name:type`
ATOMIC_SUFFIXES = (".inter", ".item")
_DIALECTS: dict[str, dict[str, Any]] = {
    ".csv": {"delimiter": ",", "strict": True},
    ".tsv": {"delimiter": "\t", "strict": True},
    **{suffix: {"delimiter": "\t", "quoting": csv.QUOTE_NONE} for suffix in ATOMIC_SUFFIXES},
}


class TableFile:
    """A table on disk.

    Attributes:
        path: the file; its suffix says what it is (.csv, .tsv, .inter, .item, .parquet).
        place: what the numbers of `rows` count: "line" of a text file (a quoted line break counts), "row" of Parquet.
        columns: the names in the header; one without a name is called `column_<number>`.

    Raises:
        ValueError: unknown kind of file, no header, a column name that is there twice, text that is not UTF-8.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.suffix = self.path.suffix.lower()
        self.place = "row" if self.suffix == ".parquet" else "line"
        if self.suffix == ".parquet":
            header = self._parquet().schema_arrow.names
        elif self.suffix in _DIALECTS:
            header = next((cells for _, cells in self._lines()), None)
        else:
            kinds = ", ".join([*_DIALECTS, ".parquet"])
            raise ValueError(f"{path}: unknown kind of file {self.suffix!r}, expected {kinds}")
        if header is None:
            raise ValueError(f"{path}, line 1: the file is empty, a header is expected")
        if self.suffix in ATOMIC_SUFFIXES:
            header = [name.partition(":")[0] for name in header]
        self.columns = [name.strip() or f"column_{number}" for number, name in enumerate(header, start=1)]
        repeated = sorted({name for name in self.columns if self.columns.count(name) > 1})
        if repeated:
            raise ValueError(f"{path}, line 1: duplicate column {', '.join(repeated)}: rename all but one")

    def position(self, column: str, setting: str) -> int:
        """Where `column` stands; a ValueError names the columns found and the setting that asked for it."""
        if column not in self.columns:
            found = ", ".join(self.columns)
            raise ValueError(f"{self.path}, line 1: no column {column!r} ({setting}); columns found: {found}")
        return self.columns.index(column)

    def rows(self) -> Iterator[tuple[int, list[Any]]]:
        """(number of the line or row, cells in the order of `columns`); empty lines hold no row."""
        if self.suffix != ".parquet":
            lines = self._lines()
            next(lines)
            yield from lines
            return
        number = 0
        for batch in self._parquet().iter_batches():
            columns = [column.to_pylist() for column in batch.columns]
            for cells in zip(*columns, strict=True):
                number += 1
                yield number, list(cells)

    def _lines(self) -> Iterator[tuple[int, list[str]]]:
        with open(self.path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, **_DIALECTS[self.suffix])
            start = 1
            try:
                for cells in reader:
                    if cells:
                        yield start, cells
                    start = reader.line_num + 1
            except csv.Error as error:
                raise ValueError(f"{self.path}, line {start}: {error}: correct the quotes there") from None
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{self.path}, after line {start - 1}: not UTF-8 ({error.reason}): convert it"
                ) from None

    def _parquet(self) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return pq.ParquetFile(self.path)
        except pa.ArrowInvalid as error:
            raise ValueError(f"{self.path}: not a Parquet file ({str(error).splitlines()[0]})") from None
