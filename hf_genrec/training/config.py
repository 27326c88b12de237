"""One flat YAML for prepare, tokenize, train and evaluate."""

import argparse
import difflib
import logging
from collections.abc import Callable
from dataclasses import dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_genrec.cells import shortened
from hf_genrec.data.arguments import DataArguments
from hf_genrec.method import default_method, load_method, methods
from hf_genrec.semantic_ids.arguments import TokenizerArguments
from hf_genrec.terminal import log_to_terminal
from hf_genrec.training.given_values import check_text, checked_value, kinds_of, may_be_null, shown_value
from hf_genrec.training.known_keys import DeclaredArguments
from hf_genrec.training.option_help import option_help, own_fields
from hf_genrec.training.plain_yaml import read_yaml
from hf_genrec.training.run_folder import RunFolder
from hf_genrec.training.teachers import TEACHER_KEYS, name_teachers, teachers_folder

# torch, transformers and trl are imported where arguments are made of the keys, which are checked before.
if TYPE_CHECKING:
    from hf_genrec.training.arguments import GenRecTrainingArguments

TRAINING_ARGUMENTS = DeclaredArguments(
    "hf_genrec.training.arguments.GenRecTrainingArguments", "transformers.training_args.TrainingArguments"
)

# Of the shared argument classes, the keys that only items with semantic IDs have a use for.
SEMANTIC_ID_KEYS = {field.name for field in fields(TokenizerArguments)} - {
    "text_model",
    "text_columns",
    "embeddings_path",
    "embeddings_id_column",
}
SEMANTIC_ID_KEYS |= {"codes_path", "packed_row_tokens", "dense_run", "dense_run_weight"}

# Of the training's, those that models with [`code_loss`] have a use for.
SOFT_TARGET_KEYS = {"soft_targets_run", "soft_targets_weight", "soft_targets_temperature"}
SOFT_TARGET_KEYS |= {"soft_targets_loss", "legal_codes_only", "legal_codes_temperature"}


@dataclass(frozen=True)
class Kind:
    """What may stand in a configuration: the fields of `classes` ([`DeclaredArguments`] some) without `unused_keys`."""

    classes: list[Any]
    unused_keys: frozenset[str] = frozenset()

    def known_keys(self) -> set[str]:
        keys = (
            cls.keys() if isinstance(cls, DeclaredArguments) else {entry.name for entry in fields(cls) if entry.init}
            for cls in self.classes
        )
        return set().union(*keys) - self.unused_keys


@dataclass
class RunConfig:
    """The four groups of arguments of a run, and where its parts stand."""

    data: DataArguments
    tokenizer: TokenizerArguments
    model: Any  # of the method's own class
    training: "GenRecTrainingArguments"
    given: frozenset[str] = frozenset()  # the keys that are written in the configuration or on the command line

    @property
    def run(self) -> "RunFolder":
        return RunFolder(Path(str(self.training.output_dir)))

    @property
    def teachers_dir(self) -> Path:
        """Where the runs of `teachers` stand."""
        return teachers_folder(self.run, self.training.teachers_dir)


def shipped_configs(post_training: bool = False) -> dict[str, Path]:
    """The configurations that come with the package by name, `<method>/<data>`; or of post-training, `grpo/<data>`."""
    root = Path(str(files("hf_genrec.configs")))
    return {
        path.relative_to(root).with_suffix("").as_posix(): path
        for path in sorted(root.glob("*/*.yaml"))
        if path.parent.name != "accelerate" and (path.parent.name == "grpo") == post_training
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
    shipped = shipped_configs() | shipped_configs(post_training=True)
    if name_or_path in shipped:
        return shipped[name_or_path]
    raise FileNotFoundError(
        f"there is no file and no shipped configuration {name_or_path!r}; shipped: {', '.join(shipped)}"
    )


def parse_config(name_or_path: str | None, overrides: list[str] | None = None) -> RunConfig:
    """
    Read a YAML file (or none) and `--key value` overrides into the argument classes, the model's by `method`.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: for a key no argument class has, a key of another method, or a value they refuse; names the file.
    """
    given = frozenset(check_keys(name_or_path, overrides))
    data, tokenizer, model, training = parse_arguments(name_or_path, overrides, _run_kinds(), default_method())
    config = RunConfig(data, tokenizer, model, training, given)
    for arguments in (tokenizer, model, training):
        name_teachers(arguments, training.teachers or {}, config.teachers_dir)
    return config


def run_options(command: str, name_or_path: str | None, overrides: list[str]) -> str:
    """
    The keys that `prepare`, `teachers`, `tokenize` or `train` reads, for people: those of the method that is named in
    the configuration or by `--method`.
    """
    training_arguments = TRAINING_ARGUMENTS.load()
    content = {} if name_or_path is None else read_yaml(find_config(name_or_path))
    name = _method(name_or_path or "command line", content, overrides, methods(), default_method())
    method, kind = load_method(name), _run_kinds()[name]
    groups: dict[str, dict[str, Any]] = {
        "prepare": {"Data": DataArguments},
        "teachers": {},
        "tokenize": {"Semantic IDs": TokenizerArguments},
        "train": {
            f"{method.title} (--method {name}, of {', '.join(methods())})": method.arguments,
            "Training (and all of transformers' TrainingArguments)": training_arguments,
        },
    }
    known = kind.known_keys()
    listed = {
        title: [entry for entry in own_fields(cls) if entry.name in known] for title, cls in groups[command].items()
    }
    if command != "train":
        of_run = TEACHER_KEYS | {"output_dir"} if command == "teachers" else {"output_dir"}
        listed["Run"] = [entry for entry in own_fields(training_arguments) if entry.name in of_run]
    return option_help({title: entries for title, entries in listed.items() if entries})


def _run_kinds() -> dict[str, Kind]:
    """The configurations of runs by method."""
    kinds = {}
    for name in methods():
        method = load_method(name)
        classes = [DataArguments, TokenizerArguments, method.arguments, TRAINING_ARGUMENTS]
        unused = method.unused_keys if method.codes else method.unused_keys | SEMANTIC_ID_KEYS
        unused = unused if method.soft_targets else unused | SOFT_TARGET_KEYS
        kinds[name] = Kind(classes, frozenset(unused))
    return kinds


def check_keys(
    name_or_path: str | None, overrides: list[str] | None, kinds: "dict[str, Kind] | None" = None, default: str = ""
) -> dict[str, Any]:
    """
    What a configuration and `--key value` overrides say, as it is written there; nothing slow is imported.

    Args:
        kinds, default: see [`parse_arguments`]; by default those of a run.

    Returns:
        the values by key, `method` among them.

    Raises:
        FileNotFoundError, ValueError: as [`parse_config`]; of values, those that the classes which are quick to import
            refuse by their annotations.
    """
    kinds, default = (_run_kinds(), default_method()) if kinds is None else (kinds, default)
    place, content = "command line", {}
    if name_or_path is not None:
        path = find_config(name_or_path)
        place, content = str(path), read_yaml(path)
    arguments = list(overrides or [])
    method = _method(place, content, arguments, list(kinds), default)
    for key in content:
        _check_key(place, f"key {shown_value(key)}", str(key), method, kinds[method])
    quick = [cls for cls in kinds[method].classes if not isinstance(cls, DeclaredArguments)]
    content = _checked_values(place, content, kinds_of(quick))
    said: dict[str, Any] = {}
    for number, argument in enumerate(arguments):
        if argument.startswith("--"):
            key, _, value = argument.removeprefix("--").partition("=")
            key = key.replace("-", "_").removeprefix("no_")
            _check_key("command line", f"option {shortened(argument, 80)}", key, method, kinds[method])
            said[key] = value or next(iter(arguments[number + 1 :]), "")
    found = content | said | {"method": method}
    if isinstance(found.get("output_dir"), str) and not found["output_dir"].strip():
        place = "command line" if "output_dir" in said else place
        raise ValueError(f"{place}: output_dir is empty: name the run folder, for instance runs/mine")
    return found


def parse_arguments(
    name_or_path: str | None, overrides: list[str] | None, kinds: dict[str, Kind], default: str
) -> tuple[Any, ...]:
    """
    An object per class of the kind that `method` names.

    Args:
        kinds: by the names that `method` may have.
        default: where it is not said.

    Raises:
        FileNotFoundError, ValueError: as [`parse_config`].
    """
    method = check_keys(name_or_path, overrides, kinds, default)["method"]
    from trl import TrlParser

    place, content = "command line", {}
    if name_or_path is not None:
        path = find_config(name_or_path)
        place, content = str(path), read_yaml(path)
    classes = [cls.load() if isinstance(cls, DeclaredArguments) else cls for cls in kinds[method].classes]
    known = kinds_of(classes)
    options, nulls = _without_nulls(list(overrides or []), known)
    content = _checked_values(place, content | nulls, known)
    try:
        parser = TrlParser(classes)
        parser.error = _raise_value_error  # type: ignore[method-assign]  # argparse would print all options and exit
        parser.set_defaults_with_config(**content)
        for key, value in vars(parser.parse_known_args(options)[0]).items():
            if value != parser.get_default(key):  # an option
                checked_value(key, value, known[key])
        return parser.parse_args_into_dataclasses(options, look_for_args_file=False)
    except ImportError:
        raise
    except Exception as error:  # also of transformers and trl, whose classes check by using the values
        reason = shortened(" ".join(str(error).split()), 400)
        if not isinstance(error, ValueError | OSError | RuntimeError) or not reason:
            reason = f"values that cannot be used ({type(error).__name__}: {reason})"
        raise ValueError(f"{place}: {reason}") from error


def _without_nulls(options: list[str], known: dict[str, Any]) -> tuple[list[str], dict[str, None]]:
    """Options without those that are `null`, and the keys of these, where `key: null` may stand in a configuration."""
    rest: list[str] = []
    nulls: dict[str, None] = {}
    place = 0
    while place < len(options):
        name, equals, value = options[place].partition("=")
        key = name.removeprefix("--").replace("-", "_")
        said = [value] if equals else options[place + 1 : place + 2]
        if name.startswith("--") and said == ["null"] and key in known and may_be_null(known[key]):
            nulls[key] = None
            place += 1 if equals else 2
        else:
            rest.append(options[place])
            place += 1
    return rest, nulls


def _checked_values(place: str, content: dict, known: dict[str, Any]) -> dict:
    """The values of a configuration, as their keys have them; those of keys that are not `known` as they are."""
    found = {}
    for key, value in content.items():
        try:
            if key in known:
                value = checked_value(key, value, known[key])
            check_text(key, value)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from None
        found[key] = value
    return found


def _raise_value_error(message: str):
    raise ValueError(message)


def _method(place: str, content: dict, overrides: list[str], names: list[str], default: str) -> str:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--method", default=content.get("method", default))
    parser.error = _raise_value_error  # type: ignore[method-assign]
    method = parser.parse_known_args(overrides)[0].method
    if method not in names:
        raise ValueError(f"{place}: method: {shown_value(method)} is not one of {', '.join(names)}")
    of_file = content.get("method", method)
    if of_file in names and of_file != method:
        raise ValueError(
            f"{place}: method: {of_file}, and the option --method says {method}: leave the option out, or give a "
            f"configuration of {method}"
        )
    return method


def _check_key(place: str, shown: str, key: str, method: str, kind: Kind) -> None:
    known = kind.known_keys()
    if key in known:
        return
    for other, of_other in _run_kinds().items():
        if key in of_other.known_keys():
            raise ValueError(f"{place}: {shown} belongs to method: {other}, and this is method: {method}")
    close = difflib.get_close_matches(key, sorted(known), n=1)
    raise ValueError(f"{place}: unknown {shown}" + (f", did you mean {close[0]!r}?" if close else ""))


def parse_command_line(arguments: list[str], parse: Callable[[str | None, list[str]], Any] = parse_config) -> Any:
    """`--config NAME_OR_PATH` and `--key value` overrides, as the programs in `trainers/` take them; logs go to the
    terminal."""
    log_to_terminal(logging.INFO)
    arguments = list(arguments)
    name = None
    if "--config" in arguments:
        place = arguments.index("--config")
        if place + 1 == len(arguments):
            raise ValueError("--config needs a file or the name of a shipped configuration")
        name = arguments[place + 1]
        del arguments[place : place + 2]
    return parse(name, arguments)
