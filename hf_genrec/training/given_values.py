"""Values of configurations and options against what their keys may be: the annotations of the argument classes."""

import math
import os
import sys
import types
from collections.abc import Iterable
from dataclasses import MISSING, fields
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hf_genrec.catalogue.sizes import LARGEST
from hf_genrec.cells import NUMBER, shortened, shown_names

LONGEST_TEXT = 4096  # characters; the longest path of a file
MOST = 2**63 - 1
FINITE = sys.float_info.max
SEEDS = (0, 2**32 - 1)
TRUTH = {"yes": True, "true": True, "on": True, "no": False, "false": False, "off": False}

# From and to what the numbers of shared keys make sense, beyond what their own classes check.
LIMITS: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("seed", "data_seed", "tokenizer_seed"), SEEDS),
    **dict.fromkeys(("learning_rate", "weight_decay", "max_grad_norm", "num_train_epochs"), (0, FINITE)),
    **dict.fromkeys(("adam_beta1", "adam_beta2"), (0, 1 - 1e-9)),
    **dict.fromkeys(("warmup_steps", "eval_delay", "adam_epsilon"), (0, FINITE)),
    **dict.fromkeys(("logging_steps", "eval_steps", "save_steps"), (1e-12, FINITE)),
    **dict.fromkeys(("per_device_train_batch_size", "per_device_eval_batch_size", "tokenizer_batch_size"), (1, 2**31)),
    **dict.fromkeys(("gradient_accumulation_steps", "eval_accumulation_steps"), (1, 2**31)),
    **dict.fromkeys(("eval_users", "early_stopping_patience"), (1, MOST)),
    **dict.fromkeys(("latent_dim", "collaborative_dim", "projection_dim"), (1, 2**16)),
    "max_steps": (-1, MOST),
    "dataloader_num_workers": (0, 256),
    "dataloader_prefetch_factor": (1, 1024),
    "codebook_sizes": (1, LARGEST["codebook_sizes"]),
    "max_history": (1, LARGEST["max_history"]),
    "packed_row_tokens": (-MOST, 2**31),
    "lora_r": (1, 2**16),
    "num_generations": (1, 2**20),
    "path_top_n": (1, 2**31),
    "horizon": (1, 2**20),
    "num_iterations": (1, 2**20),
}


def kinds_of(classes: Iterable[Any]) -> dict[str, Any]:
    """
    What the keys of argument classes may be: annotations, with `None` where it is the default. Where one of the base
    classes has an enumeration or choices for a key, it is one of these.
    """
    kinds = {}
    for cls in classes:
        hints = get_type_hints(cls)
        choices: dict[str, Any] = {}
        for base in reversed(cls.__mro__):
            for name, hint in get_type_hints(base).items():
                choices.update((name, entry) for entry in _alternatives(hint) if _is_enumeration(entry))
            for name, entry in getattr(base, "__dataclass_fields__", {}).items():
                if entry.metadata.get("choices"):
                    choices[name] = Literal[tuple(entry.metadata["choices"])]
        for entry in fields(cls):
            if entry.init:
                hint = choices.get(entry.name, hints[entry.name])
                kinds[entry.name] = hint | None if entry.default is None else hint
    return kinds


def checked_value(key: str, value: Any, kind: Any) -> Any:
    """
    The value of a key as its annotation `kind` has it: a number that is written as text is the number, and text such as
    `yes` is truth where truth is asked for.

    Raises:
        ValueError: if it is of another kind, not finite, or out of the key's limits; names key and value.
    """
    found = _as_kind(value, kind)
    if found is MISSING:
        quoted = ": put it in quotes" if _is_number(value) and str in _alternatives(kind) else ""
        raise ValueError(f"{key}: {shown_value(value)} is not {_named(kind)}{quoted}")
    alternatives = [_plain(entry) for entry in _alternatives(kind)]
    if found == "" and may_be_null(kind):
        raise ValueError(f"{key} is empty: leave it out")
    check_numbers(key, found)
    check_text(key, found)
    is_text_of_mapping = isinstance(found, str) and dict in alternatives and not found.lstrip().startswith("{")
    if is_text_of_mapping and not os.path.isfile(found):
        raise ValueError(f"{key}: {shown_value(found)} is no mapping, and no JSON file that holds one")
    return found


def may_be_null(kind: Any) -> bool:
    """Whether a key of this annotation may have no value."""
    return None in [_plain(entry) for entry in _alternatives(kind)]


def check_numbers(key: str, value: Any) -> None:
    """
    Raises:
        ValueError: for a number, of a list too, that is not finite or out of the key's limits.
    """
    for number in filter(_is_number, value if isinstance(value, list) else [value]):
        low, high = LIMITS.get(key, (-MOST, MOST) if isinstance(number, int) else (-math.inf, math.inf))
        if not (low <= number <= high and (isinstance(number, int) or math.isfinite(number))):
            limits = f"from {low:,.12g} to {high:,.20g}" if high < FINITE else f"of {low:,.12g} or more"
            limits = limits if key in LIMITS or isinstance(number, int) else "that is finite"
            raise ValueError(f"{key}: {shown_value(number)} is out of range: give a number {limits}")


def check_text(key: str, value: Any) -> None:
    """
    Raises:
        ValueError: for text, in lists and mappings too, that no file and no column is called, or a number that is not
            finite.
    """
    if isinstance(value, list):
        for entry in value:
            check_text(key, entry)
    elif isinstance(value, dict):
        for pair in value.items():
            check_text(key, list(pair))
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{key}: {value} is not a finite number")
    elif isinstance(value, str):
        if len(value) > LONGEST_TEXT:
            raise ValueError(f"{key}: {shown_value(value)} has {len(value):,} characters: at most {LONGEST_TEXT:,}")
        if "\0" in value or (not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value)):
            raise ValueError(f"{key}: {shown_value(value)} holds a character that is none: leave it out")


def shown_value(value: Any) -> str:
    """A value for an error, its middle left out where it is longer than a line."""
    if isinstance(value, str):
        value = value if len(value) <= 200 else f"{value[:100]}...{value[-100:]}"
    elif isinstance(value, list) and len(value) > 40:
        value = [*value[:20], *value[-20:]]
    elif isinstance(value, int) and not isinstance(value, bool) and abs(value) > 10**300:
        return "a whole number of more than 300 digits"
    return shortened(repr(value), 80)


def _as_kind(value: Any, kind: Any) -> Any:
    """The value, converted where text stands for it, or MISSING."""
    alternatives = _alternatives(kind)
    for entry in alternatives:  # as it is
        if _is(value, entry):
            return value
    for entry in alternatives:
        found = _converted(value, entry)
        if found is not MISSING:
            return found
    return MISSING


def _plain(kind: Any) -> Any:
    """`dict` for `dict[str, Any]`, `None` for its type."""
    return None if kind is type(None) else get_origin(kind) or kind


def _alternatives(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def _is(value: Any, kind: Any) -> bool:
    if _plain(kind) is None:
        return value is None
    if get_origin(kind) is Literal:
        return any(type(value) is type(choice) and value == choice for choice in get_args(kind))
    if _plain(kind) is dict:
        return isinstance(value, dict) and all(isinstance(key, str) for key in value)
    return kind in (bool, int, float, str) and type(value) is kind


def _converted(value: Any, kind: Any) -> Any:
    if get_origin(kind) is list and isinstance(value, list):
        found = [_as_kind(entry, *get_args(kind)) for entry in value]
        return MISSING if MISSING in found else found
    if _is_enumeration(kind):
        return value if isinstance(value, str) and value in [entry.value for entry in kind] else MISSING
    if kind is bool and isinstance(value, str):
        return TRUTH.get(value.lower(), MISSING)
    if kind is float and type(value) is int:
        return value if abs(value) <= MOST else MISSING
    is_number = isinstance(value, str) and len(value) < 400 and NUMBER.fullmatch(value)
    if is_number and (kind is float or (kind is int and not set(".eE") & set(value))):
        return kind(value)
    return MISSING


def _is_enumeration(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Enum)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _named(kind: Any) -> str:
    """What a key may be, in words."""
    words = {str: "text", int: "a whole number", float: "a number", bool: "true or false", dict: "a mapping"}
    names = []
    for entry in _alternatives(kind):
        origin = get_origin(entry)
        if _plain(entry) is None:
            names.append("null")
        elif origin is Literal:
            names.append(f"one of {shown_names(map(str, get_args(entry)))}")
        elif origin is list:
            names.append(f"a list of {_named(get_args(entry)[0]).removeprefix('a ')}")
        elif _is_enumeration(entry):
            names.append(f"one of {shown_names(str(choice.value) for choice in entry)}")
        else:
            names.append(words.get(origin or entry, "what a configuration can hold"))
    return " or ".join(dict.fromkeys(names))
