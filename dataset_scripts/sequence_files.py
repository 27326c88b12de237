"""Sequences as S3-Rec publishes them, with the items' text as JSON Lines.

    tables = load("data/amazon2014_beauty")
    tables["interactions"], tables["items"]

`sequences.txt`: one user a line, `user item item ...`, oldest first; timestamps are null and `row` keeps the order.
`items.jsonl`: one object a line with `item_id`. `title`, or else `keywords`, becomes the title; `description`, or else
`terms`, the description; every other key is kept as a string column (lists as JSON). Both files may be compressed, with
`.gz` behind their names.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import datasets

from hf_genrec.dataset_scripts.json_lines import parse_object
from hf_genrec.dataset_scripts.places import sequence_paths
from hf_genrec.dataset_scripts.rows import (
    CONFIG_NAMES,
    INTERACTION_FEATURES,
    SourceConfig,
    checked,
    item_features,
    load_both,
)
from hf_genrec.dataset_scripts.table_file import text_lines

# column of `items` -> keys that can fill it (the first one the file has) and what joins a list
_TEXT_KEYS = {"title": ("title", "keywords"), "description": ("description", "terms"), "categories": ("categories",)}


@dataclass
class SequenceFilesConfig(SourceConfig):
    """The two files."""

    sequences_path: str = ""
    items_path: str = ""


class SequenceFiles(datasets.GeneratorBasedBuilder):
    """Configs: `interactions` and `items`."""

    BUILDER_CONFIG_CLASS = SequenceFilesConfig
    BUILDER_CONFIGS = [SequenceFilesConfig(name=name) for name in CONFIG_NAMES]  # noqa: RUF012
    config: SequenceFilesConfig

    def _info(self) -> datasets.DatasetInfo:
        if self.config.name == "interactions":
            return datasets.DatasetInfo(features=INTERACTION_FEATURES)
        keys = _keys(self.config.items_path)
        further = [key for key in keys if key != "item_id" and key not in _text_keys(keys).values()]
        return datasets.DatasetInfo(features=item_features(further))

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        return [datasets.SplitGenerator("train", gen_kwargs={})]

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        yield from enumerate(self._interactions() if self.config.name == "interactions" else self._items())

    def _interactions(self) -> Iterator[dict[str, Any]]:
        path, users, row = self.config.sequences_path, set[str](), 0

        def convert(line: str) -> tuple[str, list[str]]:
            user, *items = line.split()
            if not items:
                raise ValueError(f"user {user!r} has no items")
            if user in users:
                raise ValueError(f"user {user!r} is there twice")
            users.add(user)
            return user, items

        for user, items in checked(path, text_lines(path), convert):
            for item in items:
                yield {"user_id": user, "item_id": item, "timestamp": None, "row": row, "rating": None}
                row += 1

    def _items(self) -> Iterator[dict[str, Any]]:
        text_keys = _text_keys(_keys(self.config.items_path))
        columns = {key: column for column, key in text_keys.items()}
        empty = dict.fromkeys(self.info.features)
        for record in checked(self.config.items_path, text_lines(self.config.items_path), _parse):
            text = {columns.get(key, key): _text(value, columns.get(key)) for key, value in record.items()}
            yield {**empty, **text, "item_id": str(record["item_id"])}


def load(
    path: str, item_path: str | None = None, cache_dir: str | None = None, streaming: bool = False
) -> dict[str, datasets.Dataset]:
    """{"interactions": ..., "items": ...} from a folder, or from a sequences file and an items file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: bad lines; the message names file and line of the first and how many there are.
    """
    sequences, items = sequence_paths(path, item_path)
    return load_both(SequenceFiles, cache_dir, streaming, sequences_path=str(sequences), items_path=str(items))


def _parse(line: str) -> dict[str, Any]:
    record = parse_object(line)
    identifier = record.get("item_id")
    if isinstance(identifier, bool) or not isinstance(identifier, (str, int)) or not str(identifier).strip():
        raise ValueError(f"item_id is {json.dumps(identifier)}: a text or a whole number is expected")
    return record


def _keys(path: str) -> list[str]:
    """Every key of the file in the order of first appearance."""
    return list(dict.fromkeys(key for record in checked(path, text_lines(path), _parse) for key in record))


def _text_keys(keys: list[str]) -> dict[str, str]:
    """title, description and categories -> the key that fills each, where the file has one."""
    found = {column: [key for key in candidates if key in keys] for column, candidates in _TEXT_KEYS.items()}
    return {column: candidates[0] for column, candidates in found.items() if candidates}


def _text(value: Any, column: str | None) -> str | None:
    if value is None or value == "":
        return None
    if isinstance(value, list) and column is not None:
        return (", " if column == "categories" else " ").join(
            str(entry) for entry in value if entry is not None
        ) or None
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
