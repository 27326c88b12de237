"""Where the files of a source are; quick to import, so that a missing one is said at once."""

import os
from pathlib import Path


def existing_file(path: str | os.PathLike[str], setting: str) -> Path:
    """`path` if a file is there; otherwise a FileNotFoundError that names the setting."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} is not a file: correct {setting}")
    return Path(path).absolute()


def sequence_paths(path: str, item_path: str | None) -> tuple[Path, Path]:
    """
    Sequences and items of a folder, or of a sequences file.

    Raises:
        FileNotFoundError: no such file.
    """
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    sequences = _in_folder(folder, "sequences.txt") if Path(path).is_dir() else Path(path)
    items = item_path or _in_folder(folder, "items.jsonl")
    return existing_file(sequences, "source_path"), existing_file(items, "item_path")


def _in_folder(folder: Path, name: str) -> Path:
    """The file of that name, or the compressed one."""
    compressed = folder / f"{name}.gz"
    return compressed if compressed.is_file() and not (folder / name).is_file() else folder / name


MOVIELENS = ("ml-100k", "ml-1m", "ml-10m", "ml-10M100K", "ml-20m", "ml-25m", "ml-32m")


def movielens_path(path: str) -> Path:
    """
    The folder or zip of MovieLens.

    Raises:
        FileNotFoundError: nothing is there.
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"{path} does not exist: correct source_path, or leave it out to download")
    folder = Path(path).absolute()
    return next((folder / name for name in MOVIELENS if (folder / name).is_dir()), folder)


def require_source(source: str, path: str | None, item_path: str | None) -> None:
    """
    Raises:
        FileNotFoundError: a file or folder that is named is not there.
    """
    if source == "movielens" and path is not None:
        movielens_path(path)
    elif source == "sequence_files" and path is not None:
        sequence_paths(path, item_path)
    elif source not in ("movielens", "sequence_files"):
        for name, value in (("source_path", path), ("item_path", item_path)):
            if value is not None:
                existing_file(value, name)
