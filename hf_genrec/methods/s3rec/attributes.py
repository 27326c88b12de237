"""The attributes of items, from columns of the items table."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hf_genrec.data.cell_values import cell_values

if TYPE_CHECKING:
    import pyarrow as pa

DEFAULT_COLUMN = "categories"


def item_attributes(items: "pa.Table", columns: Sequence[str] | None = None) -> tuple[np.ndarray, list[str]]:
    """
    Which attributes every item has, and their names, `column: value`, in the order in which they appear.

    Args:
        items: one row per item.
        columns: see [`cell_values`]; None takes `categories`, and where there is none, no item has any.

    Returns:
        (items, A) boolean, and A names.

    Raises:
        ValueError: for a column that is missing.
    """
    if columns is None:
        columns = [DEFAULT_COLUMN] if DEFAULT_COLUMN in items.column_names else []
    for column in columns:
        if column not in items.column_names:
            raise ValueError(
                f"attribute_columns: the items table has no column {column}; name some of "
                f"{', '.join(items.column_names)}"
            )
    places: dict[str, int] = {}
    rows, found = [], []
    for column in columns:
        for row, cell in enumerate(items.column(column).to_pylist()):
            for value in cell_values(cell):
                rows.append(row)
                found.append(places.setdefault(f"{column}: {value}", len(places)))
    has = np.zeros((items.num_rows, len(places)), dtype=bool)
    has[rows, found] = True
    return has, list(places)
