"""`hf-genrec configs`: what is shipped."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

EXTRA = None


def command(
    name: Annotated[str | None, typer.Argument(help="Configuration to copy.")] = None,
    to: Annotated[Path | None, typer.Argument(help="File to copy it to.")] = None,
) -> None:
    """List the shipped configurations, or copy one to edit."""
    from hf_genrec.training.config import find_config, shipped_configs

    if name is None:
        for shipped, path in shipped_configs().items():
            typer.echo(f"{shipped:28s} {path.read_text(encoding='utf-8').splitlines()[1].removeprefix('# ')}")
        return
    target = to or Path(f"{Path(name).name}.yaml")
    if target.exists():
        raise FileExistsError(f"{target} exists already: name another file")
    shutil.copyfile(find_config(name), target)
    typer.echo(f"copied to {target}")
