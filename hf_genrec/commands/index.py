"""`hf-genrec index`: a faiss index of a model's items, for catalogues that are too large to compare with."""

from typing import Annotated

import typer

from hf_genrec.terminal import quiet, shown

EXTRA = "index"

USERS = 1000


def command(
    run: Annotated[str, typer.Argument(help="Run folder of a model that scores every item by its vector.")],
    recall: Annotated[
        float, typer.Option(help="Share of the best ten items that lists must hold.", min=0.0, max=1.0)
    ] = 0.99,
    num_lists: Annotated[
        int | None, typer.Option(help="Lists of like items; by default four times the root of their number.", min=1)
    ] = None,
) -> None:
    """Items in lists of like ones. `serve --index` and `recommend --index` then look into the nearest lists alone."""
    from pathlib import Path

    import numpy as np

    from hf_genrec.data.prepared import PreparedData
    from hf_genrec.method import load_model
    from hf_genrec.serving.item_index import ItemIndex
    from hf_genrec.training.run_folder import RunFolder

    quiet()
    folder = RunFolder(Path(run))
    model = load_model(folder.require_model())
    index = ItemIndex.build(model, num_lists)
    histories = PreparedData.load(folder.data).split("validation").histories
    chosen = np.random.default_rng(0).permutation(len(histories))[:USERS]
    index.measure(model, [histories[user] for user in chosen], recall)
    facts = index.facts
    typer.echo(
        shown(
            f"{index.save(folder)}: {facts['num_items']} items in {facts['num_lists']} lists, of which "
            f"{facts['num_probes']} are looked into; they hold {facts['recall@10']:.4f} of the best ten items of "
            f"{facts['users']} validation users"
        )
    )
