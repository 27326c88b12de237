"""Lists of recommended items as a pandas DataFrame."""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any


def load_pandas() -> Any:
    """
    pandas, by its name: transformers' loader refuses to open a folder whose code imports what is not installed.

    Raises:
        ImportError: if it is not installed.
    """
    try:
        return import_module("pandas")
    except ImportError as error:
        raise ImportError(f"as_frame needs pandas ({error}): pip install pandas, or leave as_frame out") from error


def recommendation_frame(
    users: Sequence[Any],
    item_ids: Sequence[Sequence[Any]],
    scores: Sequence[Sequence[float]],
    titles: Callable[[Any], str],
    user: str = "user",
):
    """
    A row per recommended item, user by user, best first.

    Args:
        users: B names of the users, whatever they are.
        item_ids, scores: B lists each.
        titles: from an item id to its title.
        user: what the first column is called.

    Returns:
        DataFrame with the columns `user`, `item`, `rank` (from 1), `score` and `title`. Users without any item have no
        row.

    Raises:
        ImportError: if pandas is not installed.
    """
    pandas = load_pandas()
    flat = [item_id for line in item_ids for item_id in line]
    of_items = {item_id: titles(item_id) for item_id in dict.fromkeys(flat)}
    columns = {
        user: [name for name, line in zip(users, item_ids, strict=True) for _ in line],
        "item": flat,
        "rank": [rank for line in item_ids for rank in range(1, len(line) + 1)],
        "score": [score for line in scores for score in line],
        "title": [of_items[item_id] for item_id in flat],
    }
    return pandas.DataFrame(columns).astype({"rank": "int64", "score": "float64"})
