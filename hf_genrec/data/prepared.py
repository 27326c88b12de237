"""Prepared data: the catalogue, every user's sequence, and which of its end are targets."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hf_genrec.files import whole_file, write_json

SEQUENCES_FILE = "sequences.parquet"
ITEMS_FILE = "items.parquet"
REPORT_FILE = "prepare.json"


@dataclass(eq=False)
class EvaluationSplit:
    """The users with at least one target in a split; the three lists are parallel.

    Attributes:
        name: "validation" or "test".
        user_ids: (users,)
        histories: per user, the item indices before the split's targets, oldest first; may be empty, and holds the
            validation targets when the split is test.
        targets: per user, one or more item indices, oldest first.
    """

    name: str
    user_ids: list[str]
    histories: list[np.ndarray]
    targets: list[np.ndarray]


@dataclass(eq=False)
class PreparedData:
    """Sequences over a catalogue, with their split.

    Attributes:
        user_ids: (users,) in the order of their first appearance in the source.
        item_ids: (items,) the catalogue, in the order of the items table.
        items: one row per catalogue item in the same order: item_id and text columns.
        sequences: per user, int64 item indices into `item_ids`, oldest first: train, validation, test.
        num_validation: (users,) int64, how many items before the test targets are validation targets.
        num_test: (users,) int64, how many of the last items are test targets.
        report: settings and counts: what was read, what was dropped and why, what the split holds.
    """

    user_ids: list[str]
    item_ids: list[str]
    items: pa.Table
    sequences: list[np.ndarray]
    num_validation: np.ndarray
    num_test: np.ndarray
    report: dict[str, Any]

    def train_sequences(self) -> list[np.ndarray]:
        """(users,) sequences without validation and test targets; empty for a user first seen in a target."""
        held_out = self.num_validation + self.num_test
        return [sequence[: len(sequence) - n] for sequence, n in zip(self.sequences, held_out, strict=True)]

    def split(self, name: Literal["validation", "test"]) -> EvaluationSplit:
        """The users with at least one target in the split `name`, what they did before, and the targets."""
        if name not in ("validation", "test"):
            raise ValueError(f"split {name!r} is not one of validation, test")
        after = np.zeros_like(self.num_test) if name == "test" else self.num_test
        counts = self.num_test if name == "test" else self.num_validation
        result = EvaluationSplit(name, [], [], [])
        for user in np.flatnonzero(counts):
            sequence = self.sequences[user]
            end = len(sequence) - after[user]
            result.user_ids.append(self.user_ids[user])
            result.histories.append(sequence[: end - counts[user]])
            result.targets.append(sequence[end - counts[user] : end])
        return result

    def item_popularity(self) -> np.ndarray:
        """(items,) int64, the training interactions of every item."""
        train = np.concatenate([np.empty(0, dtype=np.int64), *self.train_sequences()])
        return np.bincount(train, minlength=len(self.item_ids))

    def titles(self) -> list[str] | None:
        """Titles in catalogue order, where the items have any."""
        return self.items["title"].to_pylist() if "title" in self.items.column_names else None

    def require_catalogue(self, item_ids: list[str], of: str, remedy: str) -> None:
        """
        Raises:
            ValueError: unless these are the items of these data, in their order; says what they are the items `of`.
        """
        if item_ids != self.item_ids:
            raise ValueError(
                f"{of} are of another catalogue ({len(item_ids)} items, the data have {len(self.item_ids)}): {remedy}"
            )

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes sequences.parquet (user_id, item_ids, num_validation, num_test), items.parquet and prepare.json."""
        folder = Path(folder)
        offsets = np.cumsum([0, *map(len, self.sequences)], dtype=np.int32)
        flat = pa.array(np.concatenate([np.empty(0, dtype=np.int64), *self.sequences]))
        sequences = pa.table(
            {
                "user_id": pa.array(self.user_ids, pa.string()),
                "item_ids": pa.ListArray.from_arrays(offsets, pa.array(self.item_ids, pa.string()).take(flat)),
                "num_validation": pa.array(self.num_validation, pa.int64()),
                "num_test": pa.array(self.num_test, pa.int64()),
            }
        )
        with whole_file(folder / ITEMS_FILE) as path:
            pq.write_table(self.items, path)
        write_json(self.report, folder / REPORT_FILE)
        with whole_file(folder / SEQUENCES_FILE) as path:
            pq.write_table(sequences, path)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> "PreparedData":
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: one of the three files is missing.
            ValueError: a file is damaged, or a sequence holds an item that is not in items.parquet.
        """
        folder = Path(folder)
        require_prepared(folder)
        sequences = _read_parquet(folder / SEQUENCES_FILE, {"user_id", "item_ids", "num_validation", "num_test"})
        items = _read_parquet(folder / ITEMS_FILE, {"item_id"})
        try:
            report = json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{folder / REPORT_FILE} is not JSON ({error}): run prepare again") from None

        lists = sequences["item_ids"].combine_chunks()
        ids = lists.flatten()
        indices = pc.index_in(ids, value_set=items["item_id"].combine_chunks())
        if indices.null_count:
            unknown = ids.filter(indices.is_null())[0].as_py()
            raise ValueError(f"{folder / SEQUENCES_FILE}: item {unknown!r} is not in {ITEMS_FILE}: run prepare again")
        ends = np.cumsum(_numbers(pc.list_value_length(lists)))[:-1]
        return cls(
            user_ids=sequences["user_id"].to_pylist(),
            item_ids=items["item_id"].to_pylist(),
            items=items,
            sequences=np.split(_numbers(indices), ends),
            num_validation=_numbers(sequences["num_validation"].combine_chunks()),
            num_test=_numbers(sequences["num_test"].combine_chunks()),
            report=report,
        )


def require_prepared(folder: Path) -> None:
    """
    Raises:
        FileNotFoundError: one of the three files is missing.
    """
    for name in (SEQUENCES_FILE, ITEMS_FILE, REPORT_FILE):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name} does not exist: run `hf-genrec prepare` first")


def _numbers(array: pa.Array) -> np.ndarray:
    """(n,) int64. Array.to_numpy would import pandas, which a recommendation has no use for."""
    if array.null_count:
        raise ValueError(f"{SEQUENCES_FILE} holds nulls where numbers are expected: run prepare again")
    return np.from_dlpack(array).astype(np.int64)


def _read_parquet(path: Path, columns: set[str]) -> pa.Table:
    try:
        with pq.ParquetFile(path) as file:  # pq.read_table would import pandas
            table = file.read()
    except (pa.ArrowInvalid, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} cannot be read as Parquet ({reason}): run prepare again") from None
    if missing := columns - set(table.column_names):
        raise ValueError(f"{path} has no column {', '.join(sorted(missing))}: run prepare again")
    return table
