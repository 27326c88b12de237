"""The files of a saved folder or of a repository on the Hub: whatever is wrong with one is told in one line that names
it and says what to do."""

import os
from typing import Any

import torch
from safetensors import safe_open

from .json_files import REMEDY, naming
from .json_files import DamagedFile as DamagedFile
from .json_files import read_json as read_json  # what reads a saved folder finds it here
from .sizes import LARGEST
from .transformers_bridge import cached_file

HUB_KEYS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")


def hub_place(kwargs: dict) -> dict:
    """Of the arguments of a `from_pretrained`, those that say where its files are."""
    return {name: kwargs[name] for name in HUB_KEYS if kwargs.get(name) is not None}


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


def set_token_ids(config: Any, *start_tokens: str) -> None:
    """
    Set the vocabulary of a configuration that is its codes alone, 0, 1, ..., level after level, then the start token
    and the padding token.

    Args:
        start_tokens: the names that the start token has.

    Raises:
        ValueError: without codebooks, for a size that is none, or for ids in the configuration that are others.
    """
    config.codebook_sizes = list(config.codebook_sizes)
    if not config.codebook_sizes:
        raise ValueError("codebook_sizes is empty: give the number of codes of each level.")
    for size in config.codebook_sizes:
        require_number("codebook_sizes", size, 1)
    codes = sum(config.codebook_sizes)
    for name, value in {
        **dict.fromkeys(start_tokens, codes),
        "pad_token_id": codes + 1,
        "vocab_size": codes + 2,
    }.items():
        if getattr(config, name) not in (None, value):
            raise ValueError(
                f"{name}={getattr(config, name)}: codebook_sizes={config.codebook_sizes} make it {value}, leave it out."
            )
        setattr(config, name, value)
