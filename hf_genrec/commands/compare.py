"""`hf-genrec compare`: several runs on the same users."""

from pathlib import Path
from typing import Annotated

import typer

from hf_genrec.terminal import quiet

EXTRA = "train"


def command(
    runs: Annotated[
        list[str], typer.Argument(help="Run folders of the same data, two or more; the first is compared to.")
    ],
    split: Annotated[str, typer.Option(help="test or validation.")] = "test",
    exclude_seen: Annotated[
        bool | None,
        typer.Option(help="Leave the items of the history out of the lists, or not; by default what all runs do."),
    ] = None,
    output_dir: Annotated[
        str | None, typer.Option(help="Folder to write into; by default compare-ONE-OTHER beside the first run.")
    ] = None,
    users: Annotated[int, typer.Option(min=0, help="Users whose lists are shown side by side.")] = 10,
) -> None:
    """Metrics, cost, paired differences, pictures, and the lists of the same users side by side."""
    from hf_genrec.evaluation.comparison import require_same_data
    from hf_genrec.training.run_folder import RunFolder, run_names

    folders = {name: RunFolder(Path(folder)) for name, folder in run_names(runs).items()}
    for run in folders.values():
        run.require_model()
    if split not in ("test", "validation"):
        raise ValueError(f"--split {split}: use test or validation")
    require_same_data({name: run.data for name, run in folders.items()})
    quiet()
    from hf_genrec.trainers.compare_runs import main as program

    program(runs, output_dir, split, exclude_seen, users)
