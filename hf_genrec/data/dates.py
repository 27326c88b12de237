"""The dates of a log: their range, and dates that no log has because they were read in another unit."""

import logging
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from hf_genrec.cells import shown
from hf_genrec.data.arguments import DataArguments

if TYPE_CHECKING:
    import ibis

logger = logging.getLogger(__name__)

_YEAR_MS = 366 * 24 * 3600 * 1000
# Seconds of the years from 1985 on, read as milliseconds, are dates of January 1970.
_SECONDS_OF_1985 = 473_385_600


def now_ms() -> int:
    """The time of this machine in milliseconds UTC."""
    return int(time.time() * 1000)


def shown_date(milliseconds: int) -> str:
    """ISO 8601 in UTC, to the second; years outside 1 to 9999 as milliseconds."""
    try:
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)
    except OverflowError:
        return f"{milliseconds} ms"
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def check_dates(log: "ibis.Table", arguments: DataArguments) -> dict[str, str]:
    """
    The first and the last date of interactions that all have times; they are logged.

    Small numbers all in 1970 are let be: a time column may hold a mere order.

    Raises:
        ValueError: dates before 1970 or more than a year ahead; all of them in 1970, where they are ISO dates or would
            be dates of today as seconds; a validation_time or test_time outside their range.
    """
    row = log.agg(first=log.timestamp.min(), last=log.timestamp.max(), parts=(log.timestamp % 1000 != 0).sum())
    first, last, parts = row.to_pyarrow().to_pylist()[0].values()
    now = now_ms()
    span = f"{shown_date(first)} to {shown_date(last)}"
    place = arguments.source_path or "the log"
    unit = f"time_unit ({arguments.time_unit})" if arguments.source == "tabular" else "the unit of the times"
    if first < 0:
        _refuse(log, place, log.timestamp < 0, "before 1970", f"correct or empty them, or correct {unit}")
    if last > now + _YEAR_MS:
        late = f"later than {shown_date(now + _YEAR_MS)}, a year from now"
        _refuse(log, place, log.timestamp > now + _YEAR_MS, late, f"correct them, or correct {unit}")
    # Where seconds were asked for and all are whole, small numbers are what the file holds.
    whole_seconds = arguments.source == "tabular" and arguments.time_unit == "s" and not parts
    if first >= _SECONDS_OF_1985 and last <= (now + _YEAR_MS) // 1000 and not whole_seconds:
        remedy = "set time_unit: s" if arguments.time_unit == "ms" else "give milliseconds"
        raise ValueError(
            f"{place}: all interactions are dated {span}: these are seconds read as milliseconds: {remedy}"
        )
    if last < _YEAR_MS and arguments.source == "tabular":
        nanoseconds = arguments.time_unit == "s" and parts and first >= _SECONDS_OF_1985 // 1_000_000
        if arguments.time_unit == "iso" or nanoseconds:
            raise ValueError(
                f"{place}: all interactions are dated {span}: the times were written in another unit: correct them"
            )
        logger.warning(
            "all interactions are dated %s: right if the times are a mere order; if they are times, correct time_unit",
            span,
        )
    elif first < _YEAR_MS < last:
        early = log.filter(log.timestamp < _YEAR_MS).count().to_pyarrow().as_py()
        logger.warning("%d interactions are dated 1970, the last one %s: are their times known?", early, span[-20:])
    if arguments.split == "global_time":
        for name, milliseconds in (("validation_time", arguments.validation_ms), ("test_time", arguments.test_ms)):
            if milliseconds > last:
                raise ValueError(
                    f"{name} {getattr(arguments, name)} is after the last interaction (they are of {span}): set it "
                    f"earlier"
                )
        if arguments.validation_ms <= first:
            raise ValueError(
                f"validation_time {arguments.validation_time} leaves no training interactions (they are of {span}): "
                f"set it later"
            )
    logger.info("interactions from %s (UTC)", span)
    return {"first": shown_date(first), "last": shown_date(last)}


def _refuse(log: "ibis.Table", place: str, condition: Any, what: str, remedy: str) -> None:
    bad = log.filter(condition)
    count, of = bad.count().to_pyarrow().as_py(), log.count().to_pyarrow().as_py()
    row = bad.order_by("row").limit(1).to_pyarrow().to_pylist()[0]
    raise ValueError(
        f"{place}: {count} of {of} interactions are dated {what}, the first {shown_date(row['timestamp'])} (user "
        f"{shown(row['user_id'])}, item {shown(row['item_id'])}): {remedy}"
    )
