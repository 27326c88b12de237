"""Recommendations and vectors for all rows of Parquet files, part by part: `recommend --all-users` and `embed`.

A part is a whole number of rows, is written whole, and is the same wherever and whenever it is made. So a restart makes
only what is missing, and so can other processes (`ray_batch.py`).
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from hf_genrec.data.prepared import ITEMS_FILE
from hf_genrec.method import read_config
from hf_genrec.serving.batch_work import (
    Advance,
    ItemVectors,
    Recommend,
    TextVectors,
    UserVectors,
    Work,
    history_rows,
    item_rows,
    require_vectors,
    text_rows,
)
from hf_genrec.serving.part_folder import PartFolder, write_part
from hf_genrec.serving.row_source import PartReader, RowSource
from hf_genrec.terminal import shown
from hf_genrec.training.run_folder import RunFolder

logger = logging.getLogger(__name__)

PART_SIZE = 5000
MOST_PARTS = 100_000  # the names of more would not stand in their order


def recommend_users(
    run_folder: str | Path,
    output: str | Path | None = None,
    *,
    k: int = 10,
    exclude_seen: bool | None = None,
    unknown: str = "raise",
    histories: str | Path | None = None,
    index: bool = False,
    **how: Any,
) -> str:
    """
    Recommendations for all users of a run's data, or of a Parquet file of histories; see [`Recommend`].

    Args:
        output: folder of the parts; by default `recommendations/` of the run.
        exclude_seen: leave out the items of the history; by default what the model's `recommend` does.
        histories: Parquet file or folder with user_id and item_ids (a list, oldest first) in the place of the data.
        index: lists are made by the run's `ItemIndex`.
        how: `part_size`, `engine` and `workers`, see [`run`].

    Returns:
        a line that says what was made.

    Raises:
        FileNotFoundError, ValueError, OSError: no trained model, or no index; or as [`run`].
    """
    folder = RunFolder(Path(run_folder))
    model = folder.require_model().absolute()
    if exclude_seen is None:
        exclude_seen = read_config(model, "processor_config.json").get("exclude_seen", False)
    work = Recommend(model, k, exclude_seen, unknown, index)
    return _made(work, history_rows(folder, histories), Path(output or folder.path / work.name), **how)


def embed(
    source: str | Path,
    vectors: str = "text",
    output: str | Path | None = None,
    *,
    histories: str | Path | None = None,
    unknown: str = "raise",
    text_model: str = "minilm",
    text_columns: Sequence[str] | None = None,
    **how: Any,
) -> str:
    """
    Vectors of items or users.

    Args:
        source: a Parquet file or folder of items, or a run folder, whose items or users are meant.
        vectors: `"text"` of the items' text; `"users"` or `"items"` of the run's model.
        output: folder of the parts; by default `embeddings/<vectors>` of the run.
        histories: of the users, as for [`recommend_users`].
        how: `part_size`, `engine` and `workers`, see [`run`].

    Returns:
        a line that says what was made.

    Raises:
        FileNotFoundError, ValueError, OSError: vectors the model does not have, an output that is not named; or as
            [`run`].
    """
    if vectors not in ("text", "users", "items"):
        raise ValueError(f"vectors {vectors!r}: use text, users or items")
    if vectors != "users" and (histories is not None or unknown != "raise"):
        raise ValueError("histories and unknown are for the vectors of users: leave them out")
    if vectors != "text" and (text_columns or text_model != "minilm"):
        raise ValueError("text_model and text_columns are for the vectors of text: leave them out")
    run_folder = RunFolder(Path(source))
    is_run = (run_folder.data / ITEMS_FILE).is_file() or (run_folder.model / "config.json").is_file()
    if output is None and not is_run:
        raise ValueError(f"{source} is no run folder: name a folder for the result as --output")
    folder = Path(output or run_folder.path / "embeddings" / vectors)
    if vectors == "text":
        place = run_folder.data / ITEMS_FILE if is_run else Path(source)
        rows = text_rows(place, text_columns)
        if Path(text_model).is_dir():
            text_model = str(Path(text_model).absolute())
        return _made(TextVectors(text_model, tuple(rows.roles)[1:]), rows, folder, **how)
    model = run_folder.require_model().absolute()
    require_vectors(model)
    if vectors == "items":
        return _made(ItemVectors(model), item_rows(run_folder), folder, **how)
    return _made(UserVectors(model, unknown), history_rows(run_folder, histories), folder, **how)


def _made(work: Work, rows: RowSource, folder: Path, part_size: int = PART_SIZE, **how: Any) -> str:
    manifest = run(Batch(work, rows, folder, part_size), **how)
    line = f"{folder}: {manifest[work.unit]} {work.unit}, {manifest['rows']} rows, {manifest['parts']} parts"
    told = {
        "unknown_items": "unknown items left out",
        "users_without_items": "users without any item",
        "items_without_text": "items without text, whose id stands in",
    }
    return shown(line + "".join(f", {manifest[key]} {text}" for key, text in told.items() if manifest.get(key)))


@dataclass(frozen=True)
class Batch:
    """
    Work to be done for the rows of a source.

    Attributes:
        folder: where the parts go.
        part_size: rows a part.
    """

    work: Work
    source: RowSource
    folder: Path
    part_size: int = PART_SIZE

    def settings(self) -> dict[str, Any]:
        """What decides the parts."""
        return {**self.work.settings(), "rows_from": self.source.fingerprint(), "part_size": self.part_size}


class PartMaker:
    """
    Makes and writes parts of a batch by their number; the model is loaded once.

    Raises:
        ValueError: the files are not those of the `settings`: they have changed, or are others on this machine.
    """

    def __init__(self, batch: Batch, settings: Mapping[str, Any]):
        self.batch = batch
        self._rows, self._make = PartReader(batch.source, batch.part_size), batch.work.open()
        changed = [name for name, value in batch.settings().items() if value != settings[name]]
        if changed:
            raise ValueError(f"{changed[0]} is not what it was when the command began: give it again")

    def __call__(self, number: int, advance: Advance = lambda rows: None) -> dict[str, Any]:
        """The record of the part, see [`write_part`]."""
        rows = self._rows(number)
        table, counts = self._make(rows, advance)
        return write_part(self.batch.folder, number, table, {self.batch.work.unit: rows.num_rows, **counts})


def here(
    batch: Batch, settings: Mapping[str, Any], numbers: Sequence[int], advance: Advance
) -> Iterator[dict[str, Any]]:
    """The records of parts, made one after the other in this process."""
    make = PartMaker(batch, settings)
    for number in numbers:
        yield make(number, advance)


def run(batch: Batch, engine: str = "local", workers: int | None = None) -> dict[str, Any]:
    """
    Make the parts that are missing.

    Args:
        engine: `"local"`, this process; or `"ray"`, actors on the Ray cluster that RAY_ADDRESS names, or on this
            machine. All of them must see the same files.
        workers: how many actors; by default as many as the cluster has cores for.

    Returns:
        the manifest: the settings, and how many rows there are of what.

    Raises:
        FileNotFoundError, ValueError: rows that cannot be read, or a folder that holds something else; names it.
        OSError: another process is at work in the folder.
    """
    if batch.part_size < 1:
        raise ValueError(f"part_size {batch.part_size}: give at least 1 row a part")
    if engine not in ("local", "ray"):
        raise ValueError(f"engine {engine!r}: use local or ray")
    if workers is not None and (engine == "local" or workers < 1):
        raise ValueError(f"workers {workers}: " + ("for --engine ray alone" if engine == "local" else "at least 1"))
    num_rows = batch.source.check()
    if not num_rows:
        raise ValueError(f"{batch.source.path} holds no rows: there is nothing to do")
    if num_rows > MOST_PARTS * batch.part_size:
        raise ValueError(f"{num_rows} rows are too many for parts of {batch.part_size}: give a larger part_size")
    work, unit = batch.work, batch.work.unit
    folder = PartFolder(batch.folder.absolute(), work.name, batch.settings(), unit, num_rows, work.counts)
    batch = Batch(work, RowSource(batch.source.path.absolute(), batch.source.roles), folder.path, batch.part_size)
    with folder.at_work():
        done = sum(record[unit] for record in folder.records.values())
        if getattr(work, "unknown", "skip") == "raise" and any(map(_left_out, folder.records.values())):
            raise ValueError(
                f"{folder.path} was made with --unknown skip, and items were left out: give it again, or name another "
                f"folder as --output"
            )
        if folder.records:
            logger.info("%s: %d of %d parts are finished", folder.path, len(folder.records), folder.num_parts)
        if folder.missing:
            with tqdm(total=num_rows, initial=done, desc=work.name, unit=f" {unit}") as bar:
                make = here if engine == "local" else _on_ray(workers)
                for record in make(batch, folder.settings, folder.missing, bar.update):
                    folder.add(record)
        return folder.finish()


def _left_out(record: dict[str, Any]) -> int:
    return record.get("unknown_items", 0)


def _on_ray(workers: int | None) -> Callable[..., Iterator[dict[str, Any]]]:
    from hf_genrec.serving.ray_batch import on_ray

    return partial(on_ray, workers=workers)
