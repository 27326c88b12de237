"""`hf-genrec analyze`."""

from typing import Annotated

import typer


def command(
    run: Annotated[str, typer.Argument(help="Run folder.")],
    split: Annotated[str, typer.Option(help="test or validation.")] = "test",
) -> None:
    """ReaRec: what each reasoning step does to the ranking, to whom, and what it costs; tables, JSON and pictures."""
    from hf_genrec.methods.rearec.analyze_run import main
    from hf_genrec.terminal import quiet

    quiet()
    main(run, split)  # type: ignore[arg-type]  # another split is refused where it is read
