"""The neighbours on an item's path are the items that have its codes."""

from itertools import permutations

import numpy as np
import pytest
from conftest import make_processor
from tiny_reg4rec import make_set_processor

from hf_genrec.semantic_ids.code_path import code_path


def check(processor, path, row, order):
    for step, rows in enumerate(path.left):
        same = processor.codes[:, order[: step + 1]] == processor.codes[row, order[: step + 1]]
        assert sorted(rows.tolist()) == np.flatnonzero(same.all(1)).tolist()
        popularity = processor.popularity[rows]
        assert (np.diff(popularity) <= 0).all()
    assert path.tokens == [f"<{'abc'[level]}_{processor.codes[row, level]}>" for level in order]


@pytest.mark.parametrize("unique", [True, False])
def test_of_a_trie(unique):
    processor = make_processor(num_items=60, unique=unique)
    for row in range(60):
        check(processor, code_path(processor, processor.trie, row), row, [0, 1, 2])
    with pytest.raises(ValueError, match="from the first level to the last only"):
        code_path(processor, processor.trie, 0, [1, 0, 2])


@pytest.mark.parametrize("unique", [True, False])
def test_of_sets_in_any_order(unique):
    processor = make_set_processor(num_items=30, unique=unique)
    for order in permutations(range(3)):
        for row in range(30):
            check(processor, code_path(processor, processor.item_sets, row, order), row, list(order))


def test_of_a_part_of_the_catalogue():
    processor = make_processor(num_items=60, unique=False)
    kept = np.arange(0, 60, 2)
    path = code_path(processor, processor.trie.restrict(kept), 4)
    assert set(np.concatenate(path.left).tolist()) <= set(kept.tolist())
    assert 4 in path.left[-1]
