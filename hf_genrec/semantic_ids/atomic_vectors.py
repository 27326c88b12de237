"""Vectors in a RecBole atomic file of items: a column `name:float_seq`, its numbers between spaces."""

from pathlib import Path

import numpy as np

from hf_genrec.cells import shown, shown_names

SUFFIX = ".item"


def read_atomic_vectors(path: Path, id_column: str) -> tuple[list[str], np.ndarray]:
    """
    The ids and vectors (N, D) of a file.

    Raises:
        ValueError: no such column of ids, not one column of vectors, a row of another width, a vector of another length
            or none, or text that is no number or not UTF-8; names file and line.
    """
    ids: list[str] = []
    vectors: list[np.ndarray] = []
    number = 1
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as file:
            id_place, place, width = _columns(path, file.readline(), id_column)
            for number, line in enumerate(file, start=2):
                if line.strip():
                    cells = line.rstrip("\r\n").split("\t")
                    if len(cells) != width:
                        raise ValueError(f"{path}, line {number}: {len(cells)} fields where the header has {width}")
                    if not cells[id_place].strip():
                        raise ValueError(f"{path}, line {number}: no id in column {id_column!r}")
                    row = f"{path}, line {number} (item {shown(cells[id_place])})"
                    ids.append(cells[id_place])
                    vectors.append(_vector(cells[place], row))
                    lengths = len(vectors[-1]), len(vectors[0])
                    if lengths[0] != lengths[1]:
                        raise ValueError(f"{row}: a vector of {lengths[0]} numbers where the first has {lengths[1]}")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}, after line {number}: not UTF-8 ({error.reason}): save the file as UTF-8") from None
    return ids, np.stack(vectors) if vectors else np.empty((0, 1))


def _columns(path: Path, header: str, id_column: str) -> tuple[int, int, int]:
    """The places of ids and vectors, and how many columns there are."""
    columns = [name.strip().partition(":") for name in header.rstrip("\r\n").split("\t")]
    names = [name for name, _, _ in columns]
    if names.count(id_column) != 1:
        found = shown_names(names)
        raise ValueError(f"{path}, line 1: no column {id_column!r} (embeddings_id_column); columns found: {found}")
    places = [place for place, (_, _, kind) in enumerate(columns) if kind == "float_seq"]
    if len(places) != 1:
        found = shown_names(names[place] for place in places) or "none"
        raise ValueError(
            f"{path}, line 1: one column of type float_seq is expected for embeddings_path, found: {found}"
        )
    return names.index(id_column), places[0], len(columns)


def _vector(cell: str, place: str) -> np.ndarray:
    if not cell.split():
        raise ValueError(f"{place}: no vector: every row needs one")
    try:
        return np.array(cell.split(), dtype=np.float64)
    except ValueError:
        raise ValueError(f"{place}: {shown(cell)} are no numbers between spaces") from None
