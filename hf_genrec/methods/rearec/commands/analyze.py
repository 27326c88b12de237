"""`hf-genrec analyze`."""

from pathlib import Path
from typing import Annotated

import typer

EXTRA = "train"


def command(
    run: Annotated[str, typer.Argument(help="Run folder.")],
    split: Annotated[str, typer.Option(help="test or validation.")] = "test",
) -> None:
    """ReaRec: what each reasoning step does to the ranking, to whom, and what it costs; tables, JSON and pictures."""
    from hf_genrec.terminal import quiet
    from hf_genrec.training.run_folder import RunFolder

    RunFolder(Path(run)).require_model()  # before anything slow is imported
    quiet()
    from hf_genrec.methods.rearec.analyze_run import main

    main(run, split)  # type: ignore[arg-type]  # another split is refused where it is read
