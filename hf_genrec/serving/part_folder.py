"""A folder of Parquet parts that a restart goes on with: each part whole, known by its content, and of one setting.

Readers of Parquet take the folder for one table: what else lies in it has a name that begins with an underscore.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hf_genrec.catalogue.json_files import naming, read_json
from hf_genrec.cells import shortened
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
        settings: what they are made from and how; compared with those of an earlier call. `part_size` is among them.
        unit: what the parts are made of, for instance "users".
        num_units: how many of them there are.
        counts: what else their records count.
        num_parts: how many there are in the end.
        records: of the finished parts, by their number.
    """

    def __init__(
        self, path: Path, name: str, settings: Mapping[str, Any], unit: str, num_units: int, counts: Iterable[str] = ()
    ):
        self.path, self.name, self.unit, self.num_units, self.counts = path, name, unit, num_units, tuple(counts)
        self.num_parts = -(-num_units // settings["part_size"])
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
            self._require_parts_alone()
            for path in self.path.iterdir():
                if LEFT_BEHIND.fullmatch(path.name):
                    path.unlink()
            self._read_log()
            if self.missing or (self._state() or {}).get("finished") is not True:
                self._write_manifest()  # first: without it the folder is nobody's
                self._write_log()
            yield self

    def add(self, record: dict[str, Any]) -> None:
        """A part is written: the restart need not make it again."""
        self.records[_number(record)] = record
        with (self.path / LOG).open("a", encoding="utf-8") as log:
            log.write(json.dumps(record) + "\n")

    def finish(self) -> dict[str, Any]:
        """All parts are there. Returns the manifest, which says so."""
        state = self._finished()
        if self._state() != state:
            self._write_log()
            write_json(state, self.manifest)
        return state

    def _state(self) -> dict[str, Any] | None:
        """
        What the manifest says, or None where there is none.

        Raises:
            DamagedFile: it is no JSON object, or has no settings.
        """
        remedy = f"delete {self.path}, or name another folder as --output"
        if not self.manifest.exists():
            return None
        with naming(self.manifest, remedy):
            state = read_json(self.manifest, remedy=remedy)
            if not isinstance(state["settings"], dict):
                raise ValueError("its settings are no JSON object")
        return state

    def _require_same(self) -> None:
        found = {path.name for path in self.path.iterdir() if not LEFT_BEHIND.fullmatch(path.name)}
        state = self._state()
        if found and state is None:
            raise ValueError(f"{self.path} holds other files and no {self.manifest.name}: name an empty folder")
        if found <= {self.manifest.name, LOG}:
            return  # nothing was finished: whatever was asked for then
        before = {} if state is None else state["settings"]
        for key in sorted(before.keys() | self.settings.keys()):
            was, now = before.get(key), self.settings.get(key)
            if was != now:
                raise ValueError(
                    f"{self.path} holds {self.name} with {key} {_short(was)}, and {_short(now)} is asked for: name "
                    f"another folder as --output, or delete this one"
                )

    def _require_parts_alone(self) -> None:
        """Readers take all that lies in the folder for one table, but for names that begin with a dot or underscore."""
        parts = {part_name(number) for number in range(self.num_parts)}
        for path in sorted(self.path.iterdir()):
            if path.name[0] not in "._" and (path.name not in parts or not path.is_file()):
                raise ValueError(
                    f"{path} is none of the {self.num_parts} parts of {self.name}, and readers would take it for one: "
                    f"move it away, or name another folder as --output"
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
                if number < self.num_parts and self._is_of_part(record, number):
                    self.records[number] = record
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError):
                continue  # half a line, of a process that was killed, or none of ours: the part is made again

    def _is_of_part(self, record: dict[str, Any], number: int) -> bool:
        """Whether a record says of a part what is in it."""
        path, size = self.path / part_name(number), self.settings["part_size"]
        counts = {name: value for name, value in record.items() if name not in ("file", "sha256")}
        return (
            counts.keys() == {"rows", self.unit, *self.counts}
            and all(type(value) is int and value >= 0 for value in counts.values())
            and counts[self.unit] == min(size, self.num_units - number * size)
            and path.is_file()
            and fingerprint([path]) == record["sha256"]
            and pq.read_metadata(path).num_rows == counts["rows"]
        )

    def _write_log(self) -> None:
        with whole_file(self.path / LOG) as temporary:
            lines = [json.dumps(self.records[number]) + "\n" for number in sorted(self.records)]
            temporary.write_text("".join(lines), encoding="utf-8")

    def _write_manifest(self) -> None:
        write_json({"settings": self.settings, "parts": self.num_parts, "finished": False}, self.manifest)

    def _finished(self) -> dict[str, Any]:
        state = {"settings": self.settings, "parts": self.num_parts, "finished": True}
        names = ("rows", self.unit, *self.counts)
        return state | {name: sum(record[name] for record in self.records.values()) for name in names}


def _number(record: Mapping[str, Any]) -> int:
    match = re.fullmatch(r"part-(\d{5,})\.parquet", record["file"])
    if match is None:
        raise ValueError(f"{record['file']} is no part")
    return int(match[1])


def _short(value: Any) -> str:
    """A setting as an error message shows it: of a fingerprint the beginning."""
    return (
        f"{value[:12]}..."
        if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value)
        else shortened(f"{value}", 200)
    )
