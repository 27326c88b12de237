"""One `datasets.GeneratorBasedBuilder` per source, each with the configs `interactions` and `items`.

`load_source` calls the one that the settings name:

    tables = load_source(DataArguments(source="tabular", source_path="log.csv"))
    tables["interactions"], tables["items"]
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import datasets

    from hf_genrec.data.arguments import DataArguments


def load_source(
    arguments: "DataArguments", cache_dir: str | None = None, streaming: bool = False
) -> "dict[str, datasets.Dataset]":
    """The tables `interactions` and `items` of `arguments.source`.

    Raises:
        ValueError, FileNotFoundError: the source cannot be read; the message names file and line.
    """
    if arguments.source == "movielens":
        from hf_genrec.dataset_scripts import movielens

        return movielens.load(arguments.source_path, cache_dir=cache_dir, streaming=streaming)
    assert arguments.source_path is not None  # DataArguments has checked it
    if arguments.source != "tabular":
        source = import_module(f"{__name__}.{arguments.source}")
        return source.load(arguments.source_path, arguments.item_path, cache_dir, streaming)

    return _load_tabular(arguments, cache_dir, streaming)


def load_items(arguments: "DataArguments", cache_dir: str | None = None) -> "datasets.Dataset":
    """The table `items` of a tabular source alone.

    Raises:
        ValueError, FileNotFoundError: as [`load_source`].
    """
    return _load_tabular(arguments, cache_dir, names=("items",))["items"]


def _load_tabular(
    arguments: "DataArguments", cache_dir: str | None = None, streaming: bool = False, **names: Any
) -> "dict[str, datasets.Dataset]":
    from hf_genrec.dataset_scripts import tabular

    assert arguments.source_path is not None
    return tabular.load(
        arguments.source_path,
        arguments.item_path,
        user_column=arguments.user_column,
        item_column=arguments.item_column,
        time_column=arguments.time_column,
        rating_column=arguments.rating_column,
        time_unit=arguments.time_unit,
        title_column=arguments.title_column,
        description_column=arguments.description_column,
        categories_column=arguments.categories_column,
        image_column=arguments.image_column,
        image_folder=arguments.image_folder,
        cache_dir=cache_dir,
        streaming=streaming,
        **names,
    )
