"""Runs of a configuration, from wherever an earlier attempt ended."""

from hf_genrec.data.prepared import REPORT_FILE
from hf_genrec.trainers import prepare_data, tokenize_items, train
from hf_genrec.training.config import RunConfig
from hf_genrec.training.run_folder import RunFolder


def prepared_run(config: RunConfig) -> RunFolder:
    """A run with its data and codes, made where they are not there."""
    run = config.run
    if not (run.data / REPORT_FILE).is_file():
        prepare_data.main(config)
    if not (run.semantic_ids / "semantic_ids.json").is_file():
        tokenize_items.main(config)
    return run


def trained_run(config: RunConfig) -> RunFolder:
    """A run with its model; with `resume_from_checkpoint: last` an interrupted training goes on."""
    run = prepared_run(config)
    if not (run.model / "config.json").is_file():
        train.main(config)  # which gives its configuration another folder
    return run
