import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from hf_genrec.models.item_trie import ItemTrie, TrieLogitsProcessor

ANSWER = 99

catalogues = st.integers(1, 4).flatmap(
    lambda levels: st.lists(st.lists(st.integers(0, 5), min_size=levels, max_size=levels), min_size=1, max_size=30)
)


def next_tokens(ids, prefix):
    """What may follow a prefix, the slow way."""
    return sorted({tuple(row)[len(prefix)] for row in ids if tuple(row[: len(prefix)]) == tuple(prefix)})


@settings(max_examples=60, deadline=None)
@given(catalogues)
def test_children_of_every_prefix(ids):
    trie = ItemTrie.from_token_ids(np.array(ids))
    for level in range(len(ids[0])):
        prefixes = sorted({tuple(row[:level]) for row in ids})
        nodes = trie.walk(torch.tensor(prefixes).view(len(prefixes), level))
        row, token, child = trie.allowed(nodes, level)
        for place, prefix in enumerate(prefixes):
            assert token[row == place].tolist() == next_tokens(ids, prefix)
        grown = torch.cat([torch.tensor(prefixes).view(len(prefixes), level)[row], token[:, None]], 1)
        assert torch.equal(trie.walk(grown), child)


@settings(max_examples=60, deadline=None)
@given(catalogues, st.data())
def test_restricting_equals_building_anew(ids, data):
    ids = np.array(ids)
    keep = sorted(data.draw(st.sets(st.integers(0, len(ids) - 1), min_size=1)))
    part, anew = ItemTrie.from_token_ids(ids).restrict(keep), ItemTrie.from_token_ids(ids[keep], rows=keep)
    assert part.items.tolist() == anew.items.tolist()
    for mine, other in zip(part.edges + part.item_starts, anew.edges + anew.item_starts, strict=True):
        assert len(mine) == len(other)
    assert torch.equal(part.token_ids(), anew.token_ids())


@settings(max_examples=40, deadline=None)
@given(catalogues)
def test_token_ids_and_leaves_give_the_items_back(ids):
    ids = np.array(ids)
    trie = ItemTrie.from_token_ids(ids)
    assert torch.equal(trie.token_ids(), torch.from_numpy(ids)[trie.items])
    start, end = trie.items_below(trie.walk(torch.from_numpy(ids)), trie.num_levels)
    for row, (low, high) in enumerate(zip(start.tolist(), end.tolist(), strict=True)):
        assert sorted(trie.items[low:high].tolist()) == [i for i in range(len(ids)) if (ids[i] == ids[row]).all()]


def test_items_of_a_leaf_are_listed_by_popularity():
    trie = ItemTrie.from_token_ids([[1, 2], [1, 2], [0, 0], [1, 2]], popularity=[1, 5, 0, 5])
    assert trie.items.tolist() == [2, 1, 3, 0]


def test_unknown_prefixes_are_dead():
    trie = ItemTrie.from_token_ids([[1, 2], [3, 4]])
    assert trie.walk(torch.tensor([[1, 4], [7, 2], [3, 4], [1, 100]])).tolist() == [-1, -1, 1, -1]
    row, _, _ = trie.allowed(torch.tensor([-1]), 1)
    assert len(row) == 0


@settings(max_examples=40, deadline=None)
@given(catalogues, st.integers(0, 2**31))
def test_logits_processor_keeps_exactly_the_legal_scores(ids, seed):
    trie = ItemTrie.from_token_ids(np.array(ids))
    processor = TrieLogitsProcessor(trie, ANSWER)
    generator = torch.Generator().manual_seed(seed)
    for level in range(len(ids[0])):
        rows = [[5, 1, ANSWER, *row[:level]] for row in ids]
        scores = torch.randn(len(rows), 100, generator=generator)
        masked = processor(torch.tensor(rows), scores)
        for row, line, before in zip(ids, masked, scores, strict=True):
            legal = next_tokens(ids, row[:level])
            assert torch.isfinite(line).nonzero().flatten().tolist() == legal
            assert torch.equal(line[legal], before[legal])


def test_logits_processor_needs_an_answer_token():
    with pytest.raises(ValueError, match="answer token"):
        TrieLogitsProcessor(ItemTrie.from_token_ids([[1]]), ANSWER)(torch.tensor([[1, 2]]), torch.zeros(1, 5))


@pytest.mark.parametrize("ids", [np.empty((0, 3), dtype=int), np.array([[0.5, 1.0]]), np.array([[-1, 2]]), [1, 2]])
def test_catalogues_that_are_none(ids):
    with pytest.raises(ValueError, match=r"catalogue is empty|integers"):
        ItemTrie.from_token_ids(ids)


def test_no_candidate_left():
    with pytest.raises(ValueError, match="no item to recommend"):
        ItemTrie.from_token_ids([[1, 2]]).restrict([])


def test_files(tmp_path):
    ids = np.random.default_rng(0).integers(0, 9, (50, 3))
    trie = ItemTrie.from_token_ids(ids)
    save_file({name: tensor.contiguous() for name, tensor in trie.state_dict().items()}, tmp_path / "trie.safetensors")
    again = ItemTrie.from_state_dict(load_file(tmp_path / "trie.safetensors"))
    assert torch.equal(again.token_ids(), trie.token_ids())
    assert torch.equal(again.items, trie.items)
    assert torch.equal(again.walk(torch.from_numpy(ids)), trie.walk(torch.from_numpy(ids)))
