"""What a search may choose from: `key=low..high`, `key=low..high:log` or `key=a,b,c`, and the same in a YAML file."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_genrec.training.given_values import checked_value, shown_value
from hf_genrec.training.plain_yaml import read_yaml

RANGE = re.compile(r"(?P<low>[^\s,:]+?)\.\.(?P<high>[^\s,:]+)(:(?P<scale>[^\s,]*))?")
HOW = "write low..high, low..high:log, or values separated by commas"


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; whole ones where both are."""

    low: int | float
    high: int | float
    log: bool = False

    def __str__(self) -> str:
        return f"{self.low}..{self.high}{':log' if self.log else ''}"


@dataclass(frozen=True)
class Choices:
    """Values as they would be written behind `--key`, those of a list with spaces between."""

    values: tuple[str, ...]

    def __str__(self) -> str:
        return ",".join(self.values)


Space = Range | Choices


def is_space(word: str) -> bool:
    """Whether a word of the command line says what a key may be, or is a file that does."""
    return re.match(r"[A-Za-z_]\w*=", word) is not None or word.endswith((".yaml", ".yml"))


def read_spaces(words: Sequence[str], kinds: Mapping[str, Any]) -> dict[str, Space]:
    """
    What each key may be.

    Args:
        words: `key=space` each, or a YAML file of keys, whose values are text as behind `=`, or lists of choices.
        kinds: the annotations of the keys that a search can vary.

    Raises:
        ValueError: for a key that cannot be varied or stands twice, a space that cannot be read, or values that the key
            does not have.
        OSError: if a file cannot be read.
    """
    found: dict[str, Space] = {}
    for word in words:
        key, equals, text = word.partition("=")
        is_file = not equals or (word.endswith((".yaml", ".yml")) and Path(word).is_file())
        given: Iterable[tuple[Any, Any]] = read_yaml(Path(word)).items() if is_file else [(key, text)]
        for name, said in given:
            place = f"{word}: {name}" if is_file else f"--space {word}"
            if name not in kinds:
                raise ValueError(
                    f"{place}: {shown_value(name)} is no option of the model, of its training or of its codes that a "
                    f"search can vary: `hf-genrec train --help` lists them"
                )
            if name in found:
                raise ValueError(f"{place}: {name} is given twice: leave one out")
            found[name] = _space(place, name, said, kinds[name])
    if not found:
        raise ValueError(f"--space: name at least one key and its values, key=...: {HOW}")
    return found


def _space(place: str, key: str, said: Any, kind: Any) -> Space:
    try:
        if isinstance(said, str) and (match := RANGE.fullmatch(said.strip())):
            return _range(key, match, kind)
        values = said if isinstance(said, list) else said.split(",") if isinstance(said, str) else [said]
        choices = tuple(_written(value) for value in values)
        if "" in choices or len(set(choices)) < len(choices):
            raise ValueError(f"{shown_value(said)} has an empty value, or one twice: {HOW}")
        for value in choices:
            _checked_choice(key, value, kind)
        return Choices(choices)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None


def _range(key: str, match: re.Match, kind: Any) -> Range:
    if match["scale"] not in (None, "log"):
        raise ValueError(f"{match[0]!r} ends with :{match['scale']}: only :log is known")
    try:
        low, high = (float(match[name]) for name in ("low", "high"))
    except ValueError:
        raise ValueError(f"{match[0]!r} is not from a number to a number: {HOW}") from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"{match[0]!r} is empty: the first number must be below the second")
    if match["scale"] and low <= 0:
        raise ValueError(f"{match[0]!r} has a logarithmic scale: begin above 0")
    # Whole numbers where the key has no others: from 1 to 4 a key of decimals is anything between.
    ends = [checked_value(key, match[name], kind) for name in ("low", "high")]
    if any(isinstance(end, bool) or not isinstance(end, int | float) for end in ends):
        raise ValueError(f"{key} is no number: give its values, separated by commas")
    return Range(ends[0], ends[1], match["scale"] == "log")


def _checked_choice(key: str, value: str, kind: Any) -> None:
    """A list is written with spaces, as behind an option."""
    try:
        checked_value(key, value, kind)
    except ValueError as error:
        words: list[Any] = value.split(" ")
        try:
            checked_value(key, [int(word) if re.fullmatch(r"[-+]?\d+", word) else word for word in words], kind)
        except ValueError:
            raise error from None


def _written(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(_written, value))
    if value is None or isinstance(value, dict):
        raise ValueError(f"{value!r} cannot be written behind an option: give numbers, text, or lists of them")
    return str(value).lower() if isinstance(value, bool) else str(value).strip()
