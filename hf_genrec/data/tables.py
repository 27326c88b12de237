"""Tables of other libraries as Arrow: pandas, polars, pyarrow, `datasets.Dataset`."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hf_genrec.cells import plain_type, shown_names
from hf_genrec.files import whole_file


def is_path(table: Any) -> bool:
    """Whether a table is given as the file that holds it."""
    return isinstance(table, str | os.PathLike)


def as_arrow(table: Any, name: str) -> pa.Table:
    """
    A table as Arrow, its rows in their order; the index of a pandas DataFrame is left out.

    Args:
        table: a DataFrame of pandas or polars (a LazyFrame, too), a pyarrow Table, a `datasets.Dataset`, a mapping of
            columns, or what else gives Arrow streams (`__arrow_c_stream__`).
        name: what the table is, for messages.

    Raises:
        ValueError: for anything else, a column name that is there twice, or a column of several types.
    """
    if isinstance(table, Mapping) and hasattr(table, "column_names"):
        raise ValueError(f"{name}: a {type(table).__name__} of splits {shown_names(table)}: give one of them")
    try:
        found = _read(table, name)
    except (pa.ArrowException, TypeError, OverflowError) as error:
        reason = " ".join(" ".join(map(str, error.args)).split())[:200]
        raise ValueError(
            f"{name}: a column cannot be read ({reason}): give each column one type, ids as text or whole numbers"
        ) from error
    _require_different(found.column_names, name)
    for place, field in enumerate(found.schema):
        if pa.types.is_string_view(plain_type(field.type)):  # of polars; in dictionaries hardly anything reads them
            texts = pa.chunked_array([_as_text(chunk) for chunk in found[place].chunks], pa.large_string())
            found = found.set_column(place, field.name, texts)
    return found.replace_schema_metadata(None)


def _read(table: Any, name: str) -> pa.Table:
    if hasattr(table, "with_format") and hasattr(table, "features"):
        if not hasattr(table, "__len__"):
            raise ValueError(f"{name}: a streamed {type(table).__name__}: load it with streaming=False")
        return table.with_format("arrow")[:]
    if hasattr(table, "iloc") and hasattr(table, "columns"):
        _require_different(list(map(str, table.columns)), name)
        return pa.Table.from_pandas(table, preserve_index=False)
    table = table.collect() if hasattr(table, "sink_parquet") else table  # a LazyFrame
    is_table = any(hasattr(table, names) for names in ("columns", "column_names", "schema"))
    if isinstance(table, Mapping) or (is_table and hasattr(table, "__arrow_c_stream__")):
        return pa.table(table)
    raise ValueError(
        f"{name}: a {type(table).__name__} is no table: give a DataFrame of pandas or polars, a pyarrow Table, a "
        f"datasets.Dataset, or the path of a file"
    )


def _as_text(column: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(column.type):
        return column.dictionary.cast(pa.large_string()).take(column.indices)
    return column.cast(pa.large_string())


def _require_different(columns: list[str], name: str) -> None:
    if len(set(columns)) < len(columns):
        raise ValueError(f"{name}: column {max(columns, key=columns.count)!r} is there twice: rename one")


def write_parquet(table: pa.Table, path: Path) -> None:
    """Write a table as one whole Parquet file; the same table gives the same file."""
    with whole_file(path) as temporary:
        pq.write_table(table, temporary)


def holds_numbers(schema: pa.Schema, column: str) -> bool:
    """Whether a column holds numbers, so that ids of it are whole ones."""
    if column not in schema.names:
        return False
    kind = schema.field(column).type
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)
