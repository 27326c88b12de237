"""`hf-genrec push-data`: the data of a run to the Hub."""

from pathlib import Path
from typing import Annotated

import typer

from hf_genrec.commands.push import DryRunOption, PrivateOption, PullRequestOption, RevisionOption
from hf_genrec.terminal import quiet

EXTRA = "data"


def command(
    run: Annotated[str, typer.Argument(help="Run folder whose data are prepared, for instance runs/mine.")],
    repo_id: Annotated[str, typer.Argument(help="Data set on the Hub, for instance my-org/my-log.")],
    licence: Annotated[
        str | None,
        typer.Option("--licence", "--license", help="Licence of the source as the Hub names it: cc-by-4.0, mit, ..."),
    ] = None,
    have_permission: Annotated[
        bool,
        typer.Option(
            "--have-permission",
            help="The owner allows to pass the data on, where the licence of the source does not.",
        ),
    ] = False,
    private: PrivateOption = False,
    revision: RevisionOption = None,
    create_pr: PullRequestOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """
    Upload the log and the items that a run was prepared from as Parquet, with the prepared sequences and a card that
    says what was kept and how it was split, in one commit. Ids of users and items go up as they are.
    """
    from hf_genrec.data.prepared import require_files
    from hf_genrec.training.run_folder import RunFolder

    data = RunFolder(Path(run)).data
    require_files(data)
    quiet()
    from hf_genrec.hub_data import push_data
    from hf_genrec.hub_upload import Destination

    to = Destination(repo_id, private, revision, create_pr, "dataset")
    typer.echo(push_data(data, to, licence, have_permission, dry_run))
