"""Rows as MiniOneRec and D3 write them: `train/NAME.csv`, `valid/NAME.csv` and `test/NAME.csv`, each a target.

    tables = load("data/train/Video_Games_5_2012-10-2018-11.csv")   # or data, if train/ holds one CSV
    tables["interactions"], tables["items"]

A row has `user_id`, the target `item_id`, and in `history_item_id` the newest items before it, as Python writes a list.
The rows of a user are laid together again: what a row says came before must be what the rows above it hold. `part` of
an interaction is 0 for training, 1 for validation and 2 for test, which `split: given` keeps. Where there are
`timestamp` and `rating`, and their histories, they are read; times of twelve digits and more are milliseconds.

Titles stand in the rows; `item_path` may name the `.item.json` with more text of the items.

X. Lin et al.: Bringing Reasoning to Generative Recommendation Through the Lens of Cascaded Ranking (WWW 2026).
"""

import ast
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets

from hf_genrec.catalogue.json_files import read_json
from hf_genrec.cells import as_id, as_text, shown
from hf_genrec.data.times import parse_time
from hf_genrec.dataset_scripts.places import existing_file, split_paths
from hf_genrec.dataset_scripts.rows import (
    CONFIG_NAMES,
    INTERACTION_FEATURES,
    ITEM_COLUMNS,
    SourceConfig,
    item_features,
    load_both,
)
from hf_genrec.dataset_scripts.table_file import TableFile, Wanted
from hf_genrec.dataset_scripts.tabular import open_table
from hf_genrec.dataset_scripts.two_files import joined_text, read_rating

logger = logging.getLogger(__name__)

FEATURES = datasets.Features({**INTERACTION_FEATURES, "part": datasets.Value("int64")})
MILLISECONDS = 100_000_000_000  # seconds of the year 5138


@dataclass
class CareCsvConfig(SourceConfig):
    """The three files of rows, and optionally one of the items' text."""

    train_path: str = ""
    valid_path: str = ""
    test_path: str = ""
    items_path: str | None = None


@dataclass
class _User:
    """A user's items from the first on, with what is known of each."""

    items: list[str] = field(default_factory=list)
    times: list[int | None] = field(default_factory=list)
    ratings: list[float | None] = field(default_factory=list)
    parts: list[int] = field(default_factory=list)

    def add(self, item: str, time: int | None, rating: float | None, part: int) -> None:
        self.items.append(item)
        self.times.append(time)
        self.ratings.append(rating)
        self.parts.append(part)


class CareCsv(datasets.GeneratorBasedBuilder):
    """Configs: `interactions`, with `part`, and `items`."""

    BUILDER_CONFIG_CLASS = CareCsvConfig
    BUILDER_CONFIGS = [CareCsvConfig(name=name) for name in CONFIG_NAMES]  # noqa: RUF012
    config: CareCsvConfig

    def _info(self) -> datasets.DatasetInfo:
        if self.config.name == "interactions":
            return datasets.DatasetInfo(features=FEATURES)
        asin = ["asin"] if "item_asin" in open_table(self.config.train_path) else []
        return datasets.DatasetInfo(features=item_features([*asin, *self._further()]))

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        return [datasets.SplitGenerator("train", gen_kwargs={})]

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        yield from enumerate(self._interactions() if self.config.name == "interactions" else self._items())

    def _tables(self) -> list[TableFile]:
        return [open_table(path) for path in (self.config.train_path, self.config.valid_path, self.config.test_path)]

    def _interactions(self) -> Iterator[dict[str, Any]]:
        row = 0
        for user, found in self._users().items():
            for item, time, rating, part in zip(found.items, found.times, found.ratings, found.parts, strict=True):
                yield {
                    "user_id": user, "item_id": item, "timestamp": time, "row": row, "rating": rating, "part": part
                }  # fmt: skip
                row += 1

    def _users(self) -> dict[str, _User]:
        """The users in the order of their first rows."""
        tables = self._tables()
        timed = all("timestamp" in table and "history_timestamp" in table for table in tables)
        rated = all("rating" in table and "history_rating" in table for table in tables)
        longest = max(length for table in tables for length in _history_lengths(table))
        users: dict[str, _User] = {}
        started_late = 0
        for part, table in enumerate(tables):
            names = [_user_column(table), "item_id", "history_item_id"]
            names += ["timestamp", "history_timestamp"] if timed else []
            names += ["rating", "history_rating"] if rated else []

            def convert(cells: Sequence[Any], names: list[str] = names, part: int = part) -> bool:
                return _add_row(users, dict(zip(names, cells, strict=True)), names[0], part, longest)

            started_late += sum(table.read([_wanted(name) for name in names], convert))
        if started_late:
            logger.warning(
                "%d of %d users have several items before the target of their first row: read as training items, which "
                "the rows do not have as targets",
                started_late,
                len(users),
            )
        return users

    def _items(self) -> Iterator[dict[str, Any]]:
        empty, found = dict.fromkeys(self.info.features), _texts_of_rows(self._tables())
        if self.config.items_path is not None:
            further = _read_items(self.config.items_path)
            for item_id, text in found.items():
                found[item_id] = text | {name: value for name, value in further.get(item_id, {}).items() if value}
        numbered = all(item_id.isascii() and item_id.isdigit() for item_id in found)
        for item_id in sorted(found, key=int) if numbered else found:
            yield {**empty, **found[item_id], "item_id": item_id}

    def _further(self) -> list[str]:
        if self.config.items_path is None:
            return []
        names = (name for text in _read_items(self.config.items_path).values() for name in text)
        return [name for name in dict.fromkeys(names) if name not in (*ITEM_COLUMNS, "asin")]


def load(
    path: str, item_path: str | None = None, cache_dir: str | None = None, streaming: bool = False
) -> dict[str, datasets.Dataset]:
    """{"interactions": ..., "items": ...} from one of the three files of rows, or the folder of them all.

    Raises:
        FileNotFoundError: no such file.
        ValueError: bad rows, or such as contradict those before; the message names file and line of the first and how
            many there are. Also a folder of several data sets, or a file of items that is pickled.
    """
    train, valid, test = map(str, split_paths(path))
    items = None if item_path is None else str(existing_file(item_path, "item_path"))
    return load_both(
        CareCsv, cache_dir, streaming, train_path=train, valid_path=valid, test_path=test, items_path=items
    )


# ---- rows ----


def _wanted(column: str) -> Wanted:
    return Wanted(column, "source care_csv", "text")


def _user_column(table: TableFile) -> str:
    return "user" if "user" in table and "user_id" not in table else "user_id"


def _history_lengths(table: TableFile) -> Iterator[int]:
    return table.read([_wanted("history_item_id")], lambda cells: len(_entries(cells[0], "history_item_id")))


def _add_row(users: dict[str, _User], cells: dict[str, Any], user_column: str, part: int, longest: int) -> bool:
    """
    Lay a row's target behind what is known of its user.

    Args:
        longest: the most items that a history of these files has: longer ones were cut to it.

    Returns:
        whether it is the user's first row and has more than one item before its target.

    Raises:
        ValueError: the row says something else of what came before than the rows above it.
    """
    user, item = as_id(cells[user_column], user_column), as_id(cells["item_id"], "item_id")
    history = _ids(cells["history_item_id"])
    time = _time(cells["timestamp"]) if "timestamp" in cells else None
    rating = read_rating(cells["rating"] or None) if "rating" in cells else None
    found = users.get(user)
    if found is not None:
        before = found.items[-longest:] if longest else []
        if history != before:
            raise ValueError(
                f"history_item_id of user {shown(user)} is {shown(history)}, the rows above say {shown(before)}: rows "
                "of a user stand from the oldest to the newest, none left out"
            )
        _require_later(user, [found.times[-1], time])
        found.add(item, time, rating, part)
        return False
    count = len(history)
    times = [_time(entry) for entry in _of_length(cells, "history_timestamp", count)]
    ratings = [read_rating(entry) for entry in _of_length(cells, "history_rating", count)]
    _require_later(user, [*times, time])
    found = users[user] = _User()
    for entry in zip(history, times, ratings, strict=True):
        found.add(*entry, part=0)
    found.add(item, time, rating, part)
    return count > 1


def _require_later(user: str, times: list[int | None]) -> None:
    known = [time for time in times if time is not None]
    if known != sorted(known):
        raise ValueError(f"the time of user {shown(user)} goes back: rows and histories stand from the oldest on")


def _of_length(cells: dict[str, Any], column: str, count: int) -> list[Any]:
    if column not in cells:
        return [None] * count
    found = _entries(cells[column], column)
    if len(found) != count:
        raise ValueError(f"{column} has {len(found)} entries where history_item_id has {count}")
    return found


def _ids(cell: str) -> list[str]:
    return [as_id(entry, "history_item_id") for entry in _entries(cell, "history_item_id")]


def _time(value: Any) -> int | None:
    if value is None or value == "":
        return None
    text = str(value)
    number = text.lstrip("-").partition(".")[0]
    return parse_time(text, "ms" if number.isdigit() and int(number[:20]) >= MILLISECONDS else "s")


def _entries(cell: str, column: str) -> list[Any]:
    """
    A list as Python or JSON writes it. Nothing in it is run.

    Raises:
        ValueError: it is none.
    """
    found: Any = None
    try:
        found = json.loads(cell)
    except (ValueError, RecursionError):
        try:
            found = ast.literal_eval(cell.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            found = None
    if not isinstance(found, list):
        raise ValueError(f"{column} is {shown(cell)}: a list such as [3, 12] is expected")
    return found


# ---- items ----


def _texts_of_rows(tables: list[TableFile]) -> dict[str, dict[str, Any]]:
    """What the rows say of each item, by its id: the first title, and the ASIN."""
    found: dict[str, dict[str, Any]] = {}

    for table in tables:
        names = ["item_id", "history_item_id"]
        columns = {"title": ("item_title", "history_item_title"), "asin": ("item_asin", "item_asins")}
        columns = {name: pair for name, pair in columns.items() if pair[0] in table and pair[1] in table}
        names += [name for pair in columns.values() for name in pair]

        def convert(
            cells: Sequence[Any], names: list[str] = names, columns: dict[str, tuple[str, str]] = columns
        ) -> None:
            row = dict(zip(names, cells, strict=True))
            ids = [*_ids(row["history_item_id"]), as_id(row["item_id"], "item_id")]
            if all(item_id in found for item_id in ids):
                return
            texts = {
                name: [*_of_length(row, history, len(ids) - 1), row[target]]
                for name, (target, history) in columns.items()
            }
            for place, item_id in enumerate(ids):
                text = {name: joined_text(as_text(column[place], name), " ") for name, column in texts.items()}
                found.setdefault(item_id, text)

        for _ in table.read([_wanted(name) for name in names], convert):
            pass
    return found


def _read_items(path: str) -> dict[str, dict[str, Any]]:
    """
    The items' text by id: an object of objects, or of titles.

    Raises:
        ValueError: it is none; a pickled file is not opened.
    """
    if Path(path).suffix == ".npy":
        raise ValueError(f"{path} is a pickled NumPy file, which can run code and is not read: {conversion(path)}")
    remedy = 'give an object {"0": {"title": ...}, ...} as item_path, or leave it out'
    columns = {"title": " ", "description": " ", "categories": ", "}
    items = {}
    for item_id, text in read_json(path, dict, remedy).items():
        if isinstance(text, str):
            text = {"title": text}
        if not isinstance(text, dict):
            raise ValueError(
                f"{path}, item {shown(item_id)}: {shown(text)} is no text and no object of texts: {remedy}"
            )
        items[item_id] = {
            name: joined_text(value, columns.get(name, ", ")) for name, value in text.items() if name != "item_id"
        }
    return items


def conversion(path: str) -> str:
    """The command that makes text of a published `_map.npy`, for whoever trusts it."""
    target = Path(path).with_suffix(".json")
    return (
        f"where you trust it, python -c \"import json, numpy; json.dump(next(iter(numpy.load('{path}', "
        f"allow_pickle=True).item().values())), open('{target}', 'w'))\" writes {target.name}: give that as item_path"
    )
