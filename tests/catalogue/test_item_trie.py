"""The trie against a dictionary of prefixes, and what changes it against a trie built anew."""

import numpy as np
import pytest
import torch
from conftest import make_processor
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from hf_genrec.catalogue import trie_arrays
from hf_genrec.catalogue.item_trie import ItemTrie
from hf_genrec.decoding.trie_logits_processor import TrieLogitsProcessor

ANSWER = 99

catalogues = st.integers(1, 4).flatmap(
    lambda levels: st.lists(st.lists(st.integers(0, 5), min_size=levels, max_size=levels), min_size=1, max_size=30)
)


def next_tokens(ids, prefix):
    """What may follow a prefix, the slow way."""
    return sorted({tuple(row)[len(prefix)] for row in ids if tuple(row[: len(prefix)]) == tuple(prefix)})


def prefixes_of(ids, level):
    """The different prefixes in lexicographic order, so that a prefix's place is its node."""
    return sorted({tuple(row[:level]) for row in ids})


def order_of(ids, popularity):
    """The rows as `items` should list them."""
    return sorted(range(len(ids)), key=lambda row: (tuple(ids[row]), -popularity[row], row))


def has_table(ids, level):
    """Whether at least half of all pairs of a node and a token, from the first of the level to the last, are legal."""
    pairs, column = prefixes_of(ids, level + 1), [row[level] for row in ids]
    return len(prefixes_of(ids, level)) * (max(column) - min(column) + 1) <= 2 * len(pairs)


def assert_equal(trie, other):
    """Array by array, with their types, and in what follows from them."""
    mine, others = trie.state_dict(), other.state_dict()
    assert mine.keys() == others.keys()
    for name, tensor in mine.items():
        assert tensor.dtype == others[name].dtype, name
        assert tensor.tolist() == others[name].tolist(), name
    for level in range(trie.num_levels):
        nodes = torch.arange(-1, len(trie.child_starts[level]) - 1)
        assert all(map(torch.equal, trie.allowed(nodes, level), other.allowed(nodes, level)))


@settings(max_examples=60, deadline=None)
@given(catalogues, st.data())
def test_every_answer_equals_a_dictionary_of_prefixes(ids, data):
    popularity = data.draw(st.lists(st.integers(0, 2), min_size=len(ids), max_size=len(ids)))
    levels, order = len(ids[0]), order_of(ids, popularity)
    trie = ItemTrie.from_token_ids(ids, popularity=popularity)
    assert (len(trie), trie.num_levels, trie.items.tolist()) == (len(ids), levels, order)
    for level in range(levels + 1):
        prefixes = prefixes_of(ids, level)
        nodes = trie.walk(torch.tensor(prefixes, dtype=torch.long).view(len(prefixes), level))
        assert nodes.tolist() == list(range(len(prefixes)))
        for prefix, low, high in zip(prefixes, *map(torch.Tensor.tolist, trie.items_below(nodes, level)), strict=True):
            assert order[low:high] == [row for row in order if tuple(ids[row][:level]) == prefix]
        if level == levels:
            continue
        tokens, children, mask = trie.allowed(torch.stack([nodes, torch.full_like(nodes, -1)]), level)
        assert tokens.shape == children.shape == mask.shape
        column = [row[level] for row in ids]
        width = max(column) - min(column) + 1 if has_table(ids, level) else trie.max_children[level]
        assert tokens.shape == (2, len(nodes), width)
        assert ((mask == 0) | (mask == -torch.inf)).all()
        assert (mask[1] == -torch.inf).all()
        scores = torch.arange(2.0 * len(nodes) * 10).view(2, len(nodes), 10)
        assert torch.equal(trie.gather(scores, tokens, level), scores.gather(2, tokens.long()))
        below = {prefix: node for node, prefix in enumerate(prefixes_of(ids, level + 1))}
        most = 0
        for prefix, token, child, is_legal in zip(prefixes, tokens[0], children[0], mask[0] == 0, strict=True):
            expected = next_tokens(ids, prefix)
            assert token[is_legal].tolist() == expected
            assert child[is_legal].tolist() == [below[*prefix, code] for code in expected]
            most = max(most, len(expected))
        assert trie.max_children[level] == most


@settings(max_examples=60, deadline=None)
@given(catalogues, st.data())
def test_steps_take_any_integers(ids, data):
    trie = ItemTrie.from_token_ids(ids)
    code = st.integers(-2, 7) | st.sampled_from([-(2**63), -(2**31), 2**31, 2**32 + 1, 2**63 - 1])
    walks = data.draw(st.lists(st.lists(code, min_size=len(ids[0]), max_size=len(ids[0])), min_size=1))
    walks += ids
    for level in range(len(ids[0]) + 1):
        nodes = {prefix: node for node, prefix in enumerate(prefixes_of(ids, level))}
        found = trie.walk(torch.tensor(walks)[:, :level])
        assert found.tolist() == [nodes.get(tuple(walk[:level]), -1) for walk in walks]
        start, end = trie.items_below(found, level)
        assert (start == end).tolist() == (found < 0).tolist()
    first = torch.tensor(walks)[:, :1]
    grid = first.expand(-1, 3)
    assert torch.equal(trie.step(torch.zeros_like(grid), grid, 0), trie.walk(first)[:, None].expand(-1, 3))


@pytest.mark.parametrize("last", [2, 20])
def test_steps_do_not_wait_for_the_device(last):
    """The meta device has no values: whatever needed one to go on, or to know a shape, would be an error."""
    ids = [[1, 2], [1, 3], [4, last]]
    assert has_table(ids, 1) == (last == 2)
    trie = ItemTrie.from_token_ids(ids).to("meta")
    nodes = torch.zeros(5, 3, dtype=torch.long, device="meta")
    allowed = trie.allowed(nodes, 1)
    assert [tensor.shape for tensor in allowed] == [(5, 3, 2)] * 3
    assert trie.gather(torch.zeros(5, 3, 30, device="meta"), allowed[0], 1).shape == (5, 3, 2)
    assert trie.step(nodes, nodes, 1).shape == (5, 3)
    assert trie.walk(nodes[:, :2]).shape == (5,)


@settings(max_examples=60, deadline=None)
@given(catalogues, st.data())
def test_items_have_a_place_and_token_ids(ids, data):
    trie = ItemTrie.from_token_ids(ids)
    assert trie.token_ids().tolist() == [ids[row] for row in trie.items.tolist()]
    some = torch.tensor(data.draw(st.lists(st.integers(0, len(ids) - 1))), dtype=torch.long)
    assert torch.equal(trie.token_ids(some), trie.token_ids()[some])

    kept = data.draw(st.sets(st.integers(0, len(ids) - 1), min_size=1))
    part, rows = trie.restrict(sorted(kept)), list(range(len(ids)))
    expected = [part.items.tolist().index(row) if row in kept else -1 for row in rows]
    assert part.places(rows).tolist() == expected
    assert part.places(rows, torch.tensor(ids)).tolist() == expected
    assert trie.places([-1, len(ids), 2**40]).tolist() == [-1] * 3


@settings(max_examples=60, deadline=None)
@given(catalogues, st.data())
def test_restricting_removing_and_inserting_equal_building_anew(ids, data):
    count = len(ids)
    ids = np.array(ids)
    popularity = np.array(data.draw(st.lists(st.integers(0, 2), min_size=count, max_size=count)))
    rows = np.array(data.draw(st.permutations(range(0, 7 * count, 7))))
    kept = np.array(sorted(data.draw(st.sets(st.integers(0, count - 1), min_size=1))))
    whole = ItemTrie.from_token_ids(ids, rows, popularity)
    anew = ItemTrie.from_token_ids(ids[kept], rows[kept], popularity[kept])
    gone = np.setdiff1d(np.arange(count), kept)
    assert_equal(whole.restrict(rows[kept]), anew)
    assert_equal(whole.remove(rows[gone]), anew)

    order = data.draw(st.permutations(gone.tolist()))
    later = np.array([*popularity[kept], *-np.arange(1, len(order) + 1)])  # after all others, in the order given
    both = [*kept, *order]
    grown = anew.insert(ids[order], rows[order])
    assert_equal(grown, ItemTrie.from_token_ids(ids[both], rows[both], later))
    assert_equal(grown.remove(rows[order]), anew)
    assert_equal(anew, ItemTrie.from_token_ids(ids[kept], rows[kept], popularity[kept]))  # none changed in place


def test_items_added_to_a_catalogue_stand_as_if_they_had_always_been_there():
    processor, count = make_processor(num_items=30, sizes=(3, 3), unique=False), 12
    codes = np.random.default_rng(0).integers(0, 3, (count, 2))
    new = [f"new-{place}" for place in range(count)]
    processor.add_items(new[:5], codes[:5]).add_items([], codes[:0]).add_items(new[5:], codes[5:])
    assert processor.item_ids[30:] == new
    assert_equal(processor.trie, ItemTrie.from_token_ids(processor.token_ids, popularity=processor.popularity))


def test_what_a_change_leaves_alone_is_shared():
    trie = ItemTrie.from_token_ids([[1, 2, 3], [1, 4, 5], [6, 7, 8]])
    grown = trie.insert([[1, 4, 9]], [3])
    for before, after in ((trie, grown), (grown, grown.remove([3]))):
        assert after.tokens[0].data_ptr() == before.tokens[0].data_ptr()
        assert after.tokens[1].data_ptr() == before.tokens[1].data_ptr()
        assert after.child_starts[1] is before.child_starts[1]
    assert trie.insert(np.empty((0, 3), dtype=int), []) is trie.remove([]) is trie


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint16])
def test_codes_that_need_more_than_one_sorting_key(dtype):
    """Six levels of 16 bits each; the rows come in any order."""
    rng = np.random.default_rng(0)
    ids = rng.choice([0, 1, 2**15, 2**16 - 1], (300, 6)).astype(dtype)
    popularity = rng.integers(0, 3, 300).astype(np.uint8)
    trie = ItemTrie.from_token_ids(ids, popularity=popularity)
    assert trie.items.tolist() == order_of(ids.tolist(), popularity.tolist())
    assert torch.equal(trie.walk(torch.from_numpy(ids.astype(np.int64))).unique(), torch.arange(len(trie.tokens[-1])))


def test_tables_are_half_full_and_small(monkeypatch):
    """Two nodes and the tokens 3 to 6: eight pairs, of which four are legal, or three."""
    ids = np.array([[0, 3], [0, 6], [1, 3], [1, 6]])

    def candidates(trie):
        return trie.allowed(torch.tensor([0]), 1)[0].tolist()

    whole = ItemTrie.from_token_ids(ids)
    assert candidates(whole) == [[3, 4, 5, 6]]
    assert candidates(whole.remove([2])) == candidates(ItemTrie.from_token_ids(ids[:3])) == [[3, 6]]
    assert candidates(whole.remove([2]).insert(ids[2:3], [2])) == [[3, 4, 5, 6]]
    monkeypatch.setattr(trie_arrays, "MAX_TABLE", 7)
    assert candidates(ItemTrie.from_token_ids(ids)) == [[3, 6]]


def test_large_tokens():
    trie = ItemTrie.from_token_ids([[2**31 - 1, 0], [0, 2**31 - 1], [2**31 - 1, 2**31 - 1]])
    assert trie.token_ids().tolist() == [[0, 2**31 - 1], [2**31 - 1, 0], [2**31 - 1, 2**31 - 1]]
    tokens, children, mask = ItemTrie.from_token_ids([[2**31 - 1]]).allowed(torch.zeros(1, dtype=torch.long), 0)
    assert (tokens.tolist(), children.tolist(), mask.tolist()) == ([[2**31 - 1]], [[0]], [[0.0]])


@pytest.mark.parametrize("codebook", [256, 38_000])
def test_bytes_per_item_and_a_mapped_file(tmp_path, codebook):
    """Small codebooks, and four that fill a vocabulary of 152,000 so that hardly any prefix is shared."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, codebook, (200_000, 4)) + codebook * np.arange(4)
    trie = ItemTrie.from_token_ids(ids)
    tensors = trie.state_dict()
    assert sum(tensor.nbytes for tensor in tensors.values()) <= 32 * len(ids)
    path = tmp_path / "trie.safetensors"
    save_file(tensors, path)
    assert path.stat().st_size <= 32 * len(ids)

    mapped = ItemTrie.from_state_dict(load_file(path))
    assert_equal(mapped, trie)
    queries = torch.from_numpy(ids[:1000])
    assert torch.equal(mapped.walk(queries), trie.walk(queries))
    new = rng.integers(0, codebook, (1000, 4)) + codebook * np.arange(4)
    rows = np.arange(len(ids), len(ids) + 1000)
    grown = mapped.insert(new, rows)
    assert_equal(grown, ItemTrie.from_token_ids(np.concatenate([ids, new])))
    assert_equal(grown.remove(rows), trie)
    some = rng.choice(len(ids), 1000)
    assert torch.equal(mapped.places(some), mapped.places(some, torch.from_numpy(ids[some])))


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("items", torch.zeros(2, dtype=torch.int32)),
        ("child_starts.1", torch.zeros(2, dtype=torch.int32)),
        ("tokens.2", torch.zeros(9, dtype=torch.int32)),
        ("max_children", torch.ones(2, dtype=torch.int64)),
        ("tokens.2", None),
        ("child_starts.2", None),
        ("stride", torch.ones(1)),
    ],
)
def test_arrays_that_do_not_belong_together(name, tensor):
    tensors = ItemTrie.from_token_ids([[1, 2], [3, 4], [3, 5]]).state_dict()
    if tensor is None:
        del tensors[name]
    else:
        tensors[name] = tensor
    with pytest.raises(ValueError, match="save it again"):
        ItemTrie.from_state_dict(tensors)


@pytest.mark.parametrize(
    "ids",
    [np.empty((0, 3), dtype=int), np.array([[0.5, 1.0]]), np.array([[-1, 2]]), [1, 2], [[2**31]]],
)
def test_catalogues_that_are_none(ids):
    with pytest.raises(ValueError, match=r"catalogue is empty|integers"):
        ItemTrie.from_token_ids(ids)


def test_changes_that_make_no_sense():
    trie = ItemTrie.from_token_ids([[1, 2], [3, 4]])
    for rows in ([5, 1], [5, 5]):
        with pytest.raises(ValueError, match=f"Row {rows[1]} is already in the trie"):
            trie.insert([[1, 2], [1, 3]], rows)
    with pytest.raises(ValueError, match="New items have 3 token ids, those of the trie 2"):
        trie.insert([[1, 2, 3]], [5])
    for rows in ([5, 6], [-1], [2**31]):
        with pytest.raises(ValueError, match="one number from 0"):
            trie.insert([[1, 2]], rows)
    with pytest.raises(ValueError, match="Row 7 is not in the trie"):
        trie.remove([0, 7])
    with pytest.raises(ValueError, match="keep at least one"):
        trie.remove([0, 1])
    with pytest.raises(ValueError, match="no item to recommend"):
        trie.restrict([])


@settings(max_examples=40, deadline=None)
@given(catalogues, st.integers(0, 2**31))
def test_logits_processor_keeps_exactly_the_legal_scores(ids, seed):
    trie = ItemTrie.from_token_ids(np.array(ids))
    processor = TrieLogitsProcessor(trie, ANSWER)
    generator = torch.Generator().manual_seed(seed)
    for level in range(len(ids[0])):
        rows = [[5, 1, ANSWER, *row[:level]] for row in ids]
        scores = torch.randn(len(rows), 100, generator=generator)
        before, masked = scores.clone(), processor(torch.tensor(rows), scores)
        assert torch.equal(scores, before)
        for row, line, unmasked in zip(ids, masked, before, strict=True):
            legal = next_tokens(ids, row[:level])
            assert torch.isfinite(line).nonzero().flatten().tolist() == legal
            assert torch.equal(line[legal], unmasked[legal])


@settings(max_examples=40, deadline=None)
@given(catalogues, st.data())
def test_logits_processor_takes_each_row_as_it_is(ids, data):
    """Rows at different levels, finished ones and ones that left the catalogue, in one batch."""
    levels = len(ids[0])
    answers = data.draw(st.lists(st.lists(st.integers(0, 6), max_size=levels + 3), min_size=1, max_size=8))
    answers += [row[:level] for level, row in enumerate(ids[: levels + 1])]
    width = levels + 6
    rows = [[ANSWER, *[5] * (width - 2 - len(answer)), ANSWER, *answer] for answer in answers]
    scores = torch.randn(len(rows), 100)
    masked = TrieLogitsProcessor(ItemTrie.from_token_ids(ids), ANSWER)(torch.tensor(rows), scores)
    for answer, line, before in zip(answers, masked, scores, strict=True):
        legal = next_tokens(ids, answer) if len(answer) < levels else []
        expected = torch.full_like(before, -torch.inf)
        expected[legal] = before[legal]
        assert torch.equal(line, expected if legal else before)


@pytest.mark.parametrize("length", [2, 9])
def test_logits_processor_needs_an_answer_token(length):
    rows = torch.ones(2, length, dtype=torch.long)
    rows[0, 0] = ANSWER
    with pytest.raises(ValueError, match="answer token"):
        TrieLogitsProcessor(ItemTrie.from_token_ids([[1]]), ANSWER)(rows, torch.zeros(2, 5))
