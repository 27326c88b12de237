"""Rows of JSON Lines files: one object a line."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hf_genrec.dataset_scripts.rows import checked
from hf_genrec.dataset_scripts.table_file import TableFile, Wanted, text_lines

SUFFIXES = (".jsonl", ".json", ".ndjson")


class JsonLinesFile(TableFile):
    """A table whose columns are all keys of its objects, in the order of their first appearance; a key that an object
    does not have is an empty cell.

    Raises:
        ValueError: lines that are not JSON objects, text that is not UTF-8.
    """

    def __init__(self, path: Path) -> None:
        rows = checked(path, text_lines(path), parse_object)
        super().__init__(path, list(dict.fromkeys(key for row in rows for key in row)))

    def _rows(self, wanted: Sequence[Wanted]) -> Iterator[tuple[int, str]]:
        return text_lines(self.path)

    def _picker(self, wanted: Sequence[Wanted]) -> Callable[[str], list[Any]]:
        def pick(line: str) -> list[Any]:
            row = parse_object(line)
            return [row.get(column.name) for column in wanted]

        return pick


def parse_object(line: str) -> dict[str, Any]:
    """
    The object of a line.

    Raises:
        ValueError: it is none, or has a key twice.
    """
    try:
        row = json.loads(line, object_pairs_hook=_object)
        if "\\u" in line:  # JSON can spell half a character, which no file and no engine takes
            json.dumps(row, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        hint = ": write one object a line, not an array" if line.lstrip().startswith("[") else ""
        raise ValueError(f"not JSON ({error.msg} at column {error.colno}){hint}") from None
    except UnicodeEncodeError:
        raise ValueError("not JSON that can be read (half a character, a lone surrogate)") from None
    except RecursionError:
        raise ValueError("not JSON that can be read (nested too deeply)") from None
    if not isinstance(row, dict):
        raise ValueError("not a JSON object: write one object a line")
    return row


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(key for key in keys if keys.count(key) > 1)!r} is there twice")
    return row
