"""One category for each item, from a column of the items table."""

from collections import Counter
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from hf_genrec.data.cell_values import cell_values

if TYPE_CHECKING:  # the method's keys are read where no log is
    import pyarrow as pa

CategoryRule = Literal["first", "frequent"]
DEFAULT_COLUMN = "categories"
OTHER = "other"
MAX_SHARE = 0.25  # of the items, for the rule `frequent`: what most items have says nothing about one of them


def item_categories(
    items: "pa.Table", column: str | None = None, rule: CategoryRule = "first"
) -> tuple[np.ndarray, list[str]]:
    """
    The category of every item and the names of the categories, most frequent first.

    A cell is a JSON list, or names separated by ", ". ("Action, Comedy") has the values Action and Comedy.

    Args:
        items: one row per item.
        column: a text column; None for `categories`, and where there is none, every item is in `other`.
        rule: `first` takes an item's first value; `frequent` the one that most items have, of those that at most a
            quarter of the items have (ties to the first name in the alphabet).

    Returns:
        (items,) int64 places among the names, and the names. Items without a value that counts are in `other`.

    Raises:
        ValueError: a column that is named but missing, or another rule.
    """
    if rule not in get_args(CategoryRule):
        raise ValueError(f"category_rule: {rule!r} is not one of {', '.join(get_args(CategoryRule))}")
    if column is not None and column not in items.column_names:
        raise ValueError(
            f"the items table has no column {column}; set category_column, from: {', '.join(items.column_names)}"
        )
    name = column or DEFAULT_COLUMN
    cells = items.column(name).to_pylist() if name in items.column_names else [None] * items.num_rows
    values = [cell_values(cell) for cell in cells]
    if rule == "frequent":
        carriers = Counter(value for of_item in values for value in set(of_item))
        limit = MAX_SHARE * items.num_rows
        values = [
            sorted((v for v in of_item if carriers[v] <= limit), key=lambda v: (-carriers[v], v)) for of_item in values
        ]
    chosen = [of_item[0] if of_item else OTHER for of_item in values]
    counts = Counter(chosen)
    names = sorted(counts, key=lambda value: (-counts[value], value))
    place = {value: index for index, value in enumerate(names)}
    return np.array([place[value] for value in chosen], dtype=np.int64), names
