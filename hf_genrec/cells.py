"""Cells of tables as ids and text, and what the columns of a Parquet file can hold."""

import re
from collections.abc import Callable, Iterable
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

if TYPE_CHECKING:
    import pyarrow as pa

Role = Literal["id", "time", "rating", "text", "further", "image"]

# A number as tables write it; Python's own reading also takes 1_000 and the digits of every script.
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_MOST_NAMES = 20
_EXPECTED = {
    "id": "ids are text or whole numbers",
    "time": "times are timestamps, dates, numbers or text",
    "rating": "ratings are numbers",
    "text": "text columns hold text, numbers, or lists of text",
    "image": "pictures are paths, bytes, or structs of both (datasets.Image)",
    "further": "further columns of items hold text, numbers, truth, or lists of text",
}
# From it on neighbouring whole numbers are the same float64.
_EXACT = 2**53


def shown(value: Any) -> str:
    """A value for an error, in quotes where it is text, and its middle left out where it is long."""
    return shortened(repr(value), 60)


def shortened(text: str, length: int) -> str:
    """A text in one line, its middle left out where it is longer than about `length` characters."""
    if len(text.splitlines()) > 1:
        text = " ".join(text.split())
    half = length // 2
    return text if len(text) <= length else f"{text[:half]}...{text[-half:]}"


def shown_names(names: Iterable[str]) -> str:
    """Column names for an error: the first twenty, and how many more there are."""
    names = [shortened(name, 60) for name in names]
    more = f", ... ({len(names) - _MOST_NAMES} more)" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more


def as_id(cell: Any, column: str) -> str:
    """
    An id as text. Text stays as it is ("007", "10.0"); a number is written without decimals, so that the column which
    pandas turned into floats (10.0) names the same items as one of integers (10); bytes must be UTF-8.

    Raises:
        ValueError: no id, a number with decimals, or anything else.
    """
    cell = decoded(cell, f"the id in column {column!r}")
    if cell is None or cell != cell or (isinstance(cell, str) and not cell.strip()):
        raise ValueError(f"no id in column {column!r}")
    if isinstance(cell, float | Decimal):
        # of a long Decimal % has no answer
        part = cell - cell.to_integral_value() if isinstance(cell, Decimal) else cell % 1
        if part or (isinstance(cell, float) and abs(cell) >= _EXACT):
            raise ValueError(f"the id {cell} in column {column!r} is a decimal number: store ids as text or integers")
        cell = int(cell)
    if isinstance(cell, bool) or not isinstance(cell, str | int | UUID):
        kind = _kind(cell)
        raise ValueError(f"the id in column {column!r} is {kind}: {_EXPECTED['id']}")
    return str(cell)


def as_text(cell: Any, column: str) -> str | None:
    """
    A text, or None for an empty cell. Numbers are written as Python does, truth as `true` and `false`, the entries of a
    list are joined by commas.

    Raises:
        ValueError: an object, bytes that are not UTF-8, or a list of lists or objects.
    """
    if isinstance(cell, list):
        if any(isinstance(entry, list | dict) for entry in cell):
            raise ValueError(f"column {column!r} holds a list of lists or objects: {_EXPECTED['text']}")
        parts = [as_text(entry, column) for entry in cell]
        return ", ".join(part for part in parts if part is not None) or None
    cell = decoded(cell, f"column {column!r}")
    if cell is None or cell == "" or cell != cell:
        return None
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if not isinstance(cell, str | int | float | Decimal | UUID):
        raise ValueError(f"column {column!r} holds {_kind(cell)}: {_EXPECTED['text']}")
    return str(cell)


def _kind(cell: Any) -> str:
    return {bool: "true or false", list: "a list", dict: "an object"}.get(type(cell), f"a {type(cell).__name__}")


def decoded(cell: Any, what: str) -> Any:
    """The text of bytes, which must be UTF-8; anything else as it is."""
    if not isinstance(cell, bytes):
        return cell
    try:
        return cell.decode()
    except UnicodeDecodeError:
        raise ValueError(f"{what} is not UTF-8: store it as text") from None


# ---- columns of a Parquet file ----


def check_column(path: str | Path, field: "pa.Field", role: Role, setting: str) -> None:
    """
    Raises:
        ValueError: a column whose type cannot hold what is asked of it; names file, column, type and setting.
    """
    if not _fits(plain_type(field.type), role):
        kind = shortened(str(field.type), 60)
        raise ValueError(
            f"{path}: column {field.name!r} ({setting}) is of type {kind}: {_EXPECTED[role]}: convert it, or "
            + ("leave it out" if role == "further" else "name another one")
        )


def plain_type(kind: "pa.DataType") -> "pa.DataType":
    """The type of the values of a dictionary (a categorical), and any other type itself."""
    import pyarrow as pa

    return kind.value_type if pa.types.is_dictionary(kind) else kind


def is_temporal(kind: "pa.DataType") -> bool:
    """Whether it is a point in time: a timestamp or a date."""
    import pyarrow as pa

    return pa.types.is_timestamp(kind) or pa.types.is_date(kind)


def is_list(kind: "pa.DataType") -> bool:
    """A list of any length, or of a fixed one."""
    import pyarrow as pa

    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def is_picture(kind: "pa.DataType") -> bool:
    """A struct of bytes and a path, as `datasets.Image` has it."""
    import pyarrow as pa

    return pa.types.is_struct(kind) and {kind.field(place).name for place in range(kind.num_fields)} == {
        "bytes",
        "path",
    }


def is_number(kind: "pa.DataType") -> bool:
    """An integer, a float or a decimal; no bool."""
    import pyarrow as pa

    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def is_text(kind: "pa.DataType") -> bool:
    """Text, or bytes that may be text."""
    import pyarrow as pa

    types = pa.types
    tests: tuple[Callable[[pa.DataType], bool], ...] = (
        types.is_string, types.is_large_string, types.is_string_view,
        types.is_binary, types.is_large_binary, types.is_binary_view, types.is_fixed_size_binary,
    )  # fmt: skip
    return any(test(kind) for test in tests) or str(kind) == "extension<arrow.uuid>"


def _fits(kind: "pa.DataType", role: Role) -> bool:
    import pyarrow as pa

    if pa.types.is_null(kind):
        return True
    if role == "id":  # shorter floats cannot tell large whole numbers apart
        return is_text(kind) or (is_number(kind) and kind not in (pa.float16(), pa.float32()))
    if role == "time":
        return is_text(kind) or is_number(kind) or is_temporal(kind)
    if role == "image":
        return is_text(kind) or is_picture(kind)
    if role == "rating":
        return is_text(kind) or is_number(kind)
    if is_list(kind):
        entry = plain_type(kind.value_type)
        return is_text(entry) or pa.types.is_integer(entry) or pa.types.is_null(entry)
    truth = role == "further" and pa.types.is_boolean(kind)
    return truth or is_text(kind) or is_number(kind) or is_temporal(kind)


def milliseconds(column: "pa.Array") -> list[int | None]:
    """Timestamps (UTC, or without a zone and then taken as UTC) or dates as whole milliseconds since 1970, rounded
    down."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_date32(kind):
        numerator, denominator = 86_400_000, 1
        column = column.cast(pa.int32())
    else:
        unit = "ms" if pa.types.is_date64(kind) else kind.unit
        numerator, denominator = {"s": (1000, 1), "ms": (1, 1), "us": (1, 1000), "ns": (1, 1_000_000)}[unit]
    # Python's integers: seconds of a far year times 1000 do not fit into 64 bits
    numbers = column.cast(pa.int64()).to_pylist()
    return [None if number is None else number * numerator // denominator for number in numbers]


def cells(column: "pa.Array") -> list[Any]:
    """The cells of a column as Python has them, points in time as text (UTC)."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_float16(column.type):
        column = column.cast(pa.float64())
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp(column.type.unit))
    return (column.cast(pa.string()) if is_temporal(column.type) else column).to_pylist()
