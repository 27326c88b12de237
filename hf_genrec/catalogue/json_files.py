"""JSON files, of whatever depth, size or shape: what is wrong with one is told in one line that names it."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

REMEDY = "save or download it again"


class DamagedFile(ValueError):
    """A saved file that is wrong, told in one line that names it."""


@contextmanager
def naming(place: Any, remedy: str = REMEDY) -> Iterator[None]:
    """
    Whatever goes wrong meanwhile, in one line that names `place`, a file, folder or repository.

    Raises:
        DamagedFile, OSError: instead of any other error than one of memory or of a missing package.
    """
    try:
        yield
    except (DamagedFile, ImportError, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:400] or type(error).__name__
        reason = f"it has no {reason}" if isinstance(error, KeyError) else reason
        if isinstance(error, OSError):
            if str(place) in reason and "\n" not in str(error):
                raise
            raise OSError(f"{place} cannot be read ({reason}): {remedy}.") from error
        raise DamagedFile(f"{place} is damaged ({reason}): {remedy}.") from error


def read_json(
    path: str | os.PathLike[str],
    kind: type = dict,
    remedy: str = REMEDY,
    pairs: Callable[[list], Any] | None = None,
    finite: bool = True,
) -> Any:
    """
    What a JSON file holds.

    Args:
        kind: what it must be as a whole: an object (`dict`), a `list`, or anything (`object`).
        remedy: what the error says to do.
        finite: whether NaN and Infinity, which Python writes and JSON has not, are refused.
        pairs: what makes an object of its keys and values, see `object_pairs_hook` of `json.load`.

    Raises:
        DamagedFile: if it holds anything else, or numbers too long or lists too deep to be read.
        OSError: if there is no such file.
    """
    with naming(path, remedy), open(path, encoding="utf-8") as file:
        content = json.load(file, parse_constant=_no_constant if finite else None, object_pairs_hook=pairs)
        if not isinstance(content, kind):
            raise ValueError(f"it holds no JSON {'object' if kind is dict else kind.__name__}")
    return content


def number(value: Any) -> float:
    """
    A number of a JSON file.

    Raises:
        ValueError: if it is none.
    """
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError(f"{str(value)[:80]!r} stands where a number is expected")
    return value


def _no_constant(name: str):
    raise ValueError(f"it holds {name}, which is no JSON")
