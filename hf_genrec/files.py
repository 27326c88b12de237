"""Files that appear whole or not at all."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """
    A temporary path beside `path` to write to. It takes the name of `path` when the block ends, and is removed when the
    block fails. Missing folders are made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """
    A temporary folder beside `folder` to write into. When the block ends it takes the place of `folder`, which steps
    aside first and comes back if that fails. When the block fails the temporary folder is removed. Missing parents are
    made; what a killed process has left beside `folder` is put back or removed.

    Raises:
        OSError: if `folder` is a file or a mount point, which cannot be replaced.
    """
    folder = Path(folder).resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.is_file() or os.path.ismount(folder):
        raise OSError(f"{folder} is a file or a mount point, which a new folder cannot replace: name a folder below it")
    restore_folder(folder)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.{os.getpid()}.", dir=folder.parent))
    aside = temporary.with_suffix(f"{temporary.suffix}-old")
    try:
        yield temporary
        os.chmod(temporary, folder.stat().st_mode & 0o777 if folder.is_dir() else 0o755)
        if folder.exists():
            os.rename(folder, aside)
        try:
            os.rename(temporary, folder)
        except OSError:
            if aside.exists():
                os.rename(aside, folder)
            raise
        shutil.rmtree(aside, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def restore_folder(folder: str | os.PathLike[str]) -> None:
    """Where a process was killed while it replaced `folder`: put the old one back, if none is there, and clean up."""
    folder = Path(folder).resolve()
    for path in sorted(folder.parent.glob(f".{folder.name}.*.*")):
        process = path.name.removeprefix(f".{folder.name}.").split(".")[0]
        if not process.isdigit() or _is_running(int(process)):
            continue
        if path.name.endswith("-old") and not folder.exists():
            os.rename(path, folder)
        else:
            shutil.rmtree(path, ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def copy_folder(source: Path, target: Path) -> None:
    """Copy a folder, unless it is there already or there is none; it appears whole."""
    if source.is_dir() and not target.exists():
        with whole_folder(target) as temporary:
            shutil.copytree(source, temporary, dirs_exist_ok=True)


def write_json(content: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write `content` as indented JSON; NaN is refused."""
    text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
