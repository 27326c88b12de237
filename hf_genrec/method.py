"""What the library asks of a method, and how a method is found: by the name of its folder in `methods/`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np

    from hf_genrec.explanation import Explanation

FOLDER = Path(__file__).parent / "methods"


@dataclass(frozen=True)
class Card:
    """What a model card says of a model: a sentence or two, tags, and the settings that only this method has."""

    about: str
    tags: list[str]
    facts: dict[str, Any]


@dataclass(frozen=True)
class Method:
    """
    A method's record, `METHOD` in its `method.py`.

    Attributes:
        title: its name as people write it.
        summary: what it is, in one sentence.
        arguments: the dataclass of its own keys; its field `method` has the name of the folder.
        build_trainer: from a `RunConfig` whose data are prepared (and tokenized) to the trainer with its model.
        codes: the semantic IDs its items need: `"ordered"` ones, a `"set"` of parallel ones, or none.
        card: from the config.json of a model and the number of its items to its [`Card`].
        search_options: the options of `recommend` that say how to search, of those the commands offer.
        details: from a model's configuration to what evaluation also reports: options of `recommend_rows` that return
            one more number per list, and the names of their means in the record.
        score_name: what the scores of `recommend` are.
        item_vectors: whether a trained model has a vector per item, from which codes can be made.
        reads_text: from its arguments to whether its models read the items' text, whose settings are then the model's.
        encode_items: from a model, its folder and a table of new items (item_id and text columns) to the vectors that
            its `add_items` takes; for methods whose models read vectors of items, beside their codes or without any.
        onnx_scores: from a model to a module of `input_ids` and `attention_mask` that gives the scores of all items and
            that torch.onnx can export, if there is one. Raises ValueError for a model that has none.
        post_training: gives the [`PostTraining`] of its models, if they can be post-trained.
        explain: from a model, a history of catalogue rows, the row of an item and whether items of the history are left
            out of lists, to what the demo shows of how the model came to the item.
        soft_targets: whether its models' forward takes `soft_targets`, of the codes labelled in a batch of
            `NextItemExamples` or `PackedExamples`, and hands them to `code_loss`.
        join: from trained models, a validation split, weights and whether lists leave the history out (or `None`,
            which chooses either there) to one model of this method and what was tried, if it adds up others' models.
        unused_keys: keys of the shared argument classes that it has no use for.
        is_default: whether it is meant where no method is named.
    """

    title: str
    summary: str
    arguments: Any
    build_trainer: Callable[[Any], Any]
    codes: Literal["ordered", "set"] | None
    card: Callable[[Mapping[str, Any], int], Card]
    search_options: tuple[str, ...] = ()
    details: Callable[[Any], dict[str, str]] = lambda config: {}
    score_name: str = "score"
    item_vectors: bool = False
    reads_text: Callable[[Any], bool] = lambda arguments: False
    encode_items: Callable[[Any, Path, Any], Any] | None = None
    onnx_scores: Callable[[Any], Any] | None = None
    post_training: "Callable[[], PostTraining] | None" = None
    explain: "Callable[[Any, np.ndarray, int, bool], list[Explanation]]" = lambda model, history, item, exclude_seen: []
    soft_targets: bool = False
    join: Callable[[list[Any], Any, list[float] | None, bool | None], tuple[Any, list[dict[str, Any]]]] | None = None
    unused_keys: frozenset[str] = field(default_factory=frozenset)
    is_default: bool = False


@dataclass(frozen=True)
class PostTraining:
    """
    How a method's models are post-trained.

    Attributes:
        trainer: the class of the trainer.
        build_rewards: from the arguments, a model and the folder of its item tokenizer to TRL's reward functions.
        loss_batch: from a model and examples (`history`, `target`) to what the model's next-item loss reads.
        trained_whole: from a model's configuration to the modules that LoRA trains as they are.
    """

    trainer: Any
    build_rewards: Callable[[Any, Any, Path], list[Callable]]
    loss_batch: Callable[[Any, list[dict[str, Any]]], dict[str, Any]]
    trained_whole: Callable[[Any], list[str]] = lambda config: []


def methods() -> list[str]:
    """The methods there are, by the names that `method:` and config.json's `model_type` have for them."""
    return sorted(path.parent.name for path in FOLDER.glob("*/method.py"))


def default_method() -> str:
    """The one that is meant where none is named."""
    return next(name for name in methods() if load_method(name).is_default)


def join_models(
    models: list[Any], validation: Any, weights: list[float] | None, exclude_seen: bool | None
) -> tuple[Any, list[dict[str, Any]]]:
    """One model of several trained ones and what was tried, by the method that adds up those of others."""
    join = next(filter(None, (load_method(name).join for name in methods())))
    return join(models, validation, weights, exclude_seen)


def load_method(name: str) -> Method:
    """
    A method's record.

    Raises:
        ValueError: for a name that is none of [`methods`], or a file that does not import.
    """
    if name not in methods():
        raise ValueError(f"method: {name!r} is not one of {', '.join(methods())}")
    try:
        return import_module(f"{__package__}.methods.{name}.method").METHOD
    except (ImportError, SyntaxError, AttributeError) as error:
        raise ValueError(f"{FOLDER / name / 'method.py'} gives no METHOD: {error}") from error


def read_config(folder: str | Path, name: str = "config.json", **place: Any) -> dict[str, Any]:
    """
    The config.json, or another such file, of a saved model, in a folder or a repository on the Hub.

    Raises:
        ValueError: if it is damaged.
        OSError: if there is none.
    """
    if not (Path(folder) / name).is_file() and Path(folder).exists():
        raise FileNotFoundError(f"{folder} holds no {name}: name a run folder or a saved model")
    from hf_genrec.catalogue.saved_files import read_json, saved_file

    path = saved_file(str(folder), name, **place)
    content = read_json(str(path))
    if not isinstance(content.get("auto_map", {}), dict):
        raise ValueError(f"{path} is damaged (no mapping of names): save or download it again")
    return content


def method_of(folder: str | Path) -> str:
    """
    The method of a saved model, by its config.json.

    Raises:
        ValueError: if it is of none of them.
    """
    return _method_in(read_config(folder), folder)


def _method_in(config: dict[str, Any], folder: str | Path) -> str:
    name = config.get("model_type")
    if name not in methods():
        raise ValueError(f"{folder} is a model of type {name}: it is none of this library's, {', '.join(methods())}")
    return name


def auto_class(folder: str | Path) -> str:
    """
    The Auto class that opens a saved model, by its config.json.

    Raises:
        ValueError: if the file names none.
    """
    return _auto_class_in(read_config(folder), folder)


def _auto_class_in(config: dict[str, Any], folder: str | Path) -> str:
    import transformers

    for name in config.get("auto_map", {}):
        if name.startswith("AutoModelFor"):
            if not hasattr(transformers, name):
                raise ValueError(f"{folder}/config.json names {name} under auto_map, which transformers has not")
            return name
    raise ValueError(f"{folder}/config.json names no class under auto_map: it is no model of this library")


def model_place(folder_or_repo: str | Path) -> str | Path:
    """The model of a run folder; of anything else, a saved model or a repository, this itself."""
    model = Path(folder_or_repo) / "model"
    return model if (model / "config.json").is_file() else folder_or_repo


def recommender_folder(run_folder: str | Path, key: str, with_vectors: bool = False) -> Path:
    """
    The model of a run, of a method whose models write no codes: they score every item at once.

    Args:
        key: what names the run in a configuration.
        with_vectors: whether the models must have a vector per item, too.

    Raises:
        ValueError: if there is none; names the key.
    """
    folder = Path(run_folder) / "model"
    names = [name for name in methods() if load_method(name).codes is None]
    if with_vectors:
        names = [name for name in names if load_method(name).item_vectors]
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"{key}: {folder} holds no model; train one with method: {' or '.join(names)} on the same data"
        )
    if method_of(folder) not in names:
        raise ValueError(
            f"{key}: {folder} is a model of type {method_of(folder)}; it must be one of {' or '.join(names)}"
        )
    return folder


def open_model(folder_or_repo: str | Path, **settings: Any) -> Any:
    """[`load_model`] of a run folder's model, a saved model, or a repository on the Hub."""
    place = Path(folder_or_repo)
    if not place.exists() and place.parent != Path() and place.parent.is_dir():
        raise FileNotFoundError(
            f"{place} is not there, and {place.parent} is a folder of this machine: correct the name"
        )
    return load_model(model_place(folder_or_repo), **settings)


def load_model(folder: str | Path, **settings: Any) -> Any:
    """
    A saved model with its processor, by the library's own classes and not the code in the folder.

    Args:
        folder: or a repository on the Hub.
        settings: where in the repository (`revision`, `token`, ...), and fields of the configuration to change, as
            `from_pretrained` takes them.

    Raises:
        ValueError: if the folder holds no model of this library, or a damaged one. It names the file.
        OSError: if there is nothing of that name, or a file is missing.
    """
    from hf_genrec.catalogue.saved_files import hub_place

    config = read_config(folder, **hub_place(settings))
    auto, name = _auto_class_in(config, folder), _method_in(config, folder)
    module = import_module(f"{__package__}.methods.{name}.modeling_{name}")
    # Not the Auto class: beside an adapter it would open whatever model the adapter names.
    model_class: Any = getattr(module, str(config["auto_map"][auto]).split(".")[-1], None)
    if not hasattr(model_class, "processor_class"):
        raise ValueError(f"{folder}/config.json names no model of {module.__name__} under auto_map: save it again")
    model = model_class.from_pretrained(folder, trust_remote_code=False, **settings)
    if model.processor is None:
        raise FileNotFoundError(f"{folder} holds no catalogue.json: save the model with its processor, or download it")
    return model
