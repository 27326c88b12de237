"""Runs of a configuration, from wherever an earlier attempt ended."""

from hf_genrec.data.prepared import REPORT_FILE
from hf_genrec.trainers import prepare_data, tokenize_items, train
from hf_genrec.training.config import RunConfig
from hf_genrec.training.run_folder import RunFolder


def trained_run(config: RunConfig) -> RunFolder:
    """
    A run with its model, and what is missing before it made; with `resume_from_checkpoint: last` an interrupted
    training goes on.
    """
    run = config.run
    if (run.model / "config.json").is_file():
        return run
    if not (run.data / REPORT_FILE).is_file():
        prepare_data.main(config)
    if not (run.semantic_ids / "semantic_ids.json").is_file():
        tokenize_items.main(config)
    train.main(config)  # which gives its configuration another folder
    return run
