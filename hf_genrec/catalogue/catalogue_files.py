"""The items of a catalogue: what may be attached to a processor, and the two files that hold it."""

import hashlib
import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from .saved_files import REMEDY, DamagedFile, load_tensors, naming, read_json, saved_file

CATALOGUE_FILE = "catalogue.json"
TENSORS_FILE = "catalogue.safetensors"


def checked_popularity(item_ids: Sequence[str], titles: Sequence[str | None] | None, popularity) -> np.ndarray:
    """
    Popularity of the items as an array (N,) int64, 0 where there is none.

    Raises:
        ValueError: for an empty catalogue, an id that stands twice or is no string, a title that is none, lengths that
        differ, or a negative popularity.
    """
    check_names(item_ids, titles)
    if popularity is None:
        return np.zeros(len(item_ids), dtype=np.int64)
    popularity = np.asarray(popularity, dtype=np.int64)
    if popularity.shape != (len(item_ids),):
        raise ValueError(f"popularity has shape {popularity.shape} for {len(item_ids)} items: give one per item.")
    if popularity.min() < 0:
        row = int(popularity.argmin())
        raise ValueError(f"Item {item_ids[row]!r}: popularity {popularity[row]} is negative: give 0 or more.")
    return popularity


def check_names(item_ids: Sequence[str], titles: Sequence[str | None] | None) -> None:
    """The ids and titles of [`checked_popularity`]; raises ValueError as it does."""
    if not len(item_ids):
        raise ValueError("The catalogue is empty: give at least one item.")
    if set(map(type, item_ids)) != {str}:
        for item_id in item_ids:
            if not isinstance(item_id, str):
                raise ValueError(f"Item id {item_id!r} is no string: item ids are strings.")
    if len(set(item_ids)) != len(item_ids):
        row_of = {item_id: row for row, item_id in enumerate(item_ids)}
        twice = next(item_id for row, item_id in enumerate(item_ids) if row_of[item_id] != row)
        raise ValueError(f"Item {twice!r} stands twice in the catalogue: item ids must differ.")
    if titles is None:
        return
    if len(titles) != len(item_ids):
        raise ValueError(f"{len(titles)} titles for {len(item_ids)} items: give one per item.")
    if not set(map(type, titles)) <= {str, type(None)}:
        for item_id, title in zip(item_ids, titles, strict=True):
            if not (title is None or isinstance(title, str)):
                raise ValueError(f"Item {item_id!r}: its title {title!r} is neither a string nor None.")


def save_items(folder: Any, item_ids: Sequence[str], titles: Sequence[str] | None, **arrays: np.ndarray) -> None:
    """Ids and titles as JSON; popularity and other arrays, a row per item, as safetensors."""
    with open(os.path.join(folder, CATALOGUE_FILE), "w", encoding="utf-8") as file:
        json.dump({"item_ids": item_ids, "titles": titles}, file, ensure_ascii=False)
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    save_file(tensors, os.path.join(folder, TENSORS_FILE), metadata={"item_ids": _fingerprint(item_ids)})


def load_items(
    folder: Any, place: dict[str, Any], num_levels: int | None = None, per_item: Sequence[str] = ()
) -> tuple[list[str], list[str] | None, dict[str, np.ndarray]]:
    """
    What [`save_items`] wrote, checked. Titles may have been edited since, ids not.

    Args:
        place: where in a repository the files are.
        num_levels: L, the columns of the array `codes`, where there is one.
        per_item: names of the arrays of a number per item, beside `popularity`.

    Returns:
        ids, titles, and the int64 arrays by name.

    Raises:
        OSError: if a file is missing.
        DamagedFile: if one is damaged, or the two are not of one save.
    """
    catalogue_path = str(saved_file(folder, CATALOGUE_FILE, **place))
    tensors_path = str(saved_file(folder, TENSORS_FILE, **place))
    catalogue = read_json(catalogue_path)
    with naming(catalogue_path):
        if not {"item_ids", "titles"} <= catalogue.keys():
            raise ValueError("it lacks item_ids or titles")
        item_ids, titles = catalogue["item_ids"], catalogue["titles"]
        if not isinstance(item_ids, list) or not isinstance(titles, list | None):
            raise ValueError("item_ids must be a list of strings, and titles one or null")
        check_names(item_ids, titles)
    tensors, metadata = load_tensors(tensors_path)
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(("popularity", *per_item), (len(item_ids),))
    if num_levels is not None:
        shapes["codes"] = (len(item_ids), num_levels)
    with naming(tensors_path):
        if tensors.keys() != shapes.keys():
            raise ValueError(f"it holds {', '.join(sorted(tensors))}, expected {', '.join(sorted(shapes))}")
        for name, shape in shapes.items():
            if tensors[name].dtype != torch.int64 or tuple(tensors[name].shape) != shape:
                found = f"{tensors[name].dtype} of shape {tuple(tensors[name].shape)}"
                raise ValueError(f"{name} is {found}, expected torch.int64 of shape {shape}")
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        if arrays["popularity"].min() < 0:
            raise ValueError("popularity is negative")
    # Folders of earlier versions hold no fingerprint.
    if "item_ids" in metadata and metadata["item_ids"] != _fingerprint(item_ids):
        raise DamagedFile(f"{catalogue_path} and {TENSORS_FILE} are not of one save (other item ids): {REMEDY}.")
    return item_ids, titles, arrays


def _fingerprint(item_ids: Sequence[str]) -> str:
    text = json.dumps(item_ids, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
