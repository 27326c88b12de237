"""The catalogue's semantic IDs: item id -> codes, on disk as safetensors and JSON."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from hf_genrec.catalogue.saved_files import naming, read_json
from hf_genrec.files import fingerprint, restore_folder, whole_file, write_json

CODES_FILE = "semantic_ids.safetensors"
TABLE_FILE = "semantic_ids.json"
REMEDY = "make the semantic IDs again"


@dataclass
class SemanticIds:
    """The codes of every item of a catalogue.

    Args:
        item_ids: N item ids, each once.
        codes: (N, L) int64; with the collision policy `extra_code` L is one more than the quantizer's levels.
        codebook_sizes: number of codes of each of the L levels.
        report: how the codes were made (counts and settings).

    Raises:
        ValueError: lengths that do not match, an item id twice, or a code outside its codebook.
    """

    item_ids: list[str]
    codes: np.ndarray
    codebook_sizes: list[int]
    report: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        codes = np.asarray(self.codes)
        if not np.issubdtype(codes.dtype, np.integer):
            raise ValueError(f"codes are {codes.dtype}, expected integers")
        self.codes = codes.astype(np.int64)
        if self.codes.shape != (len(self.item_ids), len(self.codebook_sizes)):
            raise ValueError(
                f"codes have shape {self.codes.shape}, expected {(len(self.item_ids), len(self.codebook_sizes))}: "
                "one row per item id, one column per codebook"
            )
        seen: set[str] = set()
        for item_id in self.item_ids:
            if item_id in seen:
                raise ValueError(f"item {item_id!r} has semantic IDs twice; an item id stands in a catalogue once")
            seen.add(item_id)
        outside = (self.codes < 0) | (self.codes >= np.array(self.codebook_sizes))
        if outside.any():
            row, level = (int(index) for index in np.argwhere(outside)[0])
            raise ValueError(
                f"item {self.item_ids[row]!r}, level {level}: code {self.codes[row, level]} is outside the codebook of "
                f"{self.codebook_sizes[level]} codes; correct the code or enlarge codebook_sizes[{level}]"
            )

    def __len__(self) -> int:
        return len(self.item_ids)

    @property
    def fingerprint(self) -> str:
        """What the codes are known by: a hash of them, of the item ids and of the codebook sizes."""
        names = json.dumps([self.item_ids, self.codebook_sizes]).encode()
        return fingerprint([names, np.ascontiguousarray(self.codes, dtype="<i8").data])

    def add_items(self, item_ids: list[str], codes: np.ndarray) -> "SemanticIds":
        """A new catalogue with further items at its end; raises ValueError as the constructor does."""
        report = {**self.report, "items_added": self.report.get("items_added", 0) + len(item_ids)}
        return SemanticIds(
            [*self.item_ids, *item_ids], np.concatenate([self.codes, codes]), self.codebook_sizes, report
        )

    def save(self, folder: str | Path) -> None:
        """Write semantic_ids.safetensors and semantic_ids.json, each whole or not at all."""
        folder = Path(folder)
        table = {
            "item_ids": self.item_ids,
            "codebook_sizes": self.codebook_sizes,
            "fingerprint": self.fingerprint,
            "report": self.report,
        }
        with whole_file(folder / CODES_FILE) as path:
            save_file({"codes": np.ascontiguousarray(self.codes)}, path)
        write_json(table, folder / TABLE_FILE)

    @classmethod
    def load(cls, folder: str | Path) -> "SemanticIds":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a file is damaged, or the two files are not of one save.
        """
        codes_path, table = Path(folder) / CODES_FILE, read_table(folder)
        with naming(codes_path, REMEDY):
            codes = load_file(codes_path)["codes"]
            if codes.dtype != np.int64:
                raise ValueError(f"codes are {codes.dtype}, expected int64")
        with naming(Path(folder) / TABLE_FILE, REMEDY):
            found = cls(table["item_ids"], codes, table["codebook_sizes"], table["report"])
        if table["fingerprint"] != found.fingerprint:
            raise ValueError(f"{codes_path} and {TABLE_FILE} are not of one save; {REMEDY}")
        return found


def read_table(folder: str | Path) -> dict[str, Any]:
    """
    What semantic_ids.json says: `item_ids`, `codebook_sizes`, `report` and `fingerprint`.

    Raises:
        FileNotFoundError: a file of the semantic IDs is missing.
        ValueError: the file is damaged, or of an earlier version of this library.
    """
    folder = Path(folder)
    restore_folder(folder)
    for name in (CODES_FILE, TABLE_FILE):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name} is missing; make the semantic IDs with `hf-genrec tokenize`")
    table = read_json(str(folder / TABLE_FILE))
    kinds = {"item_ids": list, "codebook_sizes": list, "report": dict, "fingerprint": str}
    with naming(folder / TABLE_FILE, REMEDY):
        for name, kind in kinds.items():
            if not isinstance(table.get(name), kind):
                raise ValueError(f"{name} is missing, or no {kind.__name__}")
        for name, entry in (("item_ids", str), ("codebook_sizes", int)):
            if not all(type(value) is entry for value in table[name]):
                raise ValueError(f"{name} is no list of {entry.__name__}")
        _check_report(table["report"])
    return table


def _check_report(report: dict[str, Any]) -> None:
    """What is read of it: how the codes were made, and from what."""
    for name in ("made_from", "collisions"):
        if not isinstance(report.get(name, {}), dict):
            raise ValueError(f"report.{name} is no object")
    made_from, added = report.get("made_from", {}), report.get("items_added", 0)
    if not isinstance(made_from.get("settings", {}), dict):
        raise ValueError("report.made_from.settings is no object")
    if type(added) is not int or added < 0:
        raise ValueError("report.items_added is no count")
    if "collisions" not in report:
        return
    if report["collisions"].get("policy") not in ("resolve", "extra_code", "spread", "keep"):
        raise ValueError("report.collisions.policy is none of resolve, extra_code, spread, keep")
    for name in ("before", "after"):
        counts = report["collisions"].get(name)
        if not isinstance(counts, dict) or type(counts.get("items")) is not int:
            raise ValueError(f"report.collisions.{name} holds no counts")
