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


PARTS = ("train", "valid", "test")


def split_paths(path: str) -> tuple[Path, Path, Path]:
    """
    Rows of training, validation and test: files of one name in the folders `train`, `valid` and `test`.

    Args:
        path: one of the three, or the folder of the three folders if `train` holds one CSV.

    Raises:
        FileNotFoundError: no such file.
        ValueError: `train` holds several data sets.
    """
    given = Path(path)
    if given.is_dir():
        names = sorted(file.name for file in (given / "train").glob("*") if file.name.endswith((".csv", ".csv.gz")))
        if len(names) > 1:
            raise ValueError(f"{given / 'train'} holds {', '.join(names)}: name one of these files as source_path")
        given = given / "train" / (names[0] if names else "NAME.csv")
    elif given.parent.name not in PARTS:
        raise FileNotFoundError(f"{path} is not in a folder train, valid or test: correct source_path")
    train, valid, test = (existing_file(given.parent.parent / part / given.name, "source_path") for part in PARTS)
    return train, valid, test


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
    elif source == "care_csv" and path is not None:
        split_paths(path)
        if item_path is not None:
            existing_file(item_path, "item_path")
    elif source not in ("movielens", "sequence_files"):
        for name, value in (("source_path", path), ("item_path", item_path)):
            if value is not None:
                existing_file(value, name)
