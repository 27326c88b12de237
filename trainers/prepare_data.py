"""Interaction log and item text -> sequences and splits, in the run folder's `data/`.

python -m hf_genrec.trainers.prepare_data --config NAME
hf-genrec prepare --config NAME
hf-genrec prepare --source tabular --source_path log.csv --item_path items.csv --output_dir runs/mine
"""

import logging
import sys
from typing import Any

from hf_genrec.data.duckdb_engine import duckdb_engine
from hf_genrec.data.preparation import prepare
from hf_genrec.data.prepared import PreparedData
from hf_genrec.dataset_scripts import load_items, load_source
from hf_genrec.dataset_scripts.whole_logs import require_rows, whole_log
from hf_genrec.files import require_writable, working_in
from hf_genrec.pictures import IMAGE
from hf_genrec.semantic_ids.text import DEFAULT_COLUMNS
from hf_genrec.terminal import shown
from hf_genrec.training.config import RunConfig, parse_command_line
from hf_genrec.training.lineage import read_from
from hf_genrec.training.processes import require_one_process

logger = logging.getLogger(__name__)

ENGINE_FOLDER = ".prepare"  # in the run folder, while the command is at work


def main(config: RunConfig) -> PreparedData:
    """Read the source, filter, split, and save."""
    require_one_process("prepare")
    require_writable(config.run.path)
    with working_in(config.run.path):
        with _engine(config) as engine:
            log = whole_log(config.data, engine)
            if log is None and config.data.engine == "spark":
                require_rows(config.data)
            if log is None:
                tables = load_source(config.data)
                prepared = prepare(tables["interactions"], tables["items"], config.data)
            else:
                items = load_items(config.data) if log.items is None else log.items
                prepared = prepare(log.interactions, items, config.data, engine.collect)
        prepared.report["sources"] = read_from(config.data)
        prepared.save(config.run.data)
    logger.info(
        "%s: %d users, %d items, %d interactions; %d validation and %d test users",
        config.run.data,
        len(prepared.user_ids),
        len(prepared.item_ids),
        prepared.sequences.lengths.sum(),
        (prepared.num_validation > 0).sum(),
        (prepared.num_test > 0).sum(),
    )
    _say_what_is_no_text(prepared, config)
    return prepared


def _engine(config: RunConfig) -> Any:
    folder = config.run.path / ENGINE_FOLDER
    if config.data.engine == "duckdb":
        return duckdb_engine(folder)
    from hf_genrec.data.spark_engine import spark_engine

    return spark_engine(folder, config.data.master)


def _say_what_is_no_text(prepared: PreparedData, config: RunConfig) -> None:
    """Columns of an own table of items that no key names are kept, and not read: nobody should have to find out."""
    if config.data.item_path is None or config.tokenizer.text_columns is not None:
        return
    others = [name for name in prepared.items.column_names if name not in ("item_id", IMAGE, *DEFAULT_COLUMNS)]
    if "title" not in prepared.items.column_names or prepared.items["title"].null_count == len(prepared.items):
        known = f" (columns: {shown(', '.join(others))})" if others else ""
        logger.warning("no item has a title, and its id stands for it: name the column by title_column%s", known)
    elif others:
        logger.info(
            "the items' columns %s are kept, and not part of their text: text_columns, description_column or "
            "categories_column names them",
            shown(", ".join(others)),
        )


if __name__ == "__main__":
    main(parse_command_line(sys.argv[1:]))
