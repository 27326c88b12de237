"""Items' pictures: by which text the items table names each, and their bytes again.

A file is named by its path, relative to the folder that paths start from where it lies in there. Bytes stay in the
Parquet file of the items, and are named `#ROW:HASH`, the row counted from 1.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_genrec.cells import shown

if TYPE_CHECKING:
    import datasets

IMAGE = "image"  # the column of the items table
_STORED = re.compile(r"#([0-9]+):([0-9a-f]{16})")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


class Pictures:
    """Reads pictures by their names in an items table. Of a Parquet file one row group at a time is held.

    Args:
        folder: where relative paths start from.
        items_file: the Parquet file that holds the bytes of those that are no files.
        column: its column of pictures.
    """

    def __init__(self, folder: Path = Path(), items_file: Path | None = None, column: str = IMAGE) -> None:
        self.folder, self.items_file, self.column = folder, items_file, column
        self._rows: tuple[int, list[Any]] = (0, [])  # the first row that is held, from 0, and the cells from there on

    @classmethod
    def of_report(cls, report: Mapping[str, Any]) -> "Pictures":
        """Those of prepared data, by what prepare.json says of them."""
        settings = report.get("settings", {})
        source = report.get("sources", {}).get("item_path", {}).get("path", settings.get("item_path"))
        if source is None:
            return cls()
        return cls(
            picture_folder(source, settings.get("image_folder")), Path(source), settings.get("image_column", IMAGE)
        )

    def read(self, name: str) -> bytes:
        """
        The bytes of a picture.

        Raises:
            ValueError: it is a URL, or the Parquet file holds another picture there than when it was prepared.
            OSError: there is no such file.
        """
        stored = _STORED.fullmatch(name)
        if stored is None:
            return picture_file(name, self.folder).read_bytes()
        content = self._stored(int(stored[1]) - 1)
        if content is None or picture_digest(content) != stored[2]:
            raise ValueError(f"row {stored[1]} of {self.items_file} holds another picture now: run prepare again")
        return content

    def _stored(self, row: int) -> bytes | None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        first, cells = self._rows
        if self.items_file is None or not self.items_file.is_file():
            raise FileNotFoundError(f"{self.items_file}, which holds it, is not a file")
        if not first <= row < first + len(cells):
            try:
                with pq.ParquetFile(self.items_file) as file:
                    start, cells = 0, []
                    for group in range(file.num_row_groups):
                        count = file.metadata.row_group(group).num_rows
                        if row < start + count:
                            cells = file.read_row_group(group, columns=[self.column])[self.column].to_pylist()
                            break
                        start += count
            except (pa.ArrowException, OSError, KeyError) as error:
                reason = " ".join(str(error).split())[:200]
                raise ValueError(f"{self.items_file}, which holds it, cannot be read ({reason})") from None
            self._rows = first, cells = start, cells
        cell = cells[row - first] if row - first < len(cells) else None
        return cell.get("bytes") if isinstance(cell, dict) else cell


def picture_folder(items_file: str | Path, folder: str | Path | None) -> Path:
    """Where relative paths start from: `image_folder`, by default the folder of the items file."""
    return Path(items_file).absolute().parent if folder is None else Path(folder).absolute()


def picture_file(name: str, folder: Path) -> Path:
    """
    Raises:
        ValueError: the name is a URL.
        FileNotFoundError: there is no such file.
    """
    if _URL.match(name):
        raise ValueError(f"the picture {shown(name)} is a URL, which is not read: download it, and give its path")
    path = folder / name
    try:
        found = path.is_file()  # False for a folder or a device
    except (ValueError, OSError):  # a null character, or a name that is too long
        found = False
    if not found:
        raise FileNotFoundError(f"the picture {shown(name)} is not a file in {folder}")
    return path


def picture_digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def name_pictures(items: "datasets.Dataset", items_file: str | None, folder: str | None) -> "datasets.Dataset":
    """
    The items with the names of their pictures in place of a column of `datasets.Image`; others are as they were.

    Args:
        items_file: what the items were read from.
        folder: `image_folder`.

    Raises:
        ValueError: pictures that are bytes of no Parquet file, which could not be found again.
    """
    for name, feature in dict(items.features or {}).items():
        if type(feature).__name__ == "Image":
            texts = list(_names(items.select_columns([name]), items_file, folder))
            items = items.remove_columns([name]).add_column(name, texts)  # type: ignore[call-arg]
    return items


def _names(pictures: "datasets.Dataset", items_file: str | None, folder: str | None) -> Iterator[str | None]:
    row = 0
    base = Path().absolute() if items_file is None else picture_folder(items_file, folder)
    for batch in pictures.with_format("arrow").iter(batch_size=256):
        for cell in batch.column(0).to_pylist():  # type: ignore[union-attr]
            row += 1
            if cell is None or (cell["bytes"] is None and not cell["path"]):
                yield None
            elif cell["bytes"] is None:
                path = Path(cell["path"])
                yield str(path.relative_to(base)) if path.is_relative_to(base) else str(path)
            elif items_file is None or Path(items_file).suffix.lower() != ".parquet":
                raise ValueError(
                    f"items, row {row}: the picture is bytes, not a file: write the items as Parquet, and name that as "
                    "item_path"
                )
            else:
                yield f"#{row}:{picture_digest(cell['bytes'])}"
