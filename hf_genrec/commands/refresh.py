"""`hf-genrec refresh`: today's code beside the weights of an older version."""

from pathlib import Path
from typing import Annotated

import typer

from hf_genrec.terminal import quiet

EXTRA = None


def command(
    folder: Annotated[str, typer.Argument(help="Saved model, or the run folder that holds one.")],
    push_to: Annotated[str | None, typer.Option(help="Repository on the Hub to upload it to, too.")] = None,
) -> None:
    """Today's code beside the weights of an older version; checks that it recommends the same."""
    from hf_genrec.files import restore_folder
    from hf_genrec.training.run_folder import RunFolder

    run = RunFolder(Path(folder))
    model = run.model if (run.model / "config.json").is_file() else run.path
    restore_folder(model)
    if not (model / "config.json").is_file():
        raise FileNotFoundError(f"{model} holds no saved model (config.json): name a run folder or a saved model")
    quiet()
    from hf_genrec.hub import push as upload
    from hf_genrec.hub import require_pushable
    from hf_genrec.refresh import refresh as save_anew

    if push_to is not None:
        require_pushable(model, push_to)
    compared = save_anew(model)
    typer.echo(
        f"{model} has the code of today: the same {len(compared[0])} items for each of {len(compared)} histories, "
        f"opened in a process that cannot import hf_genrec"
    )
    if push_to is not None:
        typer.echo(upload(model, push_to))
