"""Today's code and configuration beside weights that an earlier version of this library has saved."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from hf_genrec.catalogue import handler as handler_file
from hf_genrec.files import require_writable, restore_folder, whole_folder
from hf_genrec.hub import HANDLER, code_files, member_folders, recommend_as_stranger, save_model
from hf_genrec.item_tokenizers import load_item_tokenizer
from hf_genrec.method import load_model

TOLERANCE = 1e-4  # of scores: sums in another order


def refresh(folder: Path, num_histories: int = 8, k: int = 10) -> list[list[str]]:
    """
    Save a model of this library anew where it stands: its weights as they are, the code and configuration of today.

    The weights are opened by the library's own classes, never by the code in the folder. Before the new folder takes
    the place of the old one, it is opened by a process that cannot import this library and must recommend what the old
    weights recommend. Files that are neither code of the library nor written anew (card, training arguments, your own,
    a `handler.py` of your own among them) are put back as they are, links included, and never executed.

    Args:
        folder: an exported model, with or without an item tokenizer in it.
        num_histories: random histories that are compared, an empty one among them.
        k: items recommended for each.

    Returns:
        the items of each history.

    Raises:
        FileNotFoundError: if there is no saved model.
        ValueError: if the folder is damaged or of another library, or the new one would recommend something else.
        RuntimeError: if the new one does not open without this library.
    """
    folder = Path(folder).resolve()
    restore_folder(folder)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} holds no saved model (config.json): name a run folder or a saved model")
    require_writable(folder.parent)
    model = _open(folder, load_model)
    rng, items = np.random.default_rng(0), model.processor.item_ids
    lengths = np.minimum(np.arange(num_histories), model.processor.max_history)
    histories = [[items[row] for row in rng.integers(0, len(items), length)] for length in lengths]
    expected, scores = model.recommend(histories, k=k)

    with whole_folder(folder) as new, tempfile.TemporaryDirectory() as temporary:
        new_tokenizer, tokenizer = Path(temporary) / "item_tokenizer", None
        if (folder / "item_tokenizer").is_dir():
            tokenizer = _open(folder / "item_tokenizer", load_item_tokenizer)
            _of_today(tokenizer)
            tokenizer.save_pretrained(new_tokenizer)
            _require_equal(folder, tokenizer, load_item_tokenizer(new_tokenizer))
        _of_today(model)
        save_model(model, new, new_tokenizer)
        _require_equal(folder, model, load_model(new))
        found, found_scores = recommend_as_stranger(new, histories, k)
        if found != expected or not all(
            np.allclose(a, b, rtol=0, atol=TOLERANCE) for a, b in zip(scores, found_scores, strict=True)
        ):
            raise ValueError(f"{folder} would recommend other items with today's code: it was left as it is")
        parts = [folder, *member_folders(folder)] + ([folder / "item_tokenizer"] if tokenizer is not None else [])
        for part in parts:
            _put_back(part, new / part.relative_to(folder))
    return expected


def _open(folder: Path, opener: Callable[[Path], Any]) -> Any:
    """Whatever is wrong with a folder, in a line that names it."""
    try:
        return opener(folder)
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ValueError(
            f"{folder} is damaged, or no model of this library: {reason} (save or download it again)"
        ) from error


def _of_today(model: Any) -> None:
    """The configuration names the files of today, whatever those of the saved folder were called."""
    for part in (model, *getattr(model, "members", ())):
        part.config.auto_map = type(part.config)().auto_map


def _require_equal(folder: Path, model: PreTrainedModel, again: PreTrainedModel) -> None:
    weights, new_weights = model.state_dict(), again.state_dict()
    same = weights.keys() == new_weights.keys()
    if not same or not all(torch.equal(weights[name], new_weights[name]) for name in weights):
        raise ValueError(f"{folder}: the weights changed while they were saved again: the folder was left as it is")


def _is_ours(handler: Path) -> bool:
    """Whether a `handler.py` is the library's, of whatever version."""
    lines = [path.read_bytes().split(b"\n", 1)[0].strip() for path in (handler, Path(str(handler_file.__file__)))]
    return lines[0] == lines[1]


def _put_back(folder: Path, new: Path) -> None:
    """What is neither written anew nor the library's code of an earlier version."""
    stale = code_files(folder) | {"__pycache__"}
    for path in sorted(folder.iterdir()):
        if path.name == HANDLER and path.is_file() and not _is_ours(path):
            (new / path.name).unlink()
        elif path.name in stale or (new / path.name).exists():
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, new / path.name, symlinks=True)
        else:
            shutil.copy2(path, new / path.name, follow_symlinks=False)
