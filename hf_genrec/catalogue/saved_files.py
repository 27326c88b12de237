"""The files of a saved folder or of a repository on the Hub: whatever is wrong with one is told in one line that names
it and says what to do."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from safetensors import safe_open

from .transformers_bridge import cached_file

HUB_KEYS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")
REMEDY = "save or download it again"

# What a size of a model is at most: beyond it building one takes all memory, or never ends.
LARGEST = {
    "num_hidden_layers": 1_000,
    "num_encoder_layers": 1_000,
    "num_attention_heads": 2**16,
    "hidden_size": 2**16,
    "intermediate_size": 2**18,
    "reasoning_adapter_size": 2**16,
    "num_experts": 2**12,
    "num_queries": 2**10,
    "codebook_sizes": 2**20,
    "max_history": 2**20,
    "num_negatives": 2**24,
    "max_rollbacks": 1_000,
}


class DamagedFile(ValueError):
    """A saved file that is wrong, told in one line that names it."""


def hub_place(kwargs: dict) -> dict:
    """Of the arguments of a `from_pretrained`, those that say where its files are."""
    return {name: kwargs[name] for name in HUB_KEYS if kwargs.get(name) is not None}


@contextmanager
def naming(place: Any, remedy: str = REMEDY) -> Iterator[None]:
    """
    Whatever goes wrong meanwhile, in one line that names `place`, a file, folder or repository.

    Raises:
        DamagedFile, OSError: instead of any other error than one of memory or of a missing package.
    """
    try:
        yield
    except (DamagedFile, ImportError, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, OSError):
            if str(place) in reason and "\n" not in str(error):
                raise
            raise OSError(f"{place} cannot be read ({reason}): {remedy}.") from error
        raise DamagedFile(f"{place} is damaged ({reason}): {remedy}.") from error


def saved_file(folder: Any, name: str, required: bool = True, **place: Any) -> str | None:
    """
    Where a file of a saved folder lies, or of a repository on the Hub, from where it is downloaded.

    Args:
        place: see [`hub_place`].

    Returns:
        the path; `None` where there is no such file and it is not required.

    Raises:
        OSError: if it is missing, or the repository cannot be reached.
    """
    path: str | None
    if os.path.isdir(folder):
        path = os.path.join(folder, place.get("subfolder") or "", name)
        path = path if os.path.isfile(path) else None
    else:
        with naming(folder, "check its name and your connection"):
            path = cached_file(folder, name, _raise_exceptions_for_missing_entries=False, **place)
    if path is None and required:
        where = os.path.join(folder, place["subfolder"]) if place.get("subfolder") else folder
        remedy = REMEDY if os.path.isdir(folder) else "check that it is a folder, or a repository that can be reached"
        raise FileNotFoundError(f"{where} holds no {name}: {remedy}.")
    return path


def read_json(path: str) -> dict[str, Any]:
    """
    The object in a JSON file.

    Raises:
        DamagedFile: if it holds anything else, or NaN or Infinity.
    """
    with naming(path), open(path, encoding="utf-8") as file:
        content = json.load(file, parse_constant=_no_constant)
        if not isinstance(content, dict):
            raise ValueError("it holds no JSON object")
    return content


def _no_constant(name: str):
    raise ValueError(f"it holds {name}, which is no JSON")


def load_tensors(path: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """
    A safetensors file: its tensors by name, mapped, and its metadata.

    Raises:
        DamagedFile: if it is truncated or damaged.
    """
    with naming(path), safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118


def require_number(name: str, value: Any, low: float, high: float | None = None, whole: bool = True) -> None:
    """
    Raises:
        ValueError: if `value` is no number, no whole one where it must be, or not from `low` to `high`, by default
            that of [`LARGEST`].
    """
    high = LARGEST.get(name) if high is None else high
    kinds = (int,) if whole else (int, float)
    if (
        not isinstance(value, kinds)
        or isinstance(value, bool)
        or not low <= value <= (float("inf") if high is None else high)
    ):
        upper = "" if high is None else f" and at most {high:,}"
        raise ValueError(f"{name}={value!r}: give at least {low}{upper}{', a whole number' if whole else ''}.")
