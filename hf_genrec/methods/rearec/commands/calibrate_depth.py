"""`hf-genrec calibrate-depth`."""

from pathlib import Path
from typing import Annotated

import typer

EXTRA = "train"


def command(
    run: Annotated[str, typer.Argument(help="Run folder.")],
    rule: Annotated[
        str, typer.Option(help="Rule to write into the model: kl, halting, confidence, fixed; all writes none.")
    ] = "all",
) -> None:
    """ReaRec: compare rules that decide per user how many steps to take, fitted on the validation split."""
    from hf_genrec.terminal import quiet
    from hf_genrec.training.run_folder import RunFolder

    RunFolder(Path(run)).require_model()  # before anything slow is imported
    quiet()
    from hf_genrec.methods.rearec.calibrate_depth_run import main

    main(run, rule)
