"""The values of a cell that holds several: an item's categories, say."""

import json
from typing import Any


def cell_values(cell: Any) -> list[str]:
    """
    The names in a cell, in their order: a list of them, in JSON, too, or names separated by ", ".

    Example:

    ```python
    >>> cell_values("Action, Comedy"), cell_values('["Toys, Games"]'), cell_values(None)
    (['Action', 'Comedy'], ['Toys, Games'], [])
    ```
    """
    if cell is None or cell == "":
        return []
    parts = cell
    if not isinstance(cell, list):
        try:
            parts = json.loads(cell) if isinstance(cell, str) else None
        except (ValueError, RecursionError):  # a name that only looks like a list
            parts = None
        parts = parts if isinstance(parts, list) else str(cell).split(", ")
    return [str(part).strip() for part in parts if str(part).strip()]
