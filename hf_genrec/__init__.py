"""Generative recommenders that reason, as Hugging Face models.

    import hf_genrec

    model = hf_genrec.load("runs/mine")            # a run folder, a saved model, or a repository on the Hub
    item_ids, scores = model.recommend(["f01", "f03"], k=10)
    hf_genrec.methods()                            # what can be trained

Models, their configurations and processors, item tokenizers, the trie and the user cache are names of this module, too.
They are imported when they are asked for: importing the module alone imports no torch.
"""

import re
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from hf_genrec import methods

__version__ = "0.1.0"

_FILES = (
    "methods/*/configuration_*.py",
    "methods/*/modeling_*.py",
    "methods/*/processing_*.py",
    "decoding/processing_*.py",
    "decoding/user_cache.py",
    "catalogue/processing_*.py",
    "catalogue/item_*.py",
    "catalogue/recommendation_pipeline.py",
    "item_tokenizers/configuration_*.py",
    "item_tokenizers/modeling_*.py",
)


def load(folder_or_repo: str | Path, **place: Any) -> Any:
    """
    A saved model with its processor, by the library's own classes and not the code beside the weights.

    Args:
        folder_or_repo: a run folder, a saved model, or a repository on the Hub.
        place: `revision`, `token`, `cache_dir`, ... of a repository, as `from_pretrained` takes them.

    Raises:
        ValueError: if there is no model of this library, or a damaged one.
        OSError: if there is nothing of that name.
    """
    from hf_genrec.method import load_model

    folder = Path(folder_or_repo)
    return load_model(folder / "model" if (folder / "model/config.json").is_file() else folder_or_repo, **place)


@cache
def _classes() -> dict[str, str]:
    """The module of each public class, read from the files without importing them."""
    here = Path(__file__).parent
    found: dict[str, str] = {}
    for pattern in _FILES:
        for path in sorted(here.glob(pattern)):
            module = ".".join((__name__, *path.relative_to(here).with_suffix("").parts))
            names = re.findall(r"(?m)^class ([A-Z]\w*)", path.read_text(encoding="utf-8"))
            found |= {name: module for name in names if not name.endswith(("Output", "PreTrainedModel"))}
    return found


def __getattr__(name: str) -> Any:
    if name not in _classes():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_classes()[name]), name)


def __dir__() -> list[str]:
    return sorted(["__version__", "load", "methods", *_classes()])


__all__ = ["__version__", "load", "methods"]
