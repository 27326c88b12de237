"""Files and folders that appear whole or not at all, and what their content is known by."""

import errno
import fcntl
import hashlib
import json
import math
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

_REMEDIES = {
    errno.ENOSPC: ": make room there",
    errno.EDQUOT: ": make room there",
    errno.EFBIG: ": raise the limit of file sizes (ulimit -f)",
}
NEW, OLD = ".new", ".old"  # what stands beside a folder while it is replaced


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
        with naming(path):
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
        OSError: if `folder` is a file or a mount point, which cannot be replaced, or another process is replacing it.
    """
    folder = Path(folder).resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.is_file() or os.path.ismount(folder):
        raise OSError(f"{folder} is a file or a mount point, which a new folder cannot replace: name a folder below it")
    restore_folder(folder)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=NEW, dir=folder.parent))
    aside = temporary.with_suffix(OLD)
    with ExitStack() as locks:
        locks.enter_context(_lock(temporary))
        try:
            with naming(folder):
                yield temporary
            os.chmod(temporary, folder.stat().st_mode & 0o777 if folder.is_dir() else 0o755)
            if folder.exists():
                locks.enter_context(_lock(folder))
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
    if not folder.parent.is_dir():
        return
    for path in sorted(folder.parent.iterdir()):
        if not (path.name.startswith(f".{folder.name}.") and path.suffix in (NEW, OLD) and path.is_dir()):
            continue
        try:
            with _lock(path):  # nobody's who is still alive
                if path.suffix == OLD and not folder.exists():
                    os.rename(path, folder)
                else:
                    shutil.rmtree(path, ignore_errors=True)
        except OSError:
            continue  # somebody is at work there


@contextmanager
def naming(path: Path, remedy: str = "") -> Iterator[None]:
    """What cannot be written is named, with what to do: of a full disk, errors say no more than that it is full."""
    try:
        yield
    except shutil.Error as error:  # of a folder that is copied: a line for each of its files
        raise OSError(f"{path} cannot be written: {error.args[0][0][-1]}") from error
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        remedy = _REMEDIES.get(error.errno, "") + remedy
        raise OSError(f"{path} cannot be written: {os.strerror(error.errno)}{remedy}") from error
    except SafetensorError as error:
        raise OSError(f"{path} cannot be written: {error}") from error


@contextmanager
def _lock(folder: Path, taken: str = "is being replaced by another process") -> Iterator[None]:
    """Meanwhile no other process has this lock. It ends with the process, however that ends."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OSError(f"{folder} {taken}: wait until it has ended") from None
        yield
    finally:
        os.close(descriptor)


@contextmanager
def working_in(folder: str | os.PathLike[str]) -> Iterator[None]:
    """
    Meanwhile no other command writes into a run folder, which is made where there is none.

    Raises:
        OSError: if another command does, or `folder` is a file.
    """
    folder = Path(folder)
    if folder.is_file():
        raise OSError(f"{folder} is a file: name a folder as output_dir")
    folder.mkdir(parents=True, exist_ok=True)
    with _lock(folder, "is where another command is at work"):
        yield


def require_writable(*folders: Path) -> None:
    """
    Before work whose results go there. A folder that is missing will be made in the nearest one above that is there.

    Raises:
        OSError: if nothing can be written there; names the folder.
    """
    for folder in folders:
        place = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(path))
        try:
            with tempfile.TemporaryFile(dir=place):
                pass
        except OSError as error:
            where = "" if place == folder.absolute() else f" in {place}"
            raise OSError(
                f"{folder} cannot be written{where} ({error.strerror}): change that, or name another output folder"
            ) from None


def copy_folder(source: Path, target: Path) -> None:
    """Copy a folder, unless it is there already or there is none; it appears whole."""
    restore_folder(source)
    restore_folder(target)
    if source.is_dir() and not target.exists():
        with whole_folder(target) as temporary:
            shutil.copytree(source, temporary, dirs_exist_ok=True)


def write_json(content: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write `content` as indented JSON; NaN is refused."""
    text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def spelled_out(content: Any) -> Any:
    """`content` with "inf", "-inf" and "nan" in the place of numbers that JSON does not have."""
    if isinstance(content, Mapping):
        return {key: spelled_out(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [spelled_out(value) for value in content]
    return str(content) if isinstance(content, float) and not math.isfinite(content) else content


def fingerprint(parts: Iterable[bytes | memoryview | Path]) -> str:
    """SHA-256 of bytes and of the content of files, one after the other."""
    digest = hashlib.sha256()
    for part in parts:
        if not isinstance(part, Path):
            digest.update(part)
            continue
        with part.open("rb") as file:
            while chunk := file.read(2**20):
                digest.update(chunk)
    return digest.hexdigest()


def source_fingerprint(path: Path) -> str:
    """
    What a file, or the files of a folder and the folders in it, are known by: of a changed one size and time may be as
    they were.

    Raises:
        OSError: as [`require_stored`], or if there is no such file.
    """
    require_stored(path)
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    for file in files:
        require_stored(file)
    return fingerprint(files)


def require_stored(path: Path) -> None:
    """
    Raises:
        OSError: unless `path` is a file or folder that is stored: devices, pipes and what the system tells in /proc and
            /sys may be read without end.
    """
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) or path.resolve().parts[:2] in (("/", "proc"), ("/", "sys")):
        raise OSError(f"{path} is no stored file and no folder of such: name one")


def weights_fingerprint(folder: Path) -> str | None:
    """What the weights in a folder are known by; None where there are none."""
    files = sorted(folder.glob("*.safetensors"))
    return fingerprint(files) if files else None
