"""From tables in memory to a trained run: what `prepare`, `tokenize` and `train` do, in one call."""

import logging
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from hf_genrec.cells import shown_names
from hf_genrec.data.tables import as_arrow, holds_numbers, is_path, write_parquet
from hf_genrec.dataset_scripts.places import existing_file
from hf_genrec.files import whole_file, working_in
from hf_genrec.method import default_method, load_method
from hf_genrec.run import INTERACTIONS_FILE, ITEMS_FILE, SOURCE, Run
from hf_genrec.terminal import quiet
from hf_genrec.trainers import evaluate_run, prepare_data, tokenize_items, train, train_teachers
from hf_genrec.training.config import RunConfig, find_config, parse_config
from hf_genrec.training.lineage import require_prepared, require_tokenized
from hf_genrec.training.plain_yaml import read_yaml
from hf_genrec.training.run_folder import RunFolder

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.yaml"
SET_HERE = ("source", "source_path", "item_path", "output_dir", "method")
# Where no column is named, the first of these that the table has; the first one is what the commands take.
COLUMNS = {
    "user_column": ("user_id", "user"),
    "item_column": ("item_id", "item"),
    "time_column": ("timestamp", "datetime", "time"),
}


def fit(
    interactions: Any,
    items: Any = None,
    method: str | None = None,
    output_dir: str | Path | None = None,
    config: str | Path | None = None,
    evaluate: str | None = None,
    overwrite: bool = False,
    verbose: bool = True,
    **settings: Any,
) -> Run:
    """[`hf_genrec.fit`], which says what the arguments are."""
    if verbose:
        quiet()
    base = {} if config is None else read_yaml(find_config(str(config)))
    method = base.get("method", default_method()) if method is None else method
    load_method(method)
    if base.get("method", method) != method:
        raise ValueError(f"method={method!r}, and {config} is of method {base['method']}: leave one of them out")
    if evaluate not in (None, "test", "validation"):
        raise ValueError(f"evaluate={evaluate!r}: use 'test' or 'validation', or leave it out")
    for name in SET_HERE:
        if name in settings:
            raise ValueError(f"{name} follows from the other arguments: leave it out")
    run = RunFolder(Path(f"runs/{method}" if output_dir is None else output_dir))
    resume = settings.get("resume_from_checkpoint") is not None
    _require_room(run, overwrite or resume)

    given = {"interactions": interactions} | ({} if items is None else {"items": items})
    places = {"interactions": run.path / SOURCE / INTERACTIONS_FILE, "items": run.path / SOURCE / ITEMS_FILE}
    tables = {name: as_arrow(table, name) for name, table in given.items() if not is_path(table)}
    files = {name: existing_file(table, name) for name, table in given.items() if is_path(table)}
    places = {name: files.get(name, places[name]) for name in given}
    names = {name: tables[name].column_names if name in tables else _columns(files[name]) for name in given}
    wanted = base | {
        "method": method,
        "source": "tabular",
        "source_path": str(places["interactions"]),
        "item_path": str(places["items"]) if items is not None else None,
        "output_dir": str(run.path),
        **_column_names(names, base | settings),
        **settings,
    }
    text = yaml.safe_dump({key: _plain(value, key) for key, value in wanted.items()}, sort_keys=False)
    parsed = _parsed(text)

    if overwrite and not resume and (run.data / "prepare.json").is_file():
        for part in (run.data, run.teachers, run.semantic_ids, run.checkpoints, run.model, run.results):
            shutil.rmtree(part, ignore_errors=True)
    with working_in(run.path):
        for name, table in tables.items():
            write_parquet(table, places[name])
        with whole_file(run.path / CONFIG_FILE) as path:
            path.write_text(f"# hf-genrec train --config {run.path / CONFIG_FILE}\n{text}", encoding="utf-8")
    if "interactions" in tables:
        for column in (parsed.data.user_column, parsed.data.item_column):
            if holds_numbers(tables["interactions"].schema, column):
                logger.info("ids in %r are numbers: text in the library, numbers again in DataFrames", column)
    try:
        prepare_data.main(parsed)
    except ValueError as error:
        line = str(error)
        for name in tables:  # not the file they were written to
            line = line.replace(str(places[name].absolute()), name).replace(str(places[name]), name)
        raise ValueError(line) from error
    if parsed.training.teachers:
        train_teachers.main(parsed)
    _tokenize_and_train(parsed, resume)
    if evaluate is not None:
        evaluate_run.main(str(run.path), evaluate)
    return Run(run.path)


def _require_room(run: RunFolder, may_hold_a_run: bool) -> None:
    if may_hold_a_run:
        return
    if (run.model / "config.json").is_file() or any(run.checkpoints.glob("*")):
        raise ValueError(
            f"{run.path} holds a run already: hf_genrec.Run({str(run.path)!r}) opens it, overwrite=True trains anew, "
            f"another output_dir keeps it"
        )


def _columns(path: Path) -> list[str]:
    from hf_genrec.dataset_scripts.tabular import open_table

    return open_table(path).columns


def _column_names(names: Mapping[str, Sequence[str]], settings: Mapping[str, Any]) -> dict[str, str]:
    """
    The settings of the columns that are not named.

    Raises:
        ValueError: for a column that is not there.
    """
    found: dict[str, str] = {}
    for key, usual in COLUMNS.items():
        of_log = names["interactions"]
        column = settings.get(key, next((name for name in usual if name in of_log), usual[0]))
        if column is None and key == "time_column":
            continue  # the order of the rows
        found[key] = column
        for table in ("interactions", "items") if key == "item_column" else ("interactions",):
            if table in names and column not in names[table]:
                remedy = f"name it by {key}=" + (", None if the rows are in order" if key == "time_column" else "")
                raise ValueError(
                    f"{table}: no column {column!r} ({key}); columns found: {shown_names(names[table])}: "
                    + (remedy if table == "interactions" else "name the column of ids as in the interactions")
                )
    return found


def _plain(value: Any, key: str) -> Any:
    """
    A setting as YAML has it: paths as text, numbers of numpy as Python's, tuples as lists.

    Raises:
        ValueError: for anything else.
    """
    value = value.item() if getattr(value, "ndim", None) == 0 else value
    if isinstance(value, Mapping):
        return {str(name): _plain(part, key) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part, key) for part in value]
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, str | int | float | date):
        return value
    raise ValueError(f"setting {key!r} is a {type(value).__name__}: give text, a number, truth, None or a list of them")


def _parsed(text: str) -> RunConfig:
    """
    Raises:
        ValueError: as [`parse_config`].
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / CONFIG_FILE
        path.write_text(text, encoding="utf-8")
        try:
            return parse_config(str(path))
        except ValueError as error:
            raise ValueError(str(error).replace(str(path), "fit").replace("key '", "setting '")) from error


def _tokenize_and_train(config: RunConfig, resume: bool) -> None:
    if load_method(config.model.method).codes is not None:
        try:
            made = resume and require_tokenized(config, require_prepared(config))
        except (ValueError, FileNotFoundError):
            made = False
        if not made:
            tokenize_items.main(config)
    train.main(config)
