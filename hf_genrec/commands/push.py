"""`hf-genrec push`: a trained model to the Hub."""

from pathlib import Path
from typing import Annotated

import typer

from hf_genrec.terminal import quiet

EXTRA = None

PrivateOption = Annotated[bool, typer.Option("--private", help="Into a private repository; never into a public one.")]
RevisionOption = Annotated[
    str | None, typer.Option(help="Branch to upload to, made from the main one where there is none.")
]
PullRequestOption = Annotated[
    bool, typer.Option("--create-pr", help="Open a pull request instead of changing the repository.")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="List files and sizes; upload nothing.")]


def command(
    run: Annotated[str, typer.Argument(help="Run folder, for instance runs/mine.")],
    repo_id: Annotated[str, typer.Argument(help="Repository on the Hub, for instance my-org/my-model.")],
    private: PrivateOption = False,
    revision: RevisionOption = None,
    create_pr: PullRequestOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """
    Upload the run's model with its code, processor, item tokenizer and card in one commit; refuses what no export
    writes, and links.
    """
    from hf_genrec.training.run_folder import RunFolder

    folder = RunFolder(Path(run)).require_model()
    quiet()
    from hf_genrec.hub import push as upload

    typer.echo(upload(folder, repo_id, private, revision=revision, create_pr=create_pr, dry_run=dry_run))
