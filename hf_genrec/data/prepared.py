"""Prepared data: the catalogue, every user's sequence, and which of its end are targets."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hf_genrec.cells import is_list, shortened, shown
from hf_genrec.data.flat_sequences import CHUNK, FlatSequences, Ids
from hf_genrec.data.prepare_report import REMEDY, read_prepare_report
from hf_genrec.files import fingerprint, restore_folder, whole_folder, write_json

SEQUENCES_FILE = "sequences.parquet"
ITEMS_FILE = "items.parquet"
REPORT_FILE = "prepare.json"
# What `save` writes, by column.
_SEQUENCES = {"user_id": "string", "item_ids": "list of string", "num_validation": "int64", "num_test": "int64"}
_SEQUENCES_SCHEMA = pa.schema(
    {"user_id": pa.string(), "item_ids": pa.list_(pa.string()), "num_validation": pa.int64(), "num_test": pa.int64()}
)
_ITEMS = {"item_id": "string"}


@dataclass(eq=False)
class EvaluationSplit:
    """The users with at least one target in a split; the three lists are parallel.

    Attributes:
        name: "validation" or "test".
        user_ids: (users,)
        histories: per user, the item indices before the split's targets, oldest first; may be empty, and holds the
            validation targets when the split is test.
        targets: per user, one or more item indices, oldest first.

    Any list of ids is taken for [`Ids`], and any list of arrays for [`FlatSequences`].
    """

    name: str
    user_ids: Ids
    histories: FlatSequences
    targets: FlatSequences

    def __post_init__(self) -> None:
        self.user_ids = Ids.of(self.user_ids)
        self.histories, self.targets = FlatSequences.of(self.histories), FlatSequences.of(self.targets)


@dataclass(eq=False)
class PreparedData:
    """Sequences over a catalogue, with their split.

    Attributes:
        user_ids: (users,) in the order of their first appearance in the source; any list is taken for [`Ids`].
        item_ids: (items,) the catalogue, in the order of the items table.
        items: one row per catalogue item in the same order: item_id and text columns.
        sequences: per user, int64 item indices into `item_ids`, oldest first: train, validation, test; any list of
            arrays is taken for [`FlatSequences`].
        num_validation: (users,) int64, how many items before the test targets are validation targets.
        num_test: (users,) int64, how many of the last items are test targets.
        report: settings and counts: what was read, what was dropped and why, what the split holds.
        folder: where they were read from; `None` for those just prepared.
    """

    user_ids: Ids
    item_ids: list[str]
    items: pa.Table
    sequences: FlatSequences
    num_validation: np.ndarray
    num_test: np.ndarray
    report: dict[str, Any]
    folder: Path | None = None

    def __post_init__(self) -> None:
        self.user_ids, self.sequences = Ids.of(self.user_ids), FlatSequences.of(self.sequences)

    def settings(self, *names: str) -> dict[str, Any]:
        """How the data were prepared.

        Raises:
            ValueError: if the report does not say it of these settings.
        """
        settings = self.report.get("settings", {})
        if missing := [name for name in names if name not in settings]:
            path = REPORT_FILE if self.folder is None else self.folder / REPORT_FILE
            raise ValueError(f"{path} does not say {', '.join(missing)} of the prepared data: {REMEDY}")
        return settings

    def train_sequences(self) -> FlatSequences:
        """(users,) sequences without validation and test targets; empty for a user first seen in a target."""
        return self.sequences.head(self.num_validation + self.num_test)

    def split(self, name: Literal["validation", "test"], may_be_empty: bool = False) -> EvaluationSplit:
        """The users with at least one target in the split `name`, what they did before, and the targets.

        Raises:
            ValueError: another name, or a split without targets, unless it `may_be_empty`.
        """
        if name not in ("validation", "test"):
            raise ValueError(f"split {name!r} is not one of validation, test")
        after = np.zeros_like(self.num_test) if name == "test" else self.num_test
        counts = self.num_test if name == "test" else self.num_validation
        if not may_be_empty and not counts.any():
            raise ValueError(_no_targets(name, self.report.get("settings", {})))
        known, user_ids = self.sequences.head(after), self.user_ids
        if not counts.all():
            users = np.flatnonzero(counts)
            known, user_ids, counts = known[users], user_ids.take(users), counts[users]
        return EvaluationSplit(name, user_ids, known.head(counts), known.tail(counts))

    def item_popularity(self) -> np.ndarray:
        """(items,) int64, the training interactions of every item."""
        return self.train_sequences().counts(len(self.item_ids))

    @property
    def fingerprint(self) -> str:
        """What the data are known by: a hash of users, items with their text, sequences and split."""
        return fingerprint(self._content())

    def _content(self) -> Iterator[bytes | memoryview]:
        yield b"[["
        for start in range(0, len(self.user_ids), 2**12):
            yield (", " * bool(start) + json.dumps(self.user_ids[start : start + 2**12])[1:-1]).encode()
        yield f"], {json.dumps(self.items.column_names)}]".encode()
        for column in self.items.columns:
            for start in range(0, len(column), 2**16):
                yield json.dumps(column.slice(start, 2**16).to_pylist()).encode()
        for numbers in (self.sequences.lengths, *self.sequences.chunks(2**12)):
            yield np.ascontiguousarray(numbers, dtype="<i8").data
        for counts in (self.num_validation, self.num_test):
            yield np.ascontiguousarray(counts, dtype="<i8").data

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
        """
        Writes sequences.parquet (user_id, item_ids, num_validation, num_test), items.parquet and prepare.json, the
        report with the fingerprint. The folder appears whole, in place of an older one.
        """
        with whole_folder(folder) as new:
            pq.write_table(self.items, new / ITEMS_FILE)
            with pq.ParquetWriter(new / SEQUENCES_FILE, _SEQUENCES_SCHEMA) as writer:
                for rows in self._sequence_tables():
                    writer.write_table(rows)
            write_json(self.report | {"fingerprint": self.fingerprint}, new / REPORT_FILE)

    def _sequence_tables(self) -> Iterator[pa.Table]:
        """The rows of sequences.parquet, a row group each."""
        item_ids = pa.array(self.item_ids, pa.string())
        for start, items in zip(range(0, len(self.sequences), CHUNK), self.sequences.chunks(), strict=True):
            users = slice(start, start + CHUNK)
            offsets = np.append(0, np.cumsum(self.sequences.lengths[users])).astype(np.int32)
            columns = [
                self.user_ids.column[users],
                pa.ListArray.from_arrays(offsets, item_ids.take(pa.array(items))),
                pa.array(self.num_validation[users], pa.int64()),
                pa.array(self.num_test[users], pa.int64()),
            ]
            yield pa.table(columns, _SEQUENCES_SCHEMA)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> "PreparedData":
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: one of the three files is missing.
            ValueError: a file is damaged, a sequence holds an item that is not in items.parquet, or the three files are
                not of one `save`.
        """
        folder = Path(folder)
        report = read_report(folder)
        items = _read_parquet(folder / ITEMS_FILE, _ITEMS)
        sequences = _read_sequences(folder / SEQUENCES_FILE, items["item_id"].combine_chunks())
        item_ids = items["item_id"].to_pylist()
        prepared = cls(item_ids=item_ids, items=items, report=report, folder=folder, **sequences)
        if prepared.fingerprint != report["fingerprint"]:
            raise ValueError(f"the files in {folder} are not of one `hf-genrec prepare`: run it again")
        return prepared


def read_report(folder: Path) -> dict[str, Any]:
    """
    What prepare.json says of the data in a folder.

    Raises:
        FileNotFoundError: a file of the data is missing.
        ValueError: the report is damaged, or of an earlier version of this library.
    """
    require_files(folder)
    return read_prepare_report(folder / REPORT_FILE)


def _no_targets(name: str, settings: dict[str, Any]) -> str:
    if settings.get("split") == "global_time":
        times = " and ".join(f"{key} ({settings.get(key)})" for key in ("validation_time", "test_time"))
        remedy = f"prepare again with another {times}"
    else:
        remedy = "only users with 3 interactions or more have targets: prepare a larger log, or with lower filters"
    without = "; to train without: eval_strategy: no, load_best_model_at_end: false" if name == "validation" else ""
    return f"the {name} split has no targets, so nothing can be evaluated: {remedy}{without}"


def require_files(folder: Path) -> None:
    """
    Raises:
        FileNotFoundError: one of the three files is missing.
    """
    restore_folder(folder)
    for name in (SEQUENCES_FILE, ITEMS_FILE, REPORT_FILE):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name} does not exist: run `hf-genrec prepare` first")


def _read_sequences(path: Path, item_ids: pa.Array) -> dict[str, Any]:
    """
    What of the fields stands in sequences.parquet. The file is mapped, and decoded part by part into one array: item
    ids by their dictionaries, not one by one.
    """
    with _naming_damage(path):
        with pq.ParquetFile(path, memory_map=True) as file:
            _check_columns(path, file.schema_arrow, _SEQUENCES)
            paths = [file.schema.column(place).path for place in range(len(file.schema))]
        encoded = [column for column in paths if column.startswith("item_ids.")]
        values, counts, user_ids = _decoded(path, encoded, item_ids)
    for pool in (pa.default_memory_pool(), pa.system_memory_pool()):
        pool.release_unused()  # what decoding took, which nothing holds any longer
    lengths, num_validation, num_test = counts[0], counts[1].copy(), counts[2].copy()
    return {
        "user_ids": user_ids,
        "sequences": FlatSequences.from_lengths(values, lengths),
        "num_validation": num_validation,
        "num_test": num_test,
    }


def _decoded(path: Path, encoded: list[str], item_ids: pa.Array) -> tuple[np.ndarray, np.ndarray, Ids]:
    """
    Part by part: the items of all users, (interactions,) int32; lengths, validation and test targets, (3, users) int64;
    and the users' ids.

    Args:
        encoded: the file's column of item ids.
    """
    with pq.ParquetFile(path, memory_map=True, read_dictionary=encoded) as file:
        place = [file.schema.column(place).path for place in range(len(file.schema))].index(encoded[0])
        groups = [file.metadata.row_group(group) for group in range(file.metadata.num_row_groups)]
        values = np.empty(sum(group.column(place).num_values for group in groups), dtype=np.int32)
        counts = np.empty((3, file.metadata.num_rows), dtype=np.int64)
        users, size, user = [], 0, 0
        for batch in file.iter_batches(CHUNK // 8, columns=list(_SEQUENCES), use_threads=False):
            rows = _item_rows(path, batch, item_ids)
            values[size : size + len(rows)] = rows
            size += len(rows)
            columns = (pc.list_value_length(batch["item_ids"]), batch["num_validation"], batch["num_test"])
            for line, column in zip(counts, columns, strict=True):
                line[user : user + len(batch)] = np.from_dlpack(column)
            users.append(pa.concat_arrays([batch["user_id"]]))
            user += len(batch)
    return values[:size], counts, Ids(pa.concat_arrays(users)) if users else Ids.of([])


def _item_rows(path: Path, batch: pa.RecordBatch, item_ids: pa.Array) -> np.ndarray:
    """(interactions,) int32, where the items of a part stand in the catalogue."""
    for name in _SEQUENCES:
        _check_nulls(path, name, batch[name])
    ids = batch["item_ids"].flatten()
    if pa.types.is_dictionary(ids.type):
        rows = pc.index_in(ids.dictionary, value_set=item_ids).take(ids.indices)
    else:
        rows = pc.index_in(ids, value_set=item_ids)
    if rows.null_count:
        unknown = ids.filter(rows.is_null())[0].as_py()
        raise ValueError(f"{path}: item {unknown!r} is not in {ITEMS_FILE}: {REMEDY}")
    return np.from_dlpack(rows)  # to_numpy would import pandas, which a recommendation has no use for


def _read_parquet(path: Path, columns: dict[str, str]) -> pa.Table:
    """
    A table as `save` wrote it: every name once, `columns` of just these types and without nulls, others of what JSON
    holds.
    """
    with _naming_damage(path), pq.ParquetFile(path) as file:  # pq.read_table would import pandas
        table = file.read()
    _check_columns(path, table.schema, columns)
    for name in columns:
        _check_nulls(path, name, table[name])
    return table


@contextmanager
def _naming_damage(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} cannot be read as Parquet ({reason}): {REMEDY}") from None


def _check_columns(path: Path, schema: pa.Schema, columns: dict[str, str]) -> None:
    names = schema.names
    if missing := columns.keys() - set(names):
        raise ValueError(f"{path} has no column {', '.join(sorted(missing))}: {REMEDY}")
    for name, type_of in zip(names, schema.types, strict=True):
        if names.count(name) > 1:
            raise ValueError(f"{path}: column {shown(name)} is there twice: {REMEDY}")
        kind = f"list of {type_of.value_type}" if pa.types.is_list(type_of) else str(type_of)
        if kind != columns.get(name, kind) or not _is_plain(type_of):
            expected = columns.get(name, "text or numbers")
            raise ValueError(f"{path}: column {shown(name)} is of type {shortened(kind, 60)}, not {expected}: {REMEDY}")


def _check_nulls(path: Path, name: str, column: pa.Array | pa.ChunkedArray) -> None:
    if column.null_count:
        raise ValueError(f"{path}: column {shown(name)} holds nulls: {REMEDY}")


def _is_plain(kind: pa.DataType) -> bool:
    """Whether cells of this type are what JSON holds: text, numbers, truth, nothing, or lists of such."""
    if is_list(kind):
        return _is_plain(kind.value_type)
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    return text or number or pa.types.is_null(kind)
