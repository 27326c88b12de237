"""Item table -> one text per item."""

import logging

import pyarrow as pa

logger = logging.getLogger(__name__)

DEFAULT_COLUMNS = ("title", "categories", "description")


def item_texts(items: pa.Table, text_columns: list[str] | None = None) -> list[str]:
    """One text per row of `items`: its columns in order, as sentences; empty and null cells are skipped.

    ("Toy Story", None, "A cowboy doll.") becomes "Toy Story. A cowboy doll." An item without any text is represented by
    its item_id; how many there are is logged once.

    Args:
        items: a column item_id and text columns.
        text_columns: the columns that make the text; None for title, categories, description, where present.

    Raises:
        ValueError: a named column, or every default column, is missing.
    """
    if "item_id" not in items.column_names:
        raise ValueError(f"the items table has no column item_id; it has {', '.join(items.column_names)}")
    columns = text_columns or [name for name in DEFAULT_COLUMNS if name in items.column_names]
    missing = [name for name in columns if name not in items.column_names]
    if missing or not columns:
        wanted = f"column {missing[0]}" if missing else f"column {' or '.join(DEFAULT_COLUMNS)}"
        raise ValueError(f"the items table has no {wanted}; set text_columns, from: {', '.join(items.column_names)}")

    texts, without_text = [], 0
    item_ids = items.column("item_id").to_pylist()
    rows = zip(*(items.column(name).to_pylist() for name in columns), strict=True)
    for item_id, cells in zip(item_ids, rows, strict=True):
        sentences = [" ".join(str(cell).split()).rstrip(".") for cell in cells if cell is not None]
        text = ". ".join(sentence for sentence in sentences if sentence)
        without_text += not text
        texts.append(f"{text}." if text else str(item_id))
    if without_text:
        logger.warning(
            "%d of %d items have no text in the columns %s; their item_id stands in for it",
            without_text,
            len(texts),
            ", ".join(columns),
        )
    return texts
