"""Item vectors that are there already, of text or images: a NumPy file with its ids beside it, a Parquet file, or a
folder of such, as `hf-genrec embed` writes it."""

import logging
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hf_genrec.cells import as_id, cells, check_column, is_list, is_number, plain_type, shown_names

from .arguments import TokenizerArguments
from .atomic_vectors import SUFFIX, read_atomic_vectors
from .published_vectors import published_row_ids

logger = logging.getLogger(__name__)

IDS_SUFFIX = ".ids.txt"


def load_embeddings(path: str | Path, item_ids: list[str], id_column: str = "item_id") -> np.ndarray:
    """
    The vectors of items, in the order of their ids; those of other items are left out.

    Args:
        path: a `.npy` file of one vector a row, with the ids in the file beside it that ends in `.ids.txt` in place of
            `.npy`, one a line; a `.item` file of RecBole's with a column of ids and one of type float_seq; or a
            `.parquet` file, or a folder of them, with a column of ids and either one column of lists of numbers, or
            columns of numbers.
        id_column: the column of ids of a Parquet or `.item` file.

    Returns:
        (N, D) float32

    Raises:
        FileNotFoundError: no such file.
        ValueError: an item without a vector, an id that is there twice, vectors of different lengths, NaN or infinity,
            or columns that are no numbers; names file and row.
    """
    if re.match(r"\w[\w+.-]+://?", str(path)):
        raise ValueError(f"embeddings_path: {path} is a URL, which is not read: download the file and name that")
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} is not a file: correct embeddings_path")
    if path.suffix.lower() == ".npy":
        ids, vectors = _read_npy(path)
    elif path.is_dir() or path.suffix.lower() == ".parquet":
        ids, vectors = _read_parquet(path, id_column)
    elif path.suffix.lower() == SUFFIX:
        ids, vectors = read_atomic_vectors(path, id_column)
    else:
        raise ValueError(f"{path}: embeddings_path reads .npy, .parquet and .item files, and folders of .parquet")
    row_of: dict[str, int] = {}
    for row, item_id in enumerate(ids):
        if row_of.setdefault(item_id, row) != row:
            raise ValueError(f"{path}: rows {row_of[item_id] + 1} and {row + 1} are of the same item {item_id!r}")
    missing = [item_id for item_id in item_ids if item_id not in row_of]
    if missing:
        known = f" (the file has ids such as {ids[0]!r})" if ids else ""
        raise ValueError(
            f"{path} has no vector of {len(missing)} of {len(item_ids)} items, for instance {missing[0]!r}{known}: "
            f"every item needs one"
        )
    rows = np.array([row_of[item_id] for item_id in item_ids], dtype=np.int64)
    found = np.asarray(vectors[rows], dtype=np.float32)
    bad = ~np.isfinite(found).all(axis=1)
    if bad.any():
        place = int(bad.argmax())
        raise ValueError(f"{path}, row {rows[place] + 1} (item {item_ids[place]!r}) holds NaN or infinity: correct it")
    zero = int((found == 0).all(axis=1).sum())
    if zero:
        logger.warning("%s: the vectors of %d items are zero, which says nothing: the mean stands in", path, zero)
    logger.info("%s: %d vectors of %d numbers, %d more unused", path, *found.shape, len(ids) - len(item_ids))
    return found


def ready_embeddings(items: pa.Table, arguments: TokenizerArguments) -> np.ndarray | None:
    """
    The vectors (N, D) of the items by `embeddings_path`, or None where it is not set.

    Raises:
        FileNotFoundError, ValueError: as `load_embeddings`; or vectors that are all equal.
    """
    path = arguments.embeddings_path
    if path is None:
        return None
    item_ids = [str(item_id) for item_id in items.column("item_id").to_pylist()]
    vectors = load_embeddings(path, item_ids, arguments.embeddings_id_column)
    if len(vectors) > 1 and (vectors == vectors[0]).all():
        how = "equal" if vectors[0].any() else "zero"
        raise ValueError(
            f"{path}: the vectors of all {len(vectors)} items are {how}, which tells none from another: name other "
            f"vectors as embeddings_path"
        )
    return vectors


def _read_npy(path: Path) -> tuple[list[str], np.ndarray]:
    ids_path = path.with_suffix(IDS_SUFFIX)
    try:
        with np.errstate(over="ignore"):
            vectors = np.load(path, mmap_mode="r", allow_pickle=False)  # mapped: whatever it says, nothing is allocated
        if not isinstance(vectors, np.memmap):
            raise ValueError("it is no array")
        if min(vectors.shape, default=0) < 0 or vectors.nbytes + vectors.offset > path.stat().st_size:
            raise ValueError(f"its header says shape {vectors.shape}, which it does not hold")
    except Exception as error:  # of many kinds, by what is wrong with its header
        reason = " ".join(str(error).split())[:200] or "it is empty"
        raise ValueError(f"{path} is not a NumPy file that can be read ({reason}): write it by numpy.save") from None
    if vectors.ndim != 2 or vectors.dtype.kind not in "fiu" or not vectors.shape[1]:
        raise ValueError(f"{path} holds {vectors.dtype} of shape {vectors.shape}: expected numbers, one row per item")
    if not ids_path.is_file():
        published = published_row_ids(path, len(vectors), ids_path)
        if published is None:
            raise FileNotFoundError(f"{ids_path} does not exist: it names the items of {path.name}, one id a line")
        return published, vectors
    try:
        text = ids_path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{ids_path} is not UTF-8 ({error.reason}): convert it") from None
    ids = text.removesuffix("\n").split("\n") if text else []  # other separators may stand within an id
    empty = next((line for line, item_id in enumerate(ids, start=1) if not item_id.strip()), None)
    if empty is not None:
        raise ValueError(f"{ids_path}, line {empty}: no id")
    if len(ids) != len(vectors):
        raise ValueError(f"{ids_path} has {len(ids)} ids for the {len(vectors)} rows of {path.name}: give one per row")
    return ids, vectors


def _read_parquet(path: Path, id_column: str) -> tuple[list[str], np.ndarray]:
    try:
        table = pq.read_table(path, partitioning=None)  # folders' names are no numbers of a vector
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path}: not a Parquet file that can be read ({reason})") from None
    if table.column_names.count(id_column) != 1:
        found = shown_names(table.column_names)
        raise ValueError(f"{path}: no column {id_column!r} (embeddings_id_column); columns found: {found}")
    check_column(path, table.schema.field(id_column), "id", "embeddings_id_column")
    ids = []
    for row, cell in enumerate(cells(table[id_column].combine_chunks()), start=1):
        try:
            ids.append(as_id(cell, id_column))
        except ValueError as error:
            raise ValueError(f"{path}, row {row}: {error}") from None
    others = [field for field in table.schema if field.name != id_column]
    lists = [field.name for field in others if is_list(field.type) and is_number(field.type.value_type)]
    numbers = [field.name for field in others if is_number(plain_type(field.type))]
    if len(lists) > 1:
        raise ValueError(f"{path}: {len(lists)} columns hold vectors ({shown_names(lists)}): keep one of them")
    if not lists and not numbers:
        found = shown_names(f"{field.name} ({field.type})" for field in others) or "none"
        raise ValueError(f"{path}: no column holds lists of numbers or numbers; columns beside the ids: {found}")
    unused = [field.name for field in others if field.name not in (lists or numbers)]
    if unused:
        logger.info("%s: columns that are no part of the vectors: %s", path, shown_names(unused))
    if lists:
        return ids, _from_lists(path, table[lists[0]], ids)
    columns = [table[name].cast(pa.float64(), safe=False).to_numpy() for name in numbers]  # null becomes NaN
    return ids, np.stack(columns, axis=1)


def _from_lists(path: Path, column: pa.ChunkedArray, ids: list[str]) -> np.ndarray:
    lengths = np.array(pc.list_value_length(column).fill_null(-1), dtype=np.int64)
    wrong = (lengths != lengths[0]) | (lengths < 1) if len(lengths) else np.zeros(0, dtype=bool)
    if wrong.any():
        row = int(wrong.argmax())
        place = f"{path}, row {row + 1} (item {ids[row]!r})"
        if lengths[row] < 1:
            raise ValueError(f"{place}: no vector, or an empty one: every row needs one")
        raise ValueError(f"{place}: a vector of {lengths[row]} numbers where row 1 has {lengths[0]}")
    parts = [chunk.flatten().cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False) for chunk in column.chunks]
    return np.concatenate([np.empty(0), *parts]).reshape(len(ids), -1) if ids else np.empty((0, 1))
