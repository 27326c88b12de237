"""What the builders share: the columns of both tables, the report of bad rows, and the call that loads both."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import datasets

from hf_genrec.cells import shortened
from hf_genrec.files import naming, source_fingerprint

INTERACTION_FEATURES = datasets.Features(
    {
        "user_id": datasets.Value("string"),
        "item_id": datasets.Value("string"),
        "timestamp": datasets.Value("int64"),  # milliseconds UTC, may be null
        "row": datasets.Value("int64"),  # order in the source
        "rating": datasets.Value("float64"),  # may be null
    }
)
# part of the cache's path: raise it when a builder emits other rows than before
VERSION = datasets.Version("1.2.0")
ITEM_COLUMNS = ("item_id", "title", "description", "categories")
CONFIG_NAMES = ("interactions", "items")

Row = TypeVar("Row")


def item_features(further: Iterable[str] = ()) -> datasets.Features:
    """The columns of `items`, all strings: the four of every source, then those that only this source has."""
    return datasets.Features({name: datasets.Value("string") for name in (*ITEM_COLUMNS, *further)})


@dataclass
class SourceConfig(datasets.BuilderConfig):
    """A config whose cached tables are made anew when one of its files, or the version, has changed."""

    version: datasets.Version | str | None = VERSION

    def create_config_id(self, config_kwargs: dict, custom_features: datasets.Features | None = None) -> str:
        contents = {
            f"{name}_fingerprint": source_fingerprint(Path(value))
            for name, value in config_kwargs.items()
            if name.endswith("path") and value is not None
        }
        return super().create_config_id({**config_kwargs, **contents}, custom_features)


def checked(
    path: str | os.PathLike[str], rows: Iterable[tuple[int, Row]], convert: Callable[[Row], Any], place: str = "line"
) -> Iterator[Any]:
    """Yields `convert(row)` for every (number, row) up to the first bad row; goes on only to count the others.

    Raises:
        ValueError: after the last row, if `convert` raised one; names file, place and fault of the first bad row and
            how many there are. Also for a file without rows.
    """
    first, count, number = "", 0, None
    for number, row in rows:
        try:
            example = convert(row)
        except ValueError as error:
            first = first or f"{place} {number}: {shortened(str(error), 300)}"
            count += 1
        else:
            if not count:
                yield example
    if count:
        rows_are = "1 bad row" if count == 1 else f"{count} bad rows"
        raise ValueError(f"{path}, {first} ({rows_are} in this file: correct or remove)")
    if number is None:
        raise ValueError(f"{path} holds no rows: give a file with at least one")


def load_both(
    builder: type[datasets.GeneratorBasedBuilder],
    cache_dir: str | None,
    streaming: bool,
    names: Sequence[str] = CONFIG_NAMES,
    **settings: Any,
) -> dict[str, datasets.Dataset]:
    """{"interactions": ..., "items": ...} of one builder, or those of `names`; iterable datasets when streaming."""
    tables = {}
    for name in names:
        source = builder(cache_dir=cache_dir, config_name=name, **settings)
        if streaming:
            tables[name] = source.as_streaming_dataset(split="train")
            continue
        with naming(Path(source.cache_dir), ", or name another folder for the cache by HF_DATASETS_CACHE"):
            try:
                source.download_and_prepare()
            except datasets.exceptions.DatasetGenerationError as error:
                # datasets wraps what the generator raised; its one line says more
                if isinstance(error.__cause__, (ValueError, OSError)):
                    raise error.__cause__ from None
                raise
        tables[name] = source.as_dataset(split="train")
    return tables
