"""Today's code and configuration beside weights that an earlier version of this library has saved."""

import json
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModel, PreTrainedModel
from transformers.dynamic_module_utils import get_relative_import_files

import hf_genrec.models  # noqa: F401  (registers the classes with the Auto classes)
from hf_genrec.files import whole_folder
from hf_genrec.hub import load_model, recommend_as_stranger, save_model

TOLERANCE = 1e-4  # of scores: sums in another order


def refresh(folder: Path, num_histories: int = 8, k: int = 10) -> list[list[str]]:
    """
    Save a model of this library anew where it stands: its weights as they are, the code and configuration of today.

    The weights are opened by the library's own classes, never by the code in the folder. Files that are neither code of
    the library nor written anew (card, training arguments) stay. Before the folder takes the place of the old one, it
    is opened by a process that cannot import this library and must recommend what the old weights recommend.

    Args:
        folder: an exported model, with or without an item tokenizer in it.
        num_histories: random histories that are compared, an empty one among them.
        k: items recommended for each.

    Returns:
        the items of each history.

    Raises:
        ValueError: if the folder holds no model of this library, or the new one would recommend something else.
        RuntimeError: if the new one does not open without this library.
    """
    folder = Path(folder)
    model = load_model(folder)
    if model.processor is None:
        raise ValueError(f"{folder} has no catalogue.json: only a model with its catalogue can be refreshed")
    rng, items = np.random.default_rng(0), model.processor.item_ids
    lengths = np.minimum(np.arange(num_histories), model.processor.max_history)
    histories = [[items[row] for row in rng.integers(0, len(items), length)] for length in lengths]
    expected, scores = model.recommend(histories, k=k)

    stale = {path.name for path in _code(folder)}
    tokenizer_folder = folder / "item_tokenizer"
    with whole_folder(folder) as new, tempfile.TemporaryDirectory() as temporary:
        new_tokenizer = Path(temporary) / "item_tokenizer"
        if tokenizer_folder.is_dir():
            _refresh_item_tokenizer(tokenizer_folder, new_tokenizer)
        _of_today(model)
        save_model(model, new, new_tokenizer)
        for path in sorted(folder.iterdir()):
            if path.name in stale or path.name == "__pycache__" or (new / path.name).exists():
                continue
            (shutil.copytree if path.is_dir() else shutil.copy2)(path, new / path.name)
        _require_equal(folder, model, load_model(new))
        found, found_scores = recommend_as_stranger(new, histories, k)
        if found != expected or not all(
            np.allclose(a, b, rtol=0, atol=TOLERANCE) for a, b in zip(scores, found_scores, strict=True)
        ):
            raise ValueError(f"{folder} would recommend other items with today's code: it was left as it is")
    return expected


def _refresh_item_tokenizer(folder: Path, new: Path) -> None:
    """
    Save an item tokenizer anew, in another folder.

    Raises:
        ValueError: if the weights changed on the way.
    """
    tokenizer = AutoModel.from_pretrained(folder, trust_remote_code=False)
    _of_today(tokenizer)
    tokenizer.save_pretrained(new)
    _require_equal(folder, tokenizer, AutoModel.from_pretrained(new, trust_remote_code=False))


def _of_today(model: Any) -> None:
    """The configuration names the files of today, whatever those of the saved folder were called."""
    model.config.auto_map = type(model.config)().auto_map


def _require_equal(folder: Path, model: PreTrainedModel, again: PreTrainedModel) -> None:
    weights, new_weights = model.state_dict(), again.state_dict()
    same = weights.keys() == new_weights.keys()
    if not same or not all(torch.equal(weights[name], new_weights[name]) for name in weights):
        raise ValueError(f"{folder}: the weights changed while they were saved again: the folder was left as it is")


def _code(folder: Path) -> Iterable[Path]:
    """The files that transformers' loader executes of a saved folder."""
    for name in ("config.json", "processor_config.json", "item_tokenizer/config.json"):
        if not (folder / name).is_file():
            continue
        auto_map = json.loads((folder / name).read_text(encoding="utf-8")).get("auto_map", {})
        for reference in auto_map.values():
            module = folder / f"{reference.split('.')[0]}.py"
            if module.is_file():
                yield module
                yield from map(Path, get_relative_import_files(module))
