"""An item's codes one after the other, and the items that have them, too: the branch of a tree with its neighbours."""

from collections.abc import Sequence

import numpy as np
import torch

from hf_genrec.catalogue.flat_lists import expand_ranges
from hf_genrec.catalogue.item_sets import ItemSets
from hf_genrec.catalogue.item_trie import ItemTrie
from hf_genrec.catalogue.processing_codes import CodeProcessor, code_token
from hf_genrec.explanation import CodePath


def code_path(
    processor: CodeProcessor,
    index: ItemTrie | ItemSets,
    row: int,
    order: Sequence[int] | None = None,
    notes: Sequence[str] | None = None,
) -> CodePath:
    """
    The path to an item in the index that the search walks, code by code.

    Args:
        processor: with its catalogue.
        index: the processor's trie or its item sets.
        row: of the item.
        order: the codebook that each step writes a code of; by default 0, 1, ..., L - 1, the one order of a trie.
        notes: (L,) what is to be said of each step.

    Raises:
        ValueError: for another order than a trie has.
    """
    levels = list(range(processor.num_levels)) if order is None else [int(level) for level in order]
    if isinstance(index, ItemTrie) and levels != sorted(levels):
        raise ValueError(f"order={levels}: a trie holds codes from the first level to the last only.")
    index = index.to("cpu")
    tokens = torch.from_numpy(processor.token_ids[row][levels])[None]
    left = [_rows_left(index, tokens[:, : step + 1]) for step in range(len(levels))]
    return CodePath(
        [code_token(level, int(processor.codes[row, level])) for level in levels],
        list(notes or [""] * len(levels)),
        [rows[np.lexsort([rows, -processor.popularity[rows]])] for rows in left],
    )


def _rows_left(index: ItemTrie | ItemSets, tokens: torch.Tensor) -> np.ndarray:
    """Catalogue rows of the items that have the codes `tokens` (1, l)."""
    if isinstance(index, ItemTrie):
        starts, ends = index.items_below(index.walk(tokens), tokens.shape[1])
    else:
        starts, ends = index.item_ranges(index.walk(tokens).leaves)
    places, _ = expand_ranges(starts, ends)
    return index.items[places].numpy().astype(np.int64)
