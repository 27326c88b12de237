"""Logs that an engine (DuckDB, Spark) reads whole: Parquet, CSV, TSV and RecBole files of plain cells.

The rows are those of `tabular`, which reads row by row and names what is wrong. What is read here must be beyond doubt:
where a cell, a type or the text of a file is not, `whole_log` gives `None`, and `tabular` takes the file.
"""

import codecs
import csv
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ibis
import pyarrow as pa
from ibis import _

from hf_genrec.cells import plain_type
from hf_genrec.data.arguments import DataArguments
from hf_genrec.data.times import LIMIT_MS
from hf_genrec.dataset_scripts.delimited import DIALECTS
from hf_genrec.dataset_scripts.parquet_file import ParquetFile
from hf_genrec.dataset_scripts.places import existing_file
from hf_genrec.dataset_scripts.rows import CONFIG_NAMES, ITEM_COLUMNS
from hf_genrec.dataset_scripts.table_file import TableFile, is_compressed, kind_of
from hf_genrec.dataset_scripts.tabular import Tabular, open_table

logger = logging.getLogger(__name__)

TEXTS = ITEM_COLUMNS[1:]
PATTERN = set("*?[]{}")  # in a path engines take them for a pattern of other files
# What Python calls white space, and control characters.
_BLANK = r"^[\s\x00-\x1f\x7f\x85\p{Z}]"
_DECIMAL = r"^[0-9]{1,14}\.[0-9]{1,6}$"
_RATING = r"^[+-]?[0-9]{1,12}(\.[0-9]{1,9})?$"
_ISO = r"^(19[7-9]|2[0-9][0-9])[0-9]-[0-9]{2}-[0-9]{2}([T ]([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]Z?)?$"


@dataclass(frozen=True)
class WholeLog:
    """
    A log in an engine.

    Attributes:
        interactions: user_id, item_id, timestamp (milliseconds UTC, nullable), rating (nullable), row.
        items: item_id, title, description, categories of the items of the log, in the order of their first rows;
            `None` where they have a file of their own.
    """

    interactions: ibis.Table
    items: pa.Table | None


def whole_log(arguments: DataArguments, engine: Any) -> WholeLog | None:
    """
    The log at `source_path`; `None` where it has to be read row by row.

    Raises:
        FileNotFoundError: no such file.
        ValueError: an unknown kind of file, no header, a missing or duplicate column.
    """
    if arguments.source != "tabular":
        return None
    path = existing_file(str(arguments.source_path), "source_path")
    if is_compressed(path) or kind_of(path) not in (".parquet", *DIALECTS) or PATTERN & set(str(path)):
        return None
    table = open_table(path)
    roles = {"user_id": arguments.user_column, "item_id": arguments.item_column}
    settings = {"user_id": "user_column", "item_id": "item_column"}
    if arguments.time_column is not None:
        roles["timestamp"], settings["timestamp"] = arguments.time_column, "time_column, null if there are no times"
    rating_column = arguments.rating_column or table.usual("rating")
    if rating_column is not None:
        roles["rating"], settings["rating"] = rating_column, "rating_column"
    if arguments.item_path is None:
        for name in TEXTS:
            column = getattr(arguments, f"{name}_column") or (name if name in table else table.usual(name))
            if column is not None and table.holds_tokens(column):
                return None
            if column is not None:
                roles[name], settings[name] = column, f"{name}_column"
    for name, column in roles.items():
        table.require(column, settings[name])
    delimiters = None
    if not isinstance(table, ParquetFile):
        dialect = DIALECTS[kind_of(path)]
        delimiters = _plain_delimiters(path, dialect["delimiter"], dialect.get("quoting") != csv.QUOTE_NONE)
        if delimiters is None:
            return None
    try:
        raw = _columns(table, roles, engine)
        if raw is None:
            return None
        unit = table.time_unit(arguments.time_column, arguments.time_unit) if arguments.time_column else "s"
        log = _checked(raw, unit)
        rows = engine.numbered(log)
        odd, count = rows.agg(odd=_.odd.sum(), rows=_.count()).to_pyarrow().to_pylist()[0].values()
    except engine.unreadable as error:
        logger.debug("%s is read row by row: %s", path, error)
        return None
    # An engine may overlook a cell too many, if it is empty.
    if odd or not count or delimiters not in (None, count * (len(table.columns) - 1)):
        return None
    items = None if arguments.item_path is not None else _items_of(rows)
    return WholeLog(rows.select("user_id", "item_id", "timestamp", "rating", "row"), items)


def require_rows(arguments: DataArguments) -> None:
    """
    For engines whose log cannot be read row by row instead: goes through the file, a row in memory at a time.

    Raises:
        ValueError: always. Names the first bad row, as `tabular` does; or says what is not plain.
    """
    table = open_table(existing_file(str(arguments.source_path), "source_path"))
    builder = Tabular(
        config_name=CONFIG_NAMES[0],
        interactions_path=str(table.path),
        user_column=arguments.user_column,
        item_column=arguments.item_column,
        time_column=arguments.time_column,
        rating_column=arguments.rating_column,
        time_unit=arguments.time_unit,
    )
    for _row in builder._generate_examples():
        pass
    raise ValueError(
        f"{table.path}: engine: {arguments.engine} reads Parquet with ids as text or integers, and CSV and TSV without "
        f"quotes, compression or spaces about the cells: convert the file to Parquet, or use engine: duckdb"
    )


# ---- the columns as the engine reads them ----


def _columns(table: TableFile, roles: dict[str, str], engine: Any) -> ibis.Table | None:
    """The wanted columns under the names of their roles, as text or of the file's types."""
    if isinstance(table, ParquetFile):
        fields = {name: table.field(column) for name, column in roles.items()}
        if not all(_is_plain(name, plain_type(field.type)) for name, field in fields.items()):
            return None
        names = [name.casefold() for name in table.stored_names]
        if len(set(names)) < len(names) or any(name.startswith("in_file_") for name in names):
            return None  # which engines do not tell apart, from each other or from the readers' own
        raw = engine.read_parquet(table.path)
        return raw.select(**{name: raw[field.name] for name, field in fields.items()}, **_row_of(raw))
    raw = engine.read_text(table.path, len(table.columns), DIALECTS[kind_of(table.path)]["delimiter"])
    return raw.select(
        **{name: raw[f"c{table.columns.index(column)}"] for name, column in roles.items()}, **_row_of(raw)
    )


def _row_of(raw: ibis.Table) -> dict[str, Any]:
    """What the engine's reader says of the place of each row."""
    return {name: raw[name] for name in raw.columns if name in ("in_file_block", "in_file_row")}


def _is_plain(name: str, kind: pa.DataType) -> bool:
    """Whether cells of a type can be read here as what a column is wanted as."""
    types = pa.types
    text = types.is_string(kind) or types.is_large_string(kind)
    if name in ("user_id", "item_id"):
        return text or types.is_integer(kind)
    if name == "timestamp":
        number = types.is_signed_integer(kind) or types.is_float32(kind) or types.is_float64(kind)
        return text or number or (types.is_timestamp(kind) and kind.unit in ("ms", "us"))
    if name == "rating":
        return text or types.is_signed_integer(kind) or types.is_float32(kind) or types.is_float64(kind)
    return text


def _plain_delimiters(path: Path, delimiter: str, quotes: bool) -> int | None:
    """
    How many delimiters a text has behind its header; `None` unless it is UTF-8 with line breaks of one kind, no empty
    bytes, and behind the header neither quotes nor lines that begin with a blank.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    delimiters, before = 0, b"\n"
    with path.open("rb") as file:
        header = file.readline(2**20)
        if b"\r" in header.removesuffix(b"\r\n") or header.count(b'"') % 2 or not header.endswith(b"\n"):
            return None
        try:
            decoder.decode(header)
            while chunk := file.read(2**22):
                if chunk.endswith(b"\r"):
                    chunk += file.read(1)
                if b"\0" in chunk or (quotes and b'"' in chunk) or chunk.count(b"\r") != chunk.count(b"\r\n"):
                    return None
                # A line that is blank is none for some engines.
                if any(b"\n" + blank in before + chunk for blank in (b" ", b"\t", b"\v", b"\f")):
                    return None
                before = chunk[-1:]
                if not chunk.isascii() or decoder.getstate()[0]:
                    decoder.decode(chunk)
                delimiters += chunk.count(delimiter.encode())
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return None
    return delimiters


# ---- cells ----


def _checked(raw: ibis.Table, unit: str) -> ibis.Table:
    """The columns of a `WholeLog` and of the items' text, and `odd`: whether a row needs a closer look."""
    user, item = (raw[name].cast("string") for name in ("user_id", "item_id"))
    columns: dict[str, Any] = {"user_id": user, "item_id": item}
    odd = _is_odd_id(user) | _is_odd_id(item)
    columns["timestamp"], columns["rating"] = ibis.null("int64"), ibis.null("float64")
    if "timestamp" in raw.columns:
        columns["timestamp"], is_odd = _milliseconds(raw.timestamp, unit)
        odd |= is_odd
    if "rating" in raw.columns:
        columns["rating"], is_odd = _rating(raw.rating)
        odd |= is_odd
    texts = {name: raw[name].nullif("") for name in TEXTS if name in raw.columns}
    return raw.select(**columns, **texts, **_row_of(raw), odd=odd.cast("int64"))


def _is_odd_id(text: Any) -> Any:
    """Null, empty, or beginning with a blank. Text is compared byte by byte: most ids need no regular expression."""
    other = (text >= "\x7f").ifelse(text.re_search(_BLANK), False)
    return text.isnull() | (text < "!").fill_null(True) | other.fill_null(True)


def _milliseconds(column: Any, unit: str) -> tuple[Any, Any]:
    """Times of `parse_time`, and whether one needs a closer look."""
    kind = column.type()
    if kind.is_timestamp():
        # Before 1970 seconds and milliseconds are rounded towards zero.
        found = column.epoch_seconds().cast("int64") * 1000 + column.millisecond().cast("int64")
        return found, column.notnull() & ((found < 1000) | (found > LIMIT_MS)).fill_null(True)
    if not kind.is_string() and unit == "iso":
        return ibis.null("int64"), column.notnull()
    factor = 1000 if unit == "s" else 1
    if kind.is_integer():
        inside = column.cast("int64").between(-LIMIT_MS, LIMIT_MS)
        found = inside.ifelse(column.cast("int64"), ibis.null("int64")) * factor
        empty = column.isnull()
    elif kind.is_floating():
        found, empty = _rounded(column.cast("float64"), factor), column.isnull()
    elif unit == "iso":
        plain = column.re_search(_ISO).ifelse(column, ibis.null("string"))
        found = plain.substr(0, 19).replace("T", " ").try_cast("timestamp").epoch_seconds().cast("int64") * 1000
        empty = column.isnull() | (column == "")
    else:
        short = (column.length() <= 15).ifelse(column, ibis.null("string"))
        whole = short.try_cast("int64")
        is_whole = (whole.cast("string") == column).fill_null(False)  # written as numbers are
        decimal = column.re_search(_DECIMAL).ifelse(column, ibis.null("string")).try_cast("float64")
        found = is_whole.ifelse(whole * factor, _rounded(decimal, factor))
        empty = column.isnull() | (column == "")
    outside = found.isnull() | ~found.between(-LIMIT_MS, LIMIT_MS)
    return found, ~empty & outside.fill_null(True)


def _rounded(number: Any, factor: int) -> Any:
    """The nearest whole number of number * factor; null about the middle of two, and for what is no time."""
    scaled = (number.isnan() | ~number.between(-LIMIT_MS, LIMIT_MS)).ifelse(ibis.null("float64"), number) * factor
    below = scaled.floor()
    part = scaled - below
    sure = (part < 0.499) | (part > 0.501)
    return sure.ifelse((below.cast("float64") + (part > 0.5).ifelse(1, 0)).cast("int64"), ibis.null("int64"))


def _rating(column: Any) -> tuple[Any, Any]:
    if column.type().is_string():
        found = column.re_search(_RATING).ifelse(column, ibis.null("string")).try_cast("float64")
        return found, ((column != "") & found.isnull()).fill_null(False)
    found = column.cast("float64")
    return found, (found.isnan() | found.isinf()).fill_null(False)


# ---- items ----


def _items_of(rows: ibis.Table) -> pa.Table:
    """The distinct items of the log, each with the text of its first row."""
    texts = [name for name in TEXTS if name in rows.columns]
    first = rows.group_by("item_id").agg(row=_.row.min())
    if texts:
        first = first.inner_join(rows.select("row", *texts), "row")
    found = first.order_by("row").to_pyarrow()
    columns = {name: found[name] if name in texts else pa.nulls(len(found)) for name in TEXTS}
    table = pa.table({"item_id": found["item_id"], **columns})
    return table.cast(pa.schema([(name, pa.string()) for name in ITEM_COLUMNS]))
