"""What the readers of tables share: the columns, the cells of the wanted ones, and text that may be compressed."""

import gzip
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from hf_genrec.cells import Role, shown_names
from hf_genrec.data.times import TimeUnit
from hf_genrec.dataset_scripts.file_kinds import require_kind
from hf_genrec.dataset_scripts.rows import checked

MAX_LINE = 2**26  # characters; a gzip file can unpack to gigabytes without a line break


@dataclass(frozen=True)
class Wanted:
    """A column that is read: its name, the setting that asked for it, and what it is read as."""

    name: str
    setting: str
    role: Role


class TableFile:
    """A table on disk.

    Attributes:
        path: the file.
        place: what rows are counted in: "line" of a text file (a quoted line break counts), "row" of Parquet.
        columns: the names of its columns.
    """

    place = "line"

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path = path
        self.columns = list(columns)
        self._known = set(self.columns)
        if len(self._known) < len(self.columns):
            seen: set[str] = set()
            repeated = {name for name in self.columns if name in seen or seen.add(name)}  # type: ignore[func-returns-value]
            raise ValueError(
                f"{path}, line 1: duplicate column {shown_names(sorted(repeated))}: rename all but one of each"
            )

    def __contains__(self, column: str) -> bool:
        return column in self._known

    def require(self, column: str, setting: str) -> None:
        """
        Raises:
            ValueError: there is no such column; names those found and the setting that asked for it.
        """
        if column not in self:
            found = shown_names(self.columns)
            raise ValueError(f"{self.path}, line 1: no column {column!r} ({setting}); columns found: {found}")

    def fits(self, wanted: Wanted) -> bool:
        """Whether a column that nobody named can be kept as text; only files with typed columns have others."""
        return True

    def usual(self, name: str) -> str | None:
        """The column that holds a rating, a title or categories by the custom of this kind of file, if it has one."""
        return None

    def holds_tokens(self, column: str) -> bool:
        """Whether the cells of a column are several tokens one after the other."""
        return False

    def time_unit(self, column: str, unit: TimeUnit) -> TimeUnit:
        """The unit of a column of times: `unit`, unless the file knows it."""
        return unit

    def read(self, wanted: Sequence[Wanted], convert: Callable[[Sequence[Any]], Any]) -> Iterator[Any]:
        """`convert` of the wanted cells of every row, in the order of `wanted`; see `checked`."""
        for column in wanted:
            self.require(column.name, column.setting)
        cells = self._picker(wanted)
        return checked(self.path, self._rows(wanted), lambda row: convert(cells(row)), self.place)

    def _rows(self, wanted: Sequence[Wanted]) -> Iterator[tuple[int, Any]]:
        """(number of the line or row, the row), whatever `_picker` makes cells of."""
        raise NotImplementedError

    def _picker(self, wanted: Sequence[Wanted]) -> Callable[[Any], Sequence[Any]]:
        """From a row to the wanted cells; a ValueError says what is wrong with the row."""
        raise NotImplementedError


def kind_of(path: str | Path) -> str:
    """The suffix that says what a file is, in small letters, without the `.gz` behind it."""
    return Path(Path(path).name.lower().removesuffix(".gz")).suffix


def is_compressed(path: str | Path) -> bool:
    return Path(path).name.lower().endswith(".gz")


@contextmanager
def open_text(path: str | Path, newline: str | None = None, errors: str = "strict") -> Iterator[TextIO]:
    """
    A UTF-8 file for reading, by gzip where its name ends in `.gz`; a byte order mark is skipped.

    Raises:
        ValueError: as `require_kind`.
    """
    require_kind(path, kind_of(path))
    opened: Any = gzip.open if is_compressed(path) else open
    with opened(path, "rt", newline=newline, encoding="utf-8-sig", errors=errors) as file:
        yield file


@contextmanager
def naming_lines(path: str | Path, last: Callable[[], int]) -> Iterator[None]:
    """
    Within it text is read.

    Args:
        last: says the number of the last line that could be read.

    Raises:
        ValueError: text that is not UTF-8, or a damaged gzip file.
    """
    try:
        yield
    except UnicodeDecodeError:
        line, column, byte = _byte_of_no_text(path)
        raise ValueError(
            f"{path}, line {line}: not UTF-8 (byte {byte:#04x} at column {column}): save the file as UTF-8"
        ) from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(
            f"{path}, after line {last()}: not a whole gzip file ({error}): compress it again, or take .gz off its name"
        ) from None


def bounded_lines(path: str | Path, file: TextIO) -> Iterator[str]:
    """
    The lines of a text file, with their line breaks.

    Raises:
        ValueError: for a line of `MAX_LINE` characters, of which no more is read.
    """
    for number, line in enumerate(iter(partial(file.readline, MAX_LINE), ""), start=1):
        if len(line) == MAX_LINE:
            raise ValueError(
                f"{path}, line {number}: {MAX_LINE:,} characters without a line break: give a file with one row a line"
            )
        yield line


def _byte_of_no_text(path: str | Path) -> tuple[int, int, int]:
    """The first byte of a file that is not UTF-8: its line, its column in letters, both from 1, and its value."""
    line, before = 1, 0
    with open_text(path, errors="surrogateescape") as file:  # which makes \udc80 to \udcff of such bytes
        while piece := file.readline(2**16):
            found = re.search("[\udc80-\udcff]", piece)
            if found is not None:
                return line, before + found.start() + 1, ord(found[0]) - 0xDC00
            line, before = (line + 1, 0) if piece.endswith("\n") else (line, before + len(piece))
    raise ValueError(f"{path} has changed while it was read: try again")


def text_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """
    (number, line) of every line that is not empty.

    Raises:
        ValueError: as `naming_lines` and `bounded_lines`.
    """
    number = 0
    with naming_lines(path, lambda: number), open_text(path) as file:
        for number, line in enumerate(bounded_lines(path, file), start=1):
            if line.strip():
                yield number, line
