"""Generative recommenders that reason, as Hugging Face models.

    import hf_genrec

    model = hf_genrec.load("runs/mine")            # a run folder, a saved model, or a repository on the Hub
    item_ids, scores = model.recommend(["f01", "f03"], k=10)
    hf_genrec.methods()                            # what can be trained
    run = hf_genrec.fit(interactions, items, output_dir="runs/mine")  # DataFrames -> a trained run
    run.recommend(["ann"], k=10, as_frame=True)

Models, their configurations and processors, item tokenizers, the trie and the user cache are names of this module, too.
They are imported when they are asked for: importing the module alone imports no torch.
"""

import re
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_genrec import methods

if TYPE_CHECKING:
    from hf_genrec.run import Run

__version__ = "0.1.0"

_FILES = (
    "run.py",
    "methods/*/configuration_*.py",
    "methods/*/modeling_*.py",
    "methods/*/processing_*.py",
    "decoding/processing_*.py",
    "decoding/*_cache.py",
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
    from hf_genrec.method import open_model

    return open_model(folder_or_repo, **place)


def fit(
    interactions: Any,
    items: Any = None,
    method: str | None = None,
    output_dir: str | Path | None = None,
    *,
    config: str | Path | None = None,
    evaluate: str | None = None,
    overwrite: bool = False,
    verbose: bool = True,
    **settings: Any,
) -> "Run":
    """
    Train on tables in memory: `prepare`, `teachers` where the settings name some, `tokenize` and `train` in one call.

    The tables are written as Parquet into the run folder's `source/`, the settings as `config.yaml`, with which the
    commands go on.

    Args:
        interactions: the log: a DataFrame of pandas or polars, a pyarrow Table, a `datasets.Dataset`, or the path of a
            file. Its columns are `user_id` (or `user`), `item_id` (or `item`) and `timestamp` (or `datetime`, `time`),
            or named by `user_column`, `item_column` and `time_column`; `time_column=None` keeps the order of the rows.
        items (*optional*): the items' text, in one of these forms, with the same `item_column`; by default what the log
            says of them.
        method: one of [`methods`], by default that of `config`, or else the library's.
        output_dir: the run folder, by default `runs/<method>`.
        config (*optional*): a YAML file or a shipped name (`hf-genrec configs` lists them), whose settings are taken
            where none are given here.
        evaluate (*optional*): `"test"` or `"validation"`, to be evaluated at the end.
        overwrite: replace a run that is there; else it is refused.
        verbose: log what the stages do.
        settings: keys of `hf-genrec prepare`, `tokenize` and `train`: `codebook_sizes=[64] * 3`, `num_train_epochs=20`.

    Returns:
        the [`Run`], which recommends.

    Raises:
        ValueError: for what is no table, a column or setting that is not there, or rows and values that the commands
            refuse, too.
        FileNotFoundError: for a path that is none.
    """
    from hf_genrec.fitting import fit as program

    return program(interactions, items, method, output_dir, config, evaluate, overwrite, verbose, **settings)


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
    return sorted(["__version__", "fit", "load", "methods", *_classes()])


__all__ = ["__version__", "fit", "load", "methods"]
