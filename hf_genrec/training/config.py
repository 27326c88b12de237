"""One flat YAML for prepare, tokenize, train and evaluate."""

import difflib
import logging
from dataclasses import dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from hf_genrec.data.arguments import DataArguments
from hf_genrec.semantic_ids.arguments import TokenizerArguments
from hf_genrec.training.arguments import CareArguments, GenRecTrainingArguments

ARGUMENT_CLASSES: tuple[Any, ...] = (DataArguments, TokenizerArguments, CareArguments, GenRecTrainingArguments)


@dataclass
class RunConfig:
    """The four groups of arguments of a run, and where its parts stand."""

    data: DataArguments
    tokenizer: TokenizerArguments
    model: CareArguments
    training: GenRecTrainingArguments

    @property
    def run(self) -> "RunFolder":
        return RunFolder(Path(str(self.training.output_dir)))


@dataclass
class RunFolder:
    """A run: `data/`, `semantic_ids/`, `checkpoints/` (read only to resume), `model/` (what is loaded and pushed), "
    "`results/`."""

    path: Path

    @property
    def data(self) -> Path:
        return self.path / "data"

    @property
    def semantic_ids(self) -> Path:
        return self.path / "semantic_ids"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def results(self) -> Path:
        return self.path / "results"

    def require_model(self) -> Path:
        """
        The model's folder.

        Raises:
            FileNotFoundError: if the run has none.
        """
        if not (self.model / "config.json").is_file():
            raise FileNotFoundError(f"{self.path} holds no trained model: run `hf-genrec train` first")
        return self.model


def shipped_configs() -> dict[str, Path]:
    """The configurations that come with the package by name, e.g. `care/ml-100k`."""
    root = Path(str(files("hf_genrec.configs")))
    return {
        path.relative_to(root).with_suffix("").as_posix(): path
        for path in sorted(root.glob("*/*.yaml"))
        if path.parent.name != "accelerate"
    }


def find_config(name_or_path: str) -> Path:
    """
    The file of a configuration given by path or by shipped name.

    Raises:
        FileNotFoundError: if there is neither, with the names that exist.
    """
    path = Path(name_or_path)
    if path.is_file():
        return path
    shipped = shipped_configs()
    if name_or_path in shipped:
        return shipped[name_or_path]
    raise FileNotFoundError(
        f"there is no file and no shipped configuration {name_or_path!r}; shipped: {', '.join(shipped)}"
    )


def parse_config(name_or_path: str | None, overrides: list[str] | None = None) -> RunConfig:
    """
    Read a YAML file (or none) and `--key value` overrides into the argument classes.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: for a key no argument class has, or a value it refuses; names the file.
    """
    from trl import TrlParser

    arguments = list(overrides or [])
    place = "command line"
    known = sorted({field.name for cls in ARGUMENT_CLASSES for field in fields(cls) if field.init})
    if name_or_path is not None:
        path = find_config(name_or_path)
        place = str(path)
        _check_keys(path, known)
        arguments += ["--config", str(path)]
    for argument in overrides or []:
        key = argument.removeprefix("--").split("=")[0].replace("-", "_")
        if argument.startswith("--") and key.removeprefix("no_") not in known:
            raise ValueError(f"command line: unknown option {argument}{_suggestion(key, known)}")
    parser = TrlParser(dataclass_types=list(ARGUMENT_CLASSES))
    parser.error = _raise_value_error  # type: ignore[method-assign]  # argparse would print two hundred options and exit
    try:
        return RunConfig(*parser.parse_args_and_config(arguments))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{place}: {str(error).splitlines()[0]}") from error


def _raise_value_error(message: str):
    raise ValueError(message)


def _check_keys(path: Path, known: list[str]) -> None:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must be a mapping of keys to values")
    for key in content:
        if key not in known:
            raise ValueError(f"{path}: unknown key {key!r}{_suggestion(str(key), known)}")


def _suggestion(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    return f", did you mean {close[0]!r}?" if close else ""


def parse_command_line(arguments: list[str]) -> RunConfig:
    """`--config NAME_OR_PATH` and `--key value` overrides, as the programs in `trainers/` take them; logs go to the "
    "terminal."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    arguments = list(arguments)
    name = None
    if "--config" in arguments:
        place = arguments.index("--config")
        if place + 1 == len(arguments):
            raise ValueError("--config needs a file or the name of a shipped configuration")
        name = arguments[place + 1]
        del arguments[place : place + 2]
    return parse_config(name, arguments)
