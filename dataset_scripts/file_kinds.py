"""Files whose content is of another kind than their name says."""

import gzip
import zipfile
import zlib
from pathlib import Path

_GZIP, _ZIP, _PARQUET = b"\x1f\x8b", b"PK", b"PAR1"
# What files begin with that cannot be read here under any name, what they are, and what to do.
_OTHERS = {
    b"\xd0\xcf\x11\xe0": ("an Excel workbook", "save its sheet as CSV (UTF-8)"),
    b"BZh": ("a bzip2 file", "unpack it"),
    b"\xfd7zXZ": ("an xz file", "unpack it"),
    b"\x28\xb5\x2f\xfd": ("a zstd file", "unpack it"),
    b"7z\xbc\xaf": ("a 7z archive", "unpack it"),
    b"ARROW1": ("an Arrow file", "write it as Parquet"),
    b"ORC": ("an ORC file", "write it as Parquet"),
    b"SQLite format 3": ("an SQLite database", "export the table as CSV"),
}


def require_kind(path: str | Path, kind: str) -> None:
    """
    Looks at the first bytes of a file, and of what it unpacks to.

    Args:
        kind: the suffix that says what the file should be, without the `.gz` behind it.

    Raises:
        ValueError: it is a compressed file, an archive, a workbook or a Parquet file under another name.
    """
    path = Path(path)
    with path.open("rb") as file:
        start = file.read(16)
    compressed = path.name.lower().endswith(".gz")
    if start.startswith(_GZIP) and not compressed:
        remedy = "unpack it" if kind == ".parquet" else f"name it {path.name}.gz, or unpack it"
        raise ValueError(f"{path} is a gzip file: {remedy}")
    if compressed and start and not start.startswith((_GZIP, _ZIP, _PARQUET, *_OTHERS)):
        raise ValueError(f"{path} is no gzip file: take .gz off its name, or compress it")
    what, inside = _kind_of_content(path, start, kind), ""
    if compressed and start.startswith(_GZIP):
        try:
            with gzip.open(path) as unpacked:
                start = unpacked.read(16)
        except (OSError, EOFError, zlib.error):
            return  # whoever reads it says where it ends
        inside = "unpacks to "
        what = ("a gzip file", "unpack it") if start.startswith(_GZIP) else _kind_of_content(path, start, kind)
    if what is not None:
        raise ValueError(f"{path} {inside or 'is '}{what[0]}: {what[1]}")
    if kind == ".parquet" and start and not start.startswith(_PARQUET):
        raise ValueError(f"{path}: not a Parquet file: write it again, or name it as what it is (.csv, .tsv, .jsonl)")


def _kind_of_content(path: Path, start: bytes, kind: str) -> tuple[str, str] | None:
    if start.startswith((_ZIP + b"\x03\x04", _ZIP + b"\x05\x06")):
        return (
            ("an Excel workbook", "save its sheet as CSV (UTF-8)")
            if _is_workbook(path)
            else ("a zip archive", "unpack it")
        )
    if start.startswith(_PARQUET) and kind != ".parquet":
        return "a Parquet file", f"name it {path.name.split('.')[0]}.parquet"
    return next((what for magic, what in _OTHERS.items() if start.startswith(magic)), None)


def _is_workbook(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.startswith("xl/") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return False
