"""Rows of CSV, TSV and RecBole atomic files, with their line numbers."""

import csv
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from hf_genrec.dataset_scripts.table_file import (
    MAX_LINE,
    TableFile,
    Wanted,
    bounded_lines,
    kind_of,
    naming_lines,
    open_text,
)

# RecBole's atomic files are tab separated, never quoted, and their headers read `name:type`
ATOMIC_SUFFIXES = (".inter", ".item")
DIALECTS: dict[str, dict[str, Any]] = {
    ".csv": {"delimiter": ",", "strict": True},
    ".tsv": {"delimiter": "\t", "strict": True},
    **{suffix: {"delimiter": "\t", "quoting": csv.QUOTE_NONE} for suffix in ATOMIC_SUFFIXES},
}


ATOMIC_TYPES = ("token", "token_seq", "float", "float_seq")
# What atomic files call the columns of this library's items and interactions; its own names come first.
USUAL_NAMES = {
    "title": ("movie_title", "movie_name", "app_name", "name"),
    "categories": ("genre", "genres", "class", "category"),
}


class DelimitedFile(TableFile):
    """A text table whose first line is its header; a column without a name is called `column_<number>`.

    Raises:
        ValueError: no header, a column name that is there twice, a type that no atomic file has, text that is not
            UTF-8.
    """

    def __init__(self, path: Path) -> None:
        self._dialect = DIALECTS[kind_of(path)]
        self.path = path
        header = next((cells for _, cells in self._lines()), None)
        if header is None:
            raise ValueError(f"{path}, line 1: the file is empty, a header is expected")
        self._types: dict[str, str] = {}
        self._atomic = kind_of(path) in ATOMIC_SUFFIXES
        if self._atomic:
            self._types = dict(map(str.strip, name.split(":", 1)) for name in header if ":" in name)
            for name, kind in self._types.items():
                if kind not in ATOMIC_TYPES:
                    types = ", ".join(ATOMIC_TYPES)
                    raise ValueError(
                        f"{path}, line 1: column {name!r} is of type {kind!r}, none of {types}: correct it"
                    )
            header = [name.partition(":")[0] for name in header]
        super().__init__(path, [name.strip() or f"column_{number}" for number, name in enumerate(header, start=1)])

    def fits(self, wanted: Wanted) -> bool:
        return self._types.get(wanted.name) != "float_seq"

    def usual(self, name: str) -> str | None:
        names = (name, *USUAL_NAMES.get(name, ())) if self._atomic else ()
        return next((found for found in names if found in self), None)

    def holds_tokens(self, column: str) -> bool:
        return self._types.get(column) == "token_seq"

    def _rows(self, wanted: Sequence[Wanted]) -> Iterator[tuple[int, list[str]]]:
        lines = self._lines()
        next(lines)
        yield from lines

    def _picker(self, wanted: Sequence[Wanted]) -> Callable[[list[str]], list[str]]:
        places = {name: place for place, name in enumerate(self.columns)}
        chosen, width = [places[column.name] for column in wanted], len(self.columns)

        def pick(cells: list[str]) -> list[str]:
            if len(cells) != width:
                raise ValueError(f"{len(cells)} fields where the header has {width}")
            return [cells[place] for place in chosen]

        return pick

    def _lines(self) -> Iterator[tuple[int, list[str]]]:
        start, size = 1, 0

        def lines(file: TextIO) -> Iterator[str]:
            nonlocal size
            for line in bounded_lines(self.path, file):
                size += len(line)
                if size > MAX_LINE:
                    raise csv.Error(f"a row of more than {MAX_LINE:,} characters")
                yield line

        with _cells_of_any_line(), naming_lines(self.path, lambda: start - 1), open_text(self.path, "") as file:
            reader = csv.reader(lines(file), **self._dialect)
            try:
                for cells in reader:
                    if cells:
                        yield start, cells
                    start, size = reader.line_num + 1, 0
            except csv.Error as error:
                raise ValueError(f"{self.path}, line {start}: {error}: correct the quotes there") from None


_lock = threading.Lock()
_readers, _limit_before = 0, 0


@contextmanager
def _cells_of_any_line() -> Iterator[None]:
    """
    Python's csv refuses cells above 128 KiB, by a limit that the whole process shares and that is looked at while rows
    are read: while at least one file is open here, it is that of a line, and then what it was before.
    """
    global _readers, _limit_before
    with _lock:
        if not _readers:
            _limit_before = csv.field_size_limit(MAX_LINE)
        _readers += 1
    try:
        yield
    finally:
        with _lock:
            _readers -= 1
            if not _readers:
                csv.field_size_limit(_limit_before)
