"""The library's own keys, as `hf-genrec train --help` lists them."""

import textwrap
from dataclasses import MISSING, Field, fields
from typing import Any

WIDTH, COLUMN = 100, 32


def own_fields(cls: Any) -> list[Field]:
    """The fields of an argument class that this library adds to those of its base classes, or says anew."""
    named = {name for base in cls.__mro__ if base.__module__.startswith("hf_genrec") for name in base.__annotations__}
    return [entry for entry in fields(cls) if entry.init and entry.name in named and entry.name != "method"]


def option_help(groups: dict[str, list[Field]]) -> str:
    """Groups of keys, a paragraph each: option, what it is, and its default in brackets."""
    parts = []
    for title, entries in groups.items():
        lines = [f"{title}:"]
        for entry in entries:
            text = f"{entry.metadata.get('help', '')} [{_default(entry)}]"
            option = f"  --{entry.name}"
            wrapped = textwrap.wrap(text, WIDTH - COLUMN)
            if len(option) >= COLUMN:
                lines.append(option)
                option = ""
            lines.append(option.ljust(COLUMN) + wrapped[0])
            lines += [" " * COLUMN + line for line in wrapped[1:]]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _default(entry: Field) -> str:
    value = entry.default if entry.default_factory is MISSING else entry.default_factory()
    if value is MISSING:
        return "required"
    if isinstance(value, list):
        return " ".join(map(_written, value)) or "none"
    return _written(value)


def _written(value: Any) -> str:
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
