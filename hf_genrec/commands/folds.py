"""`hf-genrec folds`: the same training, tested on several windows of time."""

from typing import Annotated

import typer

from hf_genrec.terminal import quiet

EXTRA = "train"

CONTEXT_SETTINGS = {"allow_extra_args": True, "ignore_unknown_options": True}


def command(
    context: typer.Context,
    num_folds: Annotated[int, typer.Option(help="How many windows, the last one at the end of the log.")],
    fold_days: Annotated[float, typer.Option(help="Days of a window.")],
    config: Annotated[
        str | None, typer.Option(help="YAML file, or a shipped name (`hf-genrec configs` lists them).")
    ] = None,
) -> None:
    """Train before and test in each of several windows of time: a run per window, their figures and the mean."""
    from hf_genrec.training.config import check_keys

    check_keys(config, context.args)
    quiet()
    from hf_genrec.trainers.folds import main as program

    program(config, num_folds, fold_days, context.args)
