"""`hf-genrec demo`."""

from pathlib import Path
from typing import Annotated

import typer

EXTRA = "demo"


def command(
    run: Annotated[str, typer.Argument(help="Run folder, saved model, or repository on the Hub.")],
    beside: Annotated[str | None, typer.Argument(metavar="[RUN2]", help="A second one, shown beside it.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 7860,
    write_space: Annotated[
        Path | None,
        typer.Option(
            help="Write the files of a Space into a folder, instead; RUN is then a repository on the Hub.",
        ),
    ] = None,
) -> None:
    """A page to try a model on: a history by titles, recommendations, and how the model came to them."""
    from hf_genrec.terminal import quiet

    places = [run] if beside is None else [run, beside]
    if write_space is not None:
        from hf_genrec.serving.demo.space import write_space as write

        typer.echo(f"the files of a Space are in {write(write_space, places)}")
        return
    for place in places:
        if Path(place).is_dir():
            _require_model(Path(place))  # before anything slow is imported
    quiet()
    from hf_genrec.serving.demo.launch import launch

    launch(places, host, port)


def _require_model(folder: Path) -> None:
    from hf_genrec.training.run_folder import RunFolder

    if not (folder / "config.json").is_file():
        RunFolder(folder).require_model()
