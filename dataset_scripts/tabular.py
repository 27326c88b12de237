"""The user's own tables: CSV, TSV, JSON Lines (all three also as .gz), Parquet or RecBole atomic files, with a column
mapping.

    tables = load("log.csv", "films.csv", user_column="user", item_column="film", time_column="when", time_unit="iso")
    tables["interactions"], tables["items"]

Ids stay the strings they are ("007"). Every bad row is an error that names file and line and says how many there are.
"""

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets

from hf_genrec.cells import NUMBER, as_id, as_text, decoded, shown
from hf_genrec.data.times import TimeUnit, parse_time
from hf_genrec.dataset_scripts import delimited, json_lines
from hf_genrec.dataset_scripts.file_kinds import require_kind
from hf_genrec.dataset_scripts.places import existing_file
from hf_genrec.dataset_scripts.rows import (
    CONFIG_NAMES,
    INTERACTION_FEATURES,
    ITEM_COLUMNS,
    SourceConfig,
    item_features,
    load_both,
)
from hf_genrec.dataset_scripts.table_file import TableFile, Wanted, is_compressed, kind_of
from hf_genrec.pictures import IMAGE, picture_file, picture_folder

logger = logging.getLogger(__name__)


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

        image_column, image_folder: the items' pictures, which become a column `image` of `datasets.Image`: paths from
            that folder on, by default the items file's, or bytes in Parquet.

    An atomic file is read without naming its columns `rating`, `movie_title`, `genre` and the like, see `USUAL_NAMES`.
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
    image_column: str | None = None
    image_folder: str | None = None


class Tabular(datasets.GeneratorBasedBuilder):
    """Configs: `interactions` and `items`."""

    BUILDER_CONFIG_CLASS = TabularConfig
    BUILDER_CONFIGS = [TabularConfig(name=name) for name in CONFIG_NAMES]  # noqa: RUF012
    config: TabularConfig

    def _info(self) -> datasets.DatasetInfo:
        if self.config.name == "interactions":
            return datasets.DatasetInfo(features=INTERACTION_FEATURES)
        features = item_features(self._further_columns(self._items_file()))
        if self.config.image_column is not None:
            features[IMAGE] = datasets.Image()
        return datasets.DatasetInfo(features=features)

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        return [datasets.SplitGenerator("train", gen_kwargs={})]

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        examples = self._interactions() if self.config.name == "interactions" else self._items()
        yield from enumerate(examples)

    def _interactions(self) -> Iterator[dict[str, Any]]:
        table, config = open_table(self.config.interactions_path), self.config
        wanted = [
            Wanted(config.user_column, "user_column", "id"),
            Wanted(config.item_column, "item_column", "id"),
        ]
        unit = config.time_unit
        if config.time_column is not None:
            wanted.append(Wanted(config.time_column, "time_column, null if there are no times", "time"))
            unit = table.time_unit(config.time_column, unit) if config.time_column in table else unit
        rating_column = config.rating_column or table.usual("rating")
        if rating_column is not None:
            wanted.append(Wanted(rating_column, "rating_column", "rating"))

        def convert(cells: Sequence[Any]) -> dict[str, Any]:
            user, item, *more = cells
            return {
                "user_id": as_id(user, config.user_column),
                "item_id": as_id(item, config.item_column),
                "timestamp": None if config.time_column is None else _timestamp(more[0], unit),
                "rating": None if rating_column is None else _rating(more[-1]),
            }

        for row, example in enumerate(table.read(wanted, convert)):
            yield {**example, "row": row}

    def _items(self) -> Iterator[dict[str, Any]]:
        table, identifier = self._items_file(), self.config.item_column
        texts = self._text_columns(table)
        further = self._further_columns(table)
        names = [*texts, *further]
        wanted = [
            Wanted(identifier, "item_column", "id"),
            *(Wanted(column, f"{name}_column", "text") for name, column in texts.items()),
            *(Wanted(name, "item_path", "further") for name in further),
        ]
        columns, empty = [column.name for column in wanted[1:]], dict.fromkeys(ITEM_COLUMNS)
        image_column, folder = self.config.image_column, None
        if image_column is not None:
            wanted.append(Wanted(image_column, "image_column", "image"))
            folder = picture_folder(table.path, self.config.image_folder)
        of_tokens = "categories" in texts and table.holds_tokens(texts["categories"])

        def convert(cells: Sequence[Any]) -> dict[str, Any]:
            text = dict(zip(names, map(as_text, cells[1 : len(names) + 1], columns), strict=True))
            if of_tokens:
                text["categories"] = _of_tokens(text["categories"])
            item = {**empty, "item_id": as_id(cells[0], identifier), **text}
            return item if folder is None else item | {IMAGE: _picture(cells[-1], item["item_id"], folder)}

        items = table.read(wanted, convert)
        return items if self.config.items_path else _distinct(items)

    def _items_file(self) -> TableFile:
        return open_table(self.config.items_path or self.config.interactions_path)

    def _text_columns(self, table: TableFile) -> dict[str, str]:
        """title, description and categories -> the columns of the file that hold them."""
        columns = {}
        for name in ITEM_COLUMNS[1:]:
            chosen = getattr(self.config, f"{name}_column")
            if chosen is not None:
                table.require(chosen, f"{name}_column")
                columns[name] = chosen
            elif name in table:
                columns[name] = name
            elif (usual := table.usual(name)) is not None:
                columns[name] = usual
        return columns

    def _further_columns(self, table: TableFile) -> list[str]:
        """Columns of the items file that are kept under their own names; a log without items file has none."""
        if self.config.items_path is None:
            return []
        mapped = {self.config.item_column, self.config.image_column, *self._text_columns(table).values()}
        further = [name for name in table.columns if name not in mapped]
        names = ITEM_COLUMNS if self.config.image_column is None else (*ITEM_COLUMNS, IMAGE)
        if taken := set(further) & set(names):
            raise ValueError(f"{table.path}, line 1: column {min(taken)!r} is also the name another one is mapped to")
        kept = [name for name in further if table.fits(Wanted(name, "item_path", "further"))]
        if len(kept) < len(further):
            vectors = ", ".join(name for name in further if name not in kept)
            logger.warning("%s: column %s holds vectors, not text: left out of the items", table.path, vectors)
        return kept


def open_table(path: str | Path) -> TableFile:
    """
    The reader of a table, by its suffix.

    Raises:
        ValueError: unknown kind of file, or what the reader refuses.
    """
    kind, path = kind_of(path), Path(path)
    require_kind(path, kind)
    if kind in delimited.DIALECTS:
        return delimited.DelimitedFile(path)
    if kind in json_lines.SUFFIXES:
        return json_lines.JsonLinesFile(path)
    if kind == ".parquet" and not is_compressed(path):
        from hf_genrec.dataset_scripts.parquet_file import ParquetFile

        return ParquetFile(path)
    kinds = ", ".join([*delimited.DIALECTS, *json_lines.SUFFIXES])
    raise ValueError(f"{path}: unknown kind of file {path.suffix!r}, expected .parquet, or {kinds}, each also as .gz")


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
    image_column: str | None = None,
    image_folder: str | None = None,
    cache_dir: str | None = None,
    streaming: bool = False,
    names: Sequence[str] = CONFIG_NAMES,
) -> dict[str, datasets.Dataset]:
    """{"interactions": ..., "items": ...} from the log at `path` and the items at `item_path` (see `TabularConfig`), or
    those of `names`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a missing or duplicate column, or bad rows; the message names file and line.
    """
    return load_both(
        Tabular,
        cache_dir,
        streaming,
        names,
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
        image_column=image_column,
        image_folder=image_folder,
    )


def _picture(cell: Any, item_id: str, folder: Path) -> dict[str, Any] | None:
    """A picture as `datasets.Image` takes it: the bytes, or the path of a file."""
    content = cell.get("bytes") if isinstance(cell, dict) else cell
    if isinstance(content, bytes):
        return {"bytes": content, "path": None}
    path = cell.get("path") if isinstance(cell, dict) else cell
    if path is None or path == "":
        return None
    if not isinstance(path, str):
        raise ValueError(f"the picture of item {shown(item_id)} is {shown(path)}: a path is expected")
    try:
        return {"bytes": None, "path": str(picture_file(path, folder))}
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(f"item {shown(item_id)}: {error}") from None


def _of_tokens(cell: str | None) -> str | None:
    """Categories as one text with commas: tokens stand between spaces, unless the file has commas itself, and quotes
    around them, as Amazon's has."""
    tokens = cell.split(",") if cell is not None and "," in cell else (cell or "").split()
    return ", ".join(bare for token in tokens if (bare := token.strip(" '\""))) or None


def _distinct(items: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    seen = set()
    for item in items:
        if item["item_id"] not in seen:
            seen.add(item["item_id"])
            yield item


def _timestamp(cell: Any, unit: TimeUnit) -> int | None:
    cell = decoded(cell, "the timestamp")
    if cell is None or cell == "":
        return None
    try:
        return parse_time(cell, unit)
    except ValueError as error:
        raise ValueError(f"bad timestamp: {error}") from None


def _rating(cell: Any) -> float | None:
    cell = decoded(cell, "the rating")
    if cell is None or cell == "":
        return None
    try:
        text = isinstance(cell, str) and not NUMBER.fullmatch(cell.strip())
        rating = math.nan if text or isinstance(cell, bool) else float(cell)
    except (ValueError, TypeError, OverflowError):
        rating = math.nan
    if not math.isfinite(rating):
        raise ValueError(f"bad rating: {cell!r} is not a number")
    return rating
