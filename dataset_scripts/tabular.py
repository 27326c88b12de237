"""The user's own tables: CSV, TSV, Parquet or RecBole atomic files, with a column mapping.

    tables = load("log.csv", "films.csv", user_column="user", item_column="film", time_column="when", time_unit="iso")
    tables["interactions"], tables["items"]

Ids stay the strings they are ("007"). Every bad row is an error that names file and line and says how many there are.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import datasets

from hf_genrec.data.times import TimeUnit, datetime_to_ms, parse_time
from hf_genrec.dataset_scripts.delimited import TableFile
from hf_genrec.dataset_scripts.places import existing_file
from hf_genrec.dataset_scripts.rows import (
    CONFIG_NAMES,
    INTERACTION_FEATURES,
    ITEM_COLUMNS,
    SourceConfig,
    checked,
    item_features,
    load_both,
)


@dataclass
class TabularConfig(SourceConfig):
    """The two files and the names of their columns.

    Attributes:
        interactions_path: the log.
        items_path: the items; None takes the distinct items of the log, each with the text of its first row.
        user_column, item_column, time_column, rating_column: columns of the log; no time column gives null
            timestamps, no rating column null ratings. The items file has the same `item_column`.
        time_unit: "s" or "ms" since 1970, or "iso" for ISO 8601 text; Parquet timestamps need none.
        title_column, description_column, categories_column: columns of the item text; None takes the column of that
            very name, where there is one.
    """

    interactions_path: str = ""
    items_path: str | None = None
    user_column: str = "user_id"
    item_column: str = "item_id"
    time_column: str | None = None  # datasets ignores a None given to a builder, so None has to be the default
    rating_column: str | None = None
    time_unit: TimeUnit = "s"
    title_column: str | None = None
    description_column: str | None = None
    categories_column: str | None = None


class Tabular(datasets.GeneratorBasedBuilder):
    """Configs: `interactions` and `items`."""

    BUILDER_CONFIG_CLASS = TabularConfig
    BUILDER_CONFIGS = [TabularConfig(name=name) for name in CONFIG_NAMES]  # noqa: RUF012
    config: TabularConfig

    def _info(self) -> datasets.DatasetInfo:
        if self.config.name == "interactions":
            return datasets.DatasetInfo(features=INTERACTION_FEATURES)
        return datasets.DatasetInfo(features=item_features(self._further_columns(self._items_file())))

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        return [datasets.SplitGenerator("train", gen_kwargs={})]

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        examples = self._interactions() if self.config.name == "interactions" else self._items()
        yield from enumerate(examples)

    def _interactions(self) -> Iterator[dict[str, Any]]:
        table, config = TableFile(self.config.interactions_path), self.config
        user = table.position(config.user_column, "user_column")
        item = table.position(config.item_column, "item_column")
        time = rating = None
        if config.time_column is not None:
            time = table.position(config.time_column, "time_column, null if there are no times")
        if config.rating_column is not None:
            rating = table.position(config.rating_column, "rating_column")

        def convert(cells: list[Any]) -> dict[str, Any]:
            _check_width(cells, table.columns)
            return {
                "user_id": _identifier(cells[user], config.user_column),
                "item_id": _identifier(cells[item], config.item_column),
                "timestamp": None if time is None else _timestamp(cells[time], config.time_unit),
                "rating": None if rating is None else _rating(cells[rating]),
            }

        for row, example in enumerate(checked(table.path, table.rows(), convert, table.place)):
            yield {**example, "row": row}

    def _items(self) -> Iterator[dict[str, Any]]:
        table = self._items_file()
        identifier = table.position(self.config.item_column, "item_column")
        positions = {name: table.columns.index(column) for name, column in self._text_columns(table).items()}
        positions |= {name: table.columns.index(name) for name in self._further_columns(table)}
        empty = dict.fromkeys(ITEM_COLUMNS)

        def convert(cells: list[Any]) -> dict[str, Any]:
            _check_width(cells, table.columns)
            text = {name: _text(cells[position]) for name, position in positions.items()}
            return {**empty, "item_id": _identifier(cells[identifier], self.config.item_column), **text}

        items = checked(table.path, table.rows(), convert, table.place)
        return items if self.config.items_path else _distinct(items)

    def _items_file(self) -> TableFile:
        return TableFile(self.config.items_path or self.config.interactions_path)

    def _text_columns(self, table: TableFile) -> dict[str, str]:
        """title, description and categories -> the columns of the file that hold them."""
        columns = {}
        for name in ITEM_COLUMNS[1:]:
            chosen = getattr(self.config, f"{name}_column")
            if chosen is not None:
                table.position(chosen, f"{name}_column")
                columns[name] = chosen
            elif name in table.columns:
                columns[name] = name
        return columns

    def _further_columns(self, table: TableFile) -> list[str]:
        """Columns of the items file that are kept under their own names; a log without items file has none."""
        if self.config.items_path is None:
            return []
        mapped = {self.config.item_column, *self._text_columns(table).values()}
        further = [name for name in table.columns if name not in mapped]
        if taken := set(further) & set(ITEM_COLUMNS):
            raise ValueError(f"{table.path}, line 1: column {min(taken)!r} is also the name another one is mapped to")
        return further


def load(
    path: str,
    item_path: str | None = None,
    *,
    user_column: str = "user_id",
    item_column: str = "item_id",
    time_column: str | None = "timestamp",
    rating_column: str | None = None,
    time_unit: TimeUnit = "s",
    title_column: str | None = None,
    description_column: str | None = None,
    categories_column: str | None = None,
    cache_dir: str | None = None,
    streaming: bool = False,
) -> dict[str, datasets.Dataset]:
    """{"interactions": ..., "items": ...} from the log at `path` and the items at `item_path` (see `TabularConfig`).

    Raises:
        FileNotFoundError: no such file.
        ValueError: a missing or duplicate column, or bad rows; the message names file and line.
    """
    return load_both(
        Tabular,
        cache_dir,
        streaming,
        interactions_path=str(existing_file(path, "source_path")),
        items_path=None if item_path is None else str(existing_file(item_path, "item_path")),
        user_column=user_column,
        item_column=item_column,
        time_column=time_column,
        rating_column=rating_column,
        time_unit=time_unit,
        title_column=title_column,
        description_column=description_column,
        categories_column=categories_column,
    )


def _distinct(items: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    seen = set()
    for item in items:
        if item["item_id"] not in seen:
            seen.add(item["item_id"])
            yield item


def _check_width(cells: list[Any], columns: list[str]) -> None:
    if len(cells) != len(columns):
        raise ValueError(f"{len(cells)} fields where the header has {len(columns)}")


def _identifier(cell: Any, column: str) -> str:
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        raise ValueError(f"no id in column {column!r}")
    if isinstance(cell, float):
        raise ValueError(f"the id {cell} in column {column!r} is a decimal number: store ids as text or integers")
    return str(cell)


def _timestamp(cell: Any, unit: TimeUnit) -> int | None:
    if cell is None or cell == "":
        return None
    if isinstance(cell, datetime):
        return datetime_to_ms(cell)
    if isinstance(cell, date):
        return datetime_to_ms(datetime(cell.year, cell.month, cell.day))
    try:
        return parse_time(cell, unit)
    except ValueError as error:
        raise ValueError(f"bad timestamp: {error}") from None


def _rating(cell: Any) -> float | None:
    if cell is None or cell == "":
        return None
    try:
        rating = float(cell)
    except ValueError:
        rating = math.nan
    if not math.isfinite(rating):
        raise ValueError(f"bad rating: {cell!r} is not a number")
    return rating


def _text(cell: Any) -> str | None:
    if isinstance(cell, list):
        return ", ".join(map(str, cell)) or None
    return None if cell is None or cell == "" else str(cell)
