"""A model that scores every item as an ONNX graph, with its catalogue and what reads both."""

import logging
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from hf_genrec.catalogue.sound_scores import require_sound_weights
from hf_genrec.files import require_writable, whole_folder, write_json
from hf_genrec.method import load_method, load_model
from hf_genrec.serving import onnx_recommender
from hf_genrec.serving.onnx_recommender import CATALOGUE_FILE, MODEL_FILE, OnnxRecommender

logger = logging.getLogger(__name__)

CLOSE = 1e-3  # between scores of the two, which are added up in other orders


def export_onnx(model_folder: str | Path, output: str | Path) -> Path:
    """
    Write `model.onnx` (any batch, histories of any length the model reads), `catalogue.json` and `onnx_recommender.py`
    into a folder, which appears whole. Before that, its scores are compared with the model's.

    Returns:
        the folder.

    Raises:
        ImportError: without onnx, onnxscript and onnxruntime.
        ValueError: for a model that cannot be exported, or scores that differ.
        OSError: for a folder that is there and holds something else.
    """
    folder = Path(output)
    if folder.exists() and not (folder / MODEL_FILE).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is there and holds no {MODEL_FILE}: name another folder")
    require_writable(folder)
    _require_packages()
    model = load_model(model_folder).eval()
    graph = module_of(model, model_folder)
    require_sound_weights(model)
    with whole_folder(folder) as temporary:
        _write_graph(graph, model, temporary / MODEL_FILE)
        processor = model.processor
        catalogue = {
            "item_ids": processor.item_ids,
            "titles": processor.titles,
            "max_history": processor.max_history,
            "exclude_seen": processor.exclude_seen,
        }
        write_json(catalogue, temporary / CATALOGUE_FILE)
        shutil.copy(onnx_recommender.__file__, temporary / Path(onnx_recommender.__file__).name)
        _compare(model, temporary)
    logger.info("%s: %d items, the scores of the model", folder, len(processor.item_ids))
    return folder


def module_of(model: Any, place: str | Path) -> Any:
    """
    The module that gives a model's scores.

    Raises:
        ValueError: for a method whose models cannot be exported.
    """
    method = load_method(model.config.model_type)
    if method.onnx_scores is None:
        raise ValueError(
            f"{place} is a {method.title} model, which searches for items instead of scoring each one: it has no ONNX "
            f"export"
        )
    return method.onnx_scores(model).eval()


def _require_packages() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(f'export-onnx needs {error.name}: pip install "hf_genrec[onnx]"') from error


def _write_graph(graph: Any, model: Any, path: Path) -> None:
    import torch
    from torch.export import Dim

    # Lengths of an example must be 2 or more, or are taken for constants.
    longest = model.processor.max_history
    lengths = [min(longest, length) for length in (5, 3, 4)]
    inputs = model.processor.prompts([np.zeros(length, dtype=np.int64) for length in lengths])
    axes = {0: Dim("batch"), 1: Dim("length", max=longest)} if longest > 1 else {0: Dim("batch")}
    shapes = {"input_ids": axes, "attention_mask": axes}
    values = (inputs["input_ids"], inputs["attention_mask"])
    with torch.no_grad(), _silence():
        program = torch.export.export(graph, values, dynamic_shapes=shapes, strict=False)
        exported = torch.onnx.export(
            program, input_names=list(shapes), output_names=["scores"], dynamo=True, verbose=False
        )
    assert exported is not None
    exported.save(str(path))


@contextmanager
def _silence() -> Iterator[None]:
    """Of what torch says of itself while it exports, nothing is for the user."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _compare(model: Any, folder: Path) -> None:
    """
    Raises:
        ValueError: if onnxruntime gives other scores than the model, for histories of several lengths.
    """
    count, longest = len(model.processor.item_ids), model.processor.max_history
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, count, length) for length in (0, 1, 2, longest, longest + 3)]
    mine = model.score_rows(rows, np.arange(count)).detach().cpu().numpy()
    gap = float(
        np.abs(OnnxRecommender(folder).scores([row.tolist() for row in rows]) - mine).max()
        / max(1.0, np.abs(mine).max())
    )
    if not gap <= CLOSE:
        raise ValueError(f"the exported scores differ from the model's by {gap:.2g} of the largest one: not written")
