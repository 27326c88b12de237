"""What a caller asks for, checked alike for every method: a wrong request is one line that says what to give."""

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np

EXAMPLE = "[['12', '7']] for a batch, ['12', '7'] for one history"


def shown(value: Any) -> str:
    """A value as an error message shows it: short, and on one line."""
    if isinstance(value, int) and value.bit_length() > 64:
        return f"an int of {value.bit_length()} bits"
    if value is None or isinstance(value, str | bytes | Real):
        text = " ".join(repr(value).split())
        return text if len(text) <= 60 else f"{text[:57]}..."
    return f"a {type(value).__name__}"


def _has_entries(value: Any) -> bool:
    """Whether it can be a list of ids: not a string, bytes, a file, a mapping, a table or a single number."""
    if isinstance(value, str | bytes | bytearray | memoryview | Mapping | type) or not isinstance(value, Iterable):
        return False
    return getattr(value, "ndim", 1) > 0 and not hasattr(value, "columns") and not hasattr(value, "read")


def listed(value: Any, where: str, ordered: bool = True) -> list:
    """
    The entries of a list, tuple, array, column of a table or generator; where order does not matter, also of a set.

    Raises:
        ValueError: for anything else, a string among them: it is one id, not the ids of its letters. Also for a
        generator that gives nothing: one that was read before does not, either.
    """
    if not _has_entries(value):
        example = f"[{shown(value)}]" if isinstance(value, str) else EXAMPLE
        if where == "histories" and isinstance(value, str):
            example = f"[[{shown(value)}]]"
        raise ValueError(f"{where}: {shown(value)} is no list of item ids: give a list, {example}.")
    if ordered and isinstance(value, Set):
        raise ValueError(f"{where}: a {type(value).__name__} has no order: give a list of item ids.")
    for convert in ("to_pylist", "tolist"):  # of pyarrow; of numpy, torch and pandas
        if hasattr(value, convert):
            return getattr(value, convert)()
    entries = list(value)
    if not entries and isinstance(value, Iterator):
        raise ValueError(f"{where}: a {type(value).__name__} gave nothing, as one that was read before: give a list.")
    return entries


def as_batch(histories: Any) -> tuple[list[list], bool]:
    """
    A batch of histories, and whether one single history was given (a flat list of ids, or an empty one).

    Raises:
        ValueError: for what is neither, or ids and lists of ids in one list.
    """
    entries = listed(histories, "histories")
    nested = [not isinstance(entry, str) and _has_entries(entry) for entry in entries]
    if not any(nested):
        return [entries], True
    if not all(nested):
        odd = nested.index(not nested[0])
        raise ValueError(
            f"histories: entry {odd + 1} is {shown(entries[odd])} and entry 1 is {shown(entries[0])}: give lists of "
            f"item ids, {EXAMPLE}."
        )
    return [listed(entry, f"history {place}") for place, entry in enumerate(entries, start=1)], False


def checked_ids(item_ids: Any, where: str, ordered: bool = True) -> list[str]:
    """
    Item ids as a list.

    Raises:
        ValueError: for what [`listed`] refuses, or an id that is not a string.
    """
    ids = listed(item_ids, where, ordered)
    if not all(isinstance(item_id, str) for item_id in ids):
        place = next(place for place, item_id in enumerate(ids) if not isinstance(item_id, str))
        raise ValueError(
            f"Item {shown(ids[place])} in {where} (position {place + 1}, from 1) is not a string: item ids are strings."
        )
    return ids


def checked_count(name: str, value: Any, least: int = 1) -> int:
    """
    A whole number of Python or numpy.

    Raises:
        ValueError: for anything else, or a number below `least`.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name}={shown(value)}: give a whole number, at least {least}.")
    return int(value)


def checked_number(name: str, value: Any) -> float:
    """
    A number from 0 to infinity.

    Raises:
        ValueError: for anything else, or NaN.
    """
    number = _as_float(value)
    if not number >= 0:
        raise ValueError(f"{name}={shown(value)}: give a number, 0 or more.")
    return number


def checked_temperature(value: Any) -> float:
    """
    What scores are divided by before a code is sampled.

    Raises:
        ValueError: for what is no number above 0, or is infinite.
    """
    number = _as_float(value)
    if not 0 < number < math.inf:
        raise ValueError(f"temperature={shown(value)}: give a number above 0, as 1.0.")
    return number


def checked_between(name: str, value: Any, low: float, high: float) -> float:
    """
    A number of Python or numpy.

    Raises:
        ValueError: for anything else, or one outside `low` to `high`.
    """
    number = _as_float(value)
    if not low <= number <= high:
        raise ValueError(f"{name}={shown(value)}: give a number from {low:g} to {high:g}.")
    return number


def _as_float(value: Any) -> float:
    """A number of Python or numpy; infinity for one that is too large, NaN for anything else."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    try:
        return float(value) if is_number else math.nan
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def checked_choice(name: str, value: Any, choices: Sequence[Any]) -> Any:
    """
    One of some strings, or of True and False (those of numpy, too).

    Raises:
        ValueError: for anything else.
    """
    value = bool(value) if isinstance(value, np.bool_) else value
    if not any(value is choice or (isinstance(value, str) and value == choice) for choice in choices):
        *most, last = (repr(choice) for choice in choices)
        raise ValueError(f"{name}={shown(value)}: use {', '.join(most)} or {last}.")
    return value


def checked_beams(k: int, num_beams: Any) -> int:
    """
    The beams of a search for k items, by default `max(2 * k, 20)`.

    Raises:
        ValueError: for fewer than k.
    """
    if num_beams is None:
        return max(2 * k, 20)
    if checked_count("num_beams", num_beams) < k:
        raise ValueError(f"num_beams={shown(num_beams)} for k={k} items: num_beams must be at least k.")
    return min(int(num_beams), 2**31)  # more than a catalogue has items, and torch takes no numbers of any size


def checked_rows(rows: Any, num_items: int, where: str) -> np.ndarray:
    """
    Catalogue rows, (n,) int64.

    Raises:
        ValueError: for what are no whole numbers, or a row that the catalogue does not have.
    """
    try:
        array = np.asarray(rows)
    except (ValueError, TypeError):  # lists of different lengths, say
        array = np.asarray(None)
    if array.ndim != 1 or (len(array) and array.dtype.kind not in "iu"):
        raise ValueError(f"{where}: {shown(rows)} is no list of catalogue rows: give whole numbers, as [3, 0, 7].")
    outside = np.flatnonzero((array < 0) | (array >= num_items))
    if len(outside):
        place = int(outside[0])
        raise ValueError(
            f"Row {array[place]} in {where} (position {place + 1}, from 1) is not in the catalogue: its rows are 0 to "
            f"{num_items - 1}."
        )
    return array.astype(np.int64, copy=False)


def checked_row_histories(histories: Any, num_items: int) -> list[np.ndarray]:
    """
    Histories of catalogue rows, (n,) int64 each.

    Raises:
        ValueError: see [`checked_rows`].
    """
    if not _has_entries(histories):
        raise ValueError(f"histories: {shown(histories)} is no batch of catalogue rows: give lists of them, [[3, 0]].")
    if isinstance(histories, Set):
        raise ValueError(f"histories: a {type(histories).__name__} has no order: give lists of catalogue rows, [[3]].")
    histories = list(histories)
    if all(isinstance(history, np.ndarray) and history.dtype == np.int64 for history in histories):
        # One look at all of them, unless something is wrong.
        flat = np.concatenate([np.empty(0, dtype=np.int64), *(history.ravel() for history in histories)])
        sound = not len(flat) or (flat.min() >= 0 and flat.max() < num_items)
        if sound and all(history.ndim == 1 for history in histories):
            return histories
    return [checked_rows(history, num_items, f"history {place}") for place, history in enumerate(histories, start=1)]


@dataclass
class RowRequest:
    """
    A request in catalogue rows, and the answer to fill.

    Attributes:
        histories: B histories, (n,) int64 each.
        candidates: rising rows, each once; `None` for the whole catalogue.
        count: the items to look for, at most as many as there are.
        batch_size: histories at a time.
        rows: (B, count) int64, -1.
        scores: (B, count) float32, -inf.
    """

    histories: list[np.ndarray]
    candidates: np.ndarray | None
    count: int
    batch_size: int
    rows: np.ndarray
    scores: np.ndarray


def checked_request(
    num_items: int, histories: Any, k: Any, exclude_seen: Any, candidates: Any, batch_size: Any
) -> RowRequest:
    """
    What every `recommend_rows` begins with.

    Raises:
        ValueError: for a row outside the catalogue, no candidate, a k or a batch size below 1, or another type.
    """
    k = checked_count("k", k)
    batch_size = checked_count("batch_size", batch_size)
    checked_choice("exclude_seen", exclude_seen, (True, False))
    histories = checked_row_histories(histories, num_items)
    if candidates is not None:
        candidates = np.unique(checked_rows(candidates, num_items, "candidates"))
        if not len(candidates):
            raise ValueError("candidates is empty: give at least 1 item to choose from.")
    count = min(k, num_items if candidates is None else len(candidates))
    rows = np.full((len(histories), count), -1, dtype=np.int64)
    return RowRequest(histories, candidates, count, batch_size, rows, np.full(rows.shape, -np.inf, dtype=np.float32))


def checked_options(function: Callable, options: Mapping[str, Any], taken: Sequence[str]) -> None:
    """
    Raises:
        TypeError: for an option that a function, some of whose arguments are `taken` already, does not have.
    """
    parameters = inspect.signature(function).parameters
    if any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    names = [name for name in parameters if name not in taken]
    unknown = [name for name in options if name not in names]
    if unknown:
        have = f"its options are {', '.join(names)}" if names else "it has none"
        raise TypeError(f"This model has no search option {unknown[0]!r} here: leave it out, {have}.")
