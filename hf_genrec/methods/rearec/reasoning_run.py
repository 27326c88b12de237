"""What the programs on a trained ReaRec run begin with: its model and data."""

from pathlib import Path

from hf_genrec.data.prepared import PreparedData
from hf_genrec.files import require_writable
from hf_genrec.method import load_method, load_model
from hf_genrec.methods.rearec.modeling_rearec import ReaRecForNextItem
from hf_genrec.training.lineage import require_model_of
from hf_genrec.training.run_folder import RunFolder


def open_reasoning_run(run_folder: str) -> tuple[RunFolder, ReaRecForNextItem, PreparedData]:
    """
    The run, its model and its prepared data.

    Raises:
        FileNotFoundError: if there is no trained model.
        ValueError: for a model of another method or without reasoning, or of another catalogue than the data.
    """
    run = RunFolder(Path(run_folder))
    require_writable(run.results)
    model = load_model(run.require_model())
    if not isinstance(model, ReaRecForNextItem):
        method = load_method(model.config.model_type).title
        raise ValueError(f"{run.model} is a {method} model: reasoning steps are analysed of ReaRec runs only")
    if not model.config.steps:
        raise ValueError(f"{run.model} takes no reasoning steps (reasoning: none), so there is nothing to analyse")
    prepared = PreparedData.load(run.data)
    require_model_of(run.model, prepared, model.processor.item_ids, "train it again")
    return run, model, prepared
