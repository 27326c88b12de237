"""A folder of Parquet parts that a restart goes on with: each part whole, known by its content, and of one setting.

Readers of Parquet take the folder for one table: what else lies in it has a name that begins with an underscore.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hf_genrec.files import fingerprint, whole_file, working_in, write_json

LOG = "_parts.jsonl"
LEFT_BEHIND = re.compile(r"\.(part-\d+\.parquet|_\w+\.jsonl?)\.\d+\.tmp")  # by a process that was killed


def part_name(number: int) -> str:
    return f"part-{number:05d}.parquet"


def write_part(folder: Path, number: int, table: pa.Table, counts: Mapping[str, int]) -> dict[str, Any]:
    """
    Write a part, whole.

    Returns:
        its record: the file, its rows and SHA-256, and the `counts`.
    """
    path = folder / part_name(number)
    with whole_file(path) as temporary:
        pq.write_table(table, temporary)
        known_by = fingerprint([temporary])
    return {"file": path.name, "rows": table.num_rows, **counts, "sha256": known_by}


class PartFolder:
    """
    Attributes:
        path: the folder.
        name: what the parts hold, for instance "recommendations".
        settings: what they are made from and how; compared with those of an earlier call.
        num_parts: how many there are in the end.
        records: of the finished parts, by their number.
    """

    def __init__(self, path: Path, name: str, settings: Mapping[str, Any], num_parts: int):
        self.path, self.name, self.num_parts = path, name, num_parts
        self.settings = json.loads(json.dumps(settings))
        self.records: dict[int, dict[str, Any]] = {}

    @property
    def manifest(self) -> Path:
        return self.path / f"_{self.name}.json"

    @property
    def missing(self) -> list[int]:
        return [number for number in range(self.num_parts) if number not in self.records]

    @contextmanager
    def at_work(self) -> Iterator["PartFolder"]:
        """
        Meanwhile no other process writes here. Finished parts are found; what a killed process left is removed.

        Raises:
            OSError: another process is at work here.
            ValueError: the folder holds something else, or parts made from something else or in another way.
        """
        with working_in(self.path):
            self._require_same()
            for path in self.path.iterdir():
                if LEFT_BEHIND.fullmatch(path.name):
                    path.unlink()
            self._read_log()
            if self.missing or not self._state().get("finished"):
                self._write_manifest(finished=False)  # first: without it the folder is nobody's
                self._write_log()
            yield self

    def add(self, record: dict[str, Any]) -> None:
        """A part is written: the restart need not make it again."""
        self.records[_number(record)] = record
        with (self.path / LOG).open("a", encoding="utf-8") as log:
            log.write(json.dumps(record) + "\n")

    def finish(self) -> dict[str, Any]:
        """All parts are there. Returns the manifest, which says so."""
        if not self._state().get("finished"):
            self._write_log()
            self._write_manifest(finished=True)
        return self._state()

    def _state(self) -> dict[str, Any]:
        try:
            state = json.loads(self.manifest.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise ValueError(f"{self.manifest} is not JSON ({error}): delete {self.path}, or name another") from None
        return state if isinstance(state, dict) else {}

    def _require_same(self) -> None:
        found = {path.name for path in self.path.iterdir() if not LEFT_BEHIND.fullmatch(path.name)}
        state = self._state()
        if found and not state:
            raise ValueError(f"{self.path} holds other files and no {self.manifest.name}: name an empty folder")
        if found <= {self.manifest.name, LOG}:
            return  # nothing was finished: whatever was asked for then
        before = state.get("settings") or {}
        for key in sorted(before.keys() | self.settings.keys()):
            was, now = before.get(key), self.settings.get(key)
            if was != now:
                raise ValueError(
                    f"{self.path} holds {self.name} with {key} {_short(was)}, and {_short(now)} is asked for: name "
                    f"another folder as --output, or delete this one"
                )

    def _read_log(self) -> None:
        try:
            lines = (self.path / LOG).read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return
        for line in lines:
            try:
                record = json.loads(line)
                number = _number(record)
                path, sha256 = self.path / part_name(number), record["sha256"]
            except (ValueError, KeyError, TypeError, AttributeError):
                continue  # half a line, of a process that was killed
            if number < self.num_parts and path.is_file() and fingerprint([path]) == sha256:
                self.records[number] = record

    def _write_log(self) -> None:
        with whole_file(self.path / LOG) as temporary:
            lines = [json.dumps(self.records[number]) + "\n" for number in sorted(self.records)]
            temporary.write_text("".join(lines), encoding="utf-8")

    def _write_manifest(self, finished: bool) -> None:
        state = {"settings": self.settings, "parts": self.num_parts, "finished": finished}
        if finished:
            counts: dict[str, int] = {}
            for record in self.records.values():
                for key, value in record.items():
                    if isinstance(value, int):
                        counts[key] = counts.get(key, 0) + value
            state |= counts
        write_json(state, self.manifest)


def _number(record: Mapping[str, Any]) -> int:
    match = re.fullmatch(r"part-(\d{5,})\.parquet", record["file"])
    if match is None:
        raise ValueError(f"{record['file']} is no part")
    return int(match[1])


def _short(value: Any) -> str:
    """A setting as an error message shows it: of a fingerprint the beginning."""
    return f"{value[:12]}..." if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) else f"{value}"
