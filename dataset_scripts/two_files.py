"""What sources of two files share: a log, and optionally its items, each a line or row at a time."""

import ast
import html
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import datasets

from hf_genrec.data.times import parse_time
from hf_genrec.dataset_scripts.json_lines import parse_object
from hf_genrec.dataset_scripts.places import existing_file
from hf_genrec.dataset_scripts.rows import (
    CONFIG_NAMES,
    INTERACTION_FEATURES,
    ITEM_COLUMNS,
    SourceConfig,
    item_features,
    load_both,
)


@dataclass
class TwoFilesConfig(SourceConfig):
    """The two files; without one of items those of the log, which then have no text."""

    log_path: str = ""
    items_path: str | None = None


class TwoFiles(datasets.GeneratorBasedBuilder):
    """
    Configs: `interactions` and `items`. An item that stands twice in its file counts once, the first time.

    A subclass reads the rows: [`interactions`] without `row`, and [`items`].

    Attributes:
        FURTHER: the columns that its items have beside those of every source.
    """

    BUILDER_CONFIG_CLASS = TwoFilesConfig
    BUILDER_CONFIGS = [TwoFilesConfig(name=name) for name in CONFIG_NAMES]  # noqa: RUF012
    FURTHER: ClassVar[tuple[str, ...]] = ()
    config: TwoFilesConfig

    def interactions(self, path: str) -> Iterator[dict[str, Any]]:
        raise NotImplementedError

    def items(self, path: str) -> Iterator[dict[str, Any]]:
        raise NotImplementedError

    def _info(self) -> datasets.DatasetInfo:
        if self.config.name == "interactions":
            return datasets.DatasetInfo(features=INTERACTION_FEATURES)
        return datasets.DatasetInfo(features=item_features(self.FURTHER if self.config.items_path else ()))

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        return [datasets.SplitGenerator("train", gen_kwargs={})]

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        log, items = self.config.log_path, self.config.items_path
        if self.config.name == "interactions":
            yield from ((row, {**example, "row": row}) for row, example in enumerate(self.interactions(log)))
            return
        empty = dict.fromkeys(ITEM_COLUMNS)
        of_log = ({**empty, "item_id": example["item_id"]} for example in self.interactions(log))
        yield from enumerate(_once(of_log if items is None else self.items(items)))


def load_two_files(
    builder: type[TwoFiles], path: str, item_path: str | None, cache_dir: str | None, streaming: bool
) -> dict[str, datasets.Dataset]:
    """{"interactions": ..., "items": ...} of a builder.

    Raises:
        FileNotFoundError: no such file.
        ValueError: bad lines; the message names file and line of the first and how many there are.
    """
    log = str(existing_file(path, "source_path"))
    items = None if item_path is None else str(existing_file(item_path, "item_path"))
    return load_both(builder, cache_dir, streaming, log_path=log, items_path=items)


def _once(items: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    seen = set()
    for item in items:
        if item["item_id"] not in seen:
            seen.add(item["item_id"])
            yield item


# ---- what stands in a line ----


def parse_mapping(line: str) -> dict[str, Any]:
    """
    The mapping of a line, as JSON or as Python writes it. Nothing in it is run.

    Raises:
        ValueError: it is none.
    """
    if not line.startswith(("{'", "{u'")):
        return parse_object(line)
    try:
        found = ast.literal_eval(line)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        raise ValueError("neither JSON nor a mapping as Python writes it") from None
    if not isinstance(found, dict):
        raise ValueError("not a mapping: write one a line")
    return found


def require_id(value: Any, what: str) -> str:
    """
    Raises:
        ValueError: if it is no text.
    """
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{what} is {value!r}: text is expected"[:200])
    return value


def dated_review(review: dict[str, Any], user_key: str, item_key: str) -> dict[str, Any]:
    """
    Who reviewed what and when, of a review with an ISO `date`; it has no rating yet.

    Raises:
        ValueError: without a date or an id, or for a date that is none.
    """
    if review.get("date") is None:
        raise ValueError("no date: is it the file of reviews?")
    return {
        "user_id": require_id(review.get(user_key), user_key),
        "item_id": require_id(review.get(item_key), item_key),
        "timestamp": parse_time(review["date"], "iso"),
        "rating": None,
    }


def read_rating(value: Any) -> float | None:
    """
    Stars, if there are any.

    Raises:
        ValueError: for what is none of 0 to 5.
    """
    if value is None:
        return None
    try:
        stars = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"bad rating: {value!r} is not a number"[:200]) from None
    if not 0 <= stars <= 5:
        raise ValueError(f"bad rating: {value!r} is not one of 0 to 5 stars")
    return stars


def joined_text(value: Any, joint: str) -> str | None:
    """The text of a cell, letters that HTML spells out read; of a list, or of lists in a list, each entry once."""
    return joint.join(dict.fromkeys(_entries(value))) or None


def _entries(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for entry in value:
            yield from _entries(entry)
    elif value is not None and not isinstance(value, dict):
        text = html.unescape(str(value)).strip()
        if text:
            yield text
