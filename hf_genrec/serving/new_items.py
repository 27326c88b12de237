"""Items that a trained model has not seen enter its catalogue by their text."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hf_genrec.pictures import IMAGE
from hf_genrec.serving.served_model import ServedModel


def encode_items(served: ServedModel, items: Sequence[Mapping[str, str]]) -> tuple[dict[str, np.ndarray], list[str]]:
    """
    What new items enter a model's catalogue with: `codes` (M, L) of its item tokenizer, `vectors` (M, D), or both; and
    those of their columns that the model's text is not made of.

    Args:
        items: `item_id`, `title` and the further text columns that the catalogue was made with.

    Raises:
        ValueError: for an id that stands twice, a column that is missing, or a model whose catalogue cannot grow.
        ImportError: where the text model's library is not installed.
    """
    import pyarrow as pa

    from hf_genrec.semantic_ids.text import DEFAULT_COLUMNS
    from hf_genrec.training.lineage import read_lineage

    twice = [item_id for item_id, n in Counter(item["item_id"] for item in items).items() if n > 1]
    if twice:
        raise ValueError(f"item {twice[0]!r} stands twice among the new items: give each once")
    columns = dict.fromkeys(column for item in items for column in item)
    table = pa.table({column: [item.get(column) for item in items] for column in columns})
    folder, encoded, read = Path(served.folder), {}, None
    if served.method.codes:
        encoded["codes"] = _codes(served, table)
        read = served.item_tokenizer.config.text_columns
    if served.method.encode_items is not None:
        encoded["vectors"] = served.method.encode_items(served.model, folder, table)
        read = read or (read_lineage(folder) or {}).get("model", {}).get("text_columns")
    if not encoded:
        raise ValueError(f"{served.method.title} learns what it knows of an item from its interactions: train it again")
    return encoded, [name for name in columns if name not in ("item_id", "title", *(read or DEFAULT_COLUMNS))]


def enter_items(served: ServedModel, items: Sequence[Mapping[str, str]], encoded: Mapping[str, np.ndarray]) -> None:
    """Put new items at the catalogue's end; not while the model answers."""
    grows = served.model if hasattr(served.model, "add_items") else served.processor
    grows.add_items([item["item_id"] for item in items], **encoded, titles=[item["title"] for item in items])


def remove_item(served: ServedModel, item_id: str) -> None:
    """Take an item out of the catalogue again; not while the model answers. Rows behind it move up."""
    shrinks = served.model if hasattr(served.model, "remove_items") else served.processor
    shrinks.remove_items([item_id])
    served.catalogue += 1


def _codes(served: ServedModel, table: Any) -> np.ndarray:
    from hf_genrec.item_tokenizers import load_item_tokenizer
    from hf_genrec.semantic_ids.build import encode_new_items
    from hf_genrec.semantic_ids.ids import SemanticIds

    if served.item_tokenizer is None:
        folder = Path(served.folder) / "item_tokenizer"
        if not folder.is_dir():
            raise ValueError(f"{served.folder} holds no item tokenizer, which gives new items their codes")
        served.item_tokenizer = load_item_tokenizer(folder)
    processor = served.processor
    sizes = list(processor.codebook_sizes)
    if len(sizes) > len(served.item_tokenizer.config.codebook_sizes):
        policy = "extra_code"
    else:
        policy = "resolve" if len(np.unique(processor.codes, axis=0)) == len(processor.codes) else "keep"
    report = {"collisions": {"policy": policy}}
    known = SemanticIds(list(processor.item_ids), processor.codes, sizes, report)
    named = [name for name in table.column_names if name != IMAGE]  # files of this machine that others name stay shut
    grown = encode_new_items(served.item_tokenizer, known, table.select(named))
    return grown.codes[-table.num_rows :]
