"""`hf-genrec embed`: vectors of items by their text, or of items and users by a trained model."""

from pathlib import Path
from typing import Annotated

import typer

from hf_genrec.terminal import quiet

EXTRA = "train"


def command(
    source: Annotated[
        str, typer.Argument(help="Parquet file or folder of items (item_id and text columns), or a run folder.")
    ],
    vectors: Annotated[
        str,
        typer.Option(
            help="text: of the items' text, as tokenize reads them by --embeddings_path. users, items: of the run's "
            "model, whose score is their product; for methods that have them."
        ),
    ] = "text",
    output: Annotated[
        Path | None, typer.Option(help="Folder of the parts; by default embeddings/<vectors> in the run.")
    ] = None,
    histories: Annotated[
        Path | None,
        typer.Option(help="users: Parquet file or folder with user_id and item_ids, in place of the run's users."),
    ] = None,
    unknown: Annotated[
        str, typer.Option(help="users: items that the model does not know: raise refuses them, skip leaves them out.")
    ] = "raise",
    text_model: Annotated[
        str, typer.Option(help="text: sentence-transformers name or folder, or minilm.")
    ] = "minilm",
    text_columns: Annotated[
        list[str] | None,
        typer.Option(
            help="text: a column that makes the text; may be repeated. By default title, categories, description.",
        ),
    ] = None,
    part_size: Annotated[int, typer.Option(help="Rows of the source a part.")] = 5000,
    engine: Annotated[str, typer.Option(help="local, or ray: actors on a Ray cluster.")] = "local",
    workers: Annotated[int | None, typer.Option(help="ray: number of actors; by default one per free core.")] = None,
) -> None:  # fmt: skip
    """Vectors of items or users as Parquet, part by part; finished parts are kept when it is run again."""
    from hf_genrec.serving.batch import embed

    quiet()
    line = embed(
        source, vectors, output, histories=histories, unknown=unknown, text_model=text_model,
        text_columns=text_columns, part_size=part_size, engine=engine, workers=workers,
    )  # fmt: skip
    typer.echo(line)
