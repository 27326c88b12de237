"""Points in time as int64 milliseconds UTC."""

import math
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Literal

from hf_genrec.cells import NUMBER

TimeUnit = Literal["s", "ms", "iso"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FACTORS = {"s": 1000, "ms": 1}
# The end of year 9999. Beyond it a number is not a time but a wrong unit.
LIMIT_MS = 253_402_300_800_000


def datetime_to_ms(moment: datetime) -> int:
    """Milliseconds since 1970-01-01 UTC; a time without a zone is taken as UTC."""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def parse_time(value: str | int | float | Decimal, unit: TimeUnit) -> int:
    """One timestamp in `unit` (seconds, milliseconds, ISO 8601 text) as milliseconds UTC.

    Raises:
        ValueError: the value is no time in this unit, or lies outside the years a date can have.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        raise ValueError(f"{value!r} is no time: numbers or text are expected")
    if unit == "iso":
        text = str(value).strip()
        try:
            # fromisoformat also takes thirteen digits, as the year 1420 with an hour behind it
            if text.isdigit() and len(text) != 8:
                raise ValueError
            return datetime_to_ms(datetime.fromisoformat(text))
        except ValueError:
            raise ValueError(f"{value!r} is not an ISO 8601 time (time_unit: iso)") from None
    if isinstance(value, str) and not NUMBER.fullmatch(value.strip()):
        raise ValueError(f"{value!r} is not a number (time_unit: {unit})")
    try:
        milliseconds = int(value) * _FACTORS[unit]
        if isinstance(value, float | Decimal):
            milliseconds = round(value * _FACTORS[unit])
    except (ValueError, OverflowError):  # a number with decimals, or no number
        milliseconds = _decimal_to_ms(value, unit)
    if abs(milliseconds) > LIMIT_MS:
        raise ValueError(f"{value!r} is no date in time_unit: {unit}; is it in another unit?")
    return milliseconds


def _decimal_to_ms(value: str | int | float | Decimal, unit: TimeUnit) -> int:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is not a number (time_unit: {unit})")
    return round(number * _FACTORS[unit])
