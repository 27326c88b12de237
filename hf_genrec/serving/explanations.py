"""How a model came to an item: what its method shows of that, and the same as lines of text."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from hf_genrec.catalogue.item_trie import ItemTrie
from hf_genrec.explanation import CodePath, Explanation, HeatMap, Rankings
from hf_genrec.method import Method
from hf_genrec.semantic_ids.code_path import code_path
from hf_genrec.terminal import shown

NAMED = 3  # titles beside a step, a reader or a code


def explanations(
    method: Method, model: Any, history: np.ndarray, item: int, exclude_seen: bool = False
) -> list[Explanation]:
    """
    What is to be shown of how a model came to an item: by its method, and the item's place among ordered codes.

    Args:
        history: (n,) catalogue rows, oldest first.
        item: catalogue row.
        exclude_seen: whether the items of the history were left out.
    """
    found = list(method.explain(model, history, item, exclude_seen))
    trie = getattr(model.processor, "trie", None)
    if method.codes == "ordered" and isinstance(trie, ItemTrie):
        about = "Each code narrows the catalogue down. Beside it, the items that share the codes so far."
        path = code_path(model.processor, trie, item)
        found.append(Explanation("Where the item stands in the tree of semantic IDs", about, path))
    return found


def as_text(titles: Sequence[str], explanation: Explanation) -> list[str]:
    """An explanation as lines; titles, (N,) in catalogue order, are shown as a terminal may show them."""
    picture = explanation.picture
    if isinstance(picture, HeatMap):
        lines = _of_readers(titles, picture)
    elif isinstance(picture, Rankings):
        lines = _of_steps(titles, picture)
    else:
        lines = _of_codes(titles, picture)
    return [explanation.title, explanation.about, *(f"  {line}" for line in lines)]


def _of_readers(titles: Sequence[str], picture: HeatMap) -> list[str]:
    """The items that each reader read most."""
    lines = []
    for reader, note, shares, rest in zip(picture.readers, picture.notes, picture.values, picture.rest, strict=True):
        most = np.argsort(-shares, kind="stable")[:NAMED]
        parts = [f"{shares[place]:.0%} {shown(titles[picture.items[place]])}" for place in most]
        parts.append(f"{rest:.0%} {picture.rest_name}")
        lines.append(f"{reader}{f' ({note})' if note else ''}: {'; '.join(parts)}")
    return lines


def _of_steps(titles: Sequence[str], picture: Rankings) -> list[str]:
    """The best items of each step."""
    lines = []
    for step, (name, rows, rank) in enumerate(zip(picture.steps, picture.rows, picture.ranks, strict=True)):
        best = "; ".join(f"{place}. {shown(titles[row])}" for place, row in enumerate(rows[:NAMED], 1) if row >= 0)
        stands = f"this item is no. {rank:,}" if rank else "this item is left out"
        chosen = ", recommended" if step == picture.chosen else ""
        lines.append(f"{name}{chosen}: {best} ({stands})")
    return lines


def _of_codes(titles: Sequence[str], picture: CodePath) -> list[str]:
    """The items that each code leaves."""
    lines = []
    for token, note, left in zip(picture.tokens, picture.notes, picture.left, strict=True):
        some = "; ".join(shown(titles[row]) for row in left[:NAMED])
        count = f"{len(left):,} items" if len(left) > 1 else "1 item"
        lines.append(f"{token}{f', {note}' if note else ''}: {count}: {some}{'; ...' if len(left) > NAMED else ''}")
    return lines
