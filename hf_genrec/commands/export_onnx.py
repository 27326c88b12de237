"""`hf-genrec export-onnx`: a model that scores every item as an ONNX graph."""

from pathlib import Path
from typing import Annotated

import typer

from hf_genrec.terminal import quiet

EXTRA = "onnx"


def command(
    run: Annotated[str, typer.Argument(help="Run folder, for instance runs/mine.")],
    output: Annotated[str, typer.Option(help="Folder to write: model.onnx, catalogue.json and what reads them.")],
) -> None:
    """The model as an ONNX graph for onnxruntime, of methods that score every item; checked against the model."""
    from hf_genrec.training.run_folder import RunFolder

    folder = RunFolder(Path(run)).require_model()
    quiet()
    from hf_genrec.serving.onnx_export import export_onnx

    typer.echo(export_onnx(folder, output))
