"""Item sets against brute force over the catalogue."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_genrec.catalogue import item_sets
from hf_genrec.catalogue.item_sets import ItemSets
from hf_genrec.decoding.set_logits_processor import SetLogitsProcessor

SIZES = (3, 2, 4)
STARTS = (0, 3, 5)  # first token of each codebook
TOKENS = sum(SIZES)


@st.composite
def catalogues(draw):
    """(N, 3) token ids, with items that share all codes."""
    codes = draw(st.lists(st.tuples(*(st.integers(0, size - 1) for size in SIZES)), min_size=1, max_size=15))
    return np.array(codes) + np.array(STARTS)


def leaves_by_hand(token_ids) -> list[tuple]:
    return sorted(set(map(tuple, token_ids.tolist())))


def compatible(leaves: list[tuple], chosen: list[int]) -> list[int]:
    """Leaves that hold all chosen tokens; none if a token was chosen twice or two are of one codebook."""
    codebooks = [sum(token >= start for start in STARTS) for token in chosen]
    if len(set(codebooks)) < len(chosen) or any(token >= TOKENS for token in chosen):
        return []
    return [place for place, leaf in enumerate(leaves) if set(chosen) <= set(leaf)]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_states_equal_brute_force(data):
    token_ids = data.draw(catalogues())
    leaves, sets = leaves_by_hand(token_ids), ItemSets.from_token_ids(token_ids)
    assert sets.leaf_tokens.tolist() == list(map(list, leaves))
    length = data.draw(st.integers(0, 3))
    path = st.lists(st.integers(0, TOKENS), min_size=length, max_size=length)
    paths = data.draw(st.lists(path, min_size=1, max_size=5))
    # Half of the paths follow an item, so that many are alive.
    for path in paths[::2]:
        path[:] = data.draw(st.permutations(data.draw(st.sampled_from(leaves))))[:length]
    states = sets.walk(torch.tensor(paths, dtype=torch.long).view(len(paths), length))
    legal = sets.allowed(states)
    for line, path in enumerate(paths):
        expected = compatible(leaves, path)
        if length:
            found = states.leaves[states.offsets[line] : states.offsets[line + 1]].tolist()
            assert found == expected
            assert states.first_leaves()[line] == (expected[0] if expected else -1)
        after = {token for place in expected for token in leaves[place]} - set(path)
        assert legal[line].nonzero().flatten().tolist() == sorted(after)
        if length < sets.num_codebooks:
            used = {sets.codebook_of[token].item() for token in path if token < sets.num_tokens}
            in_turn = {token for token in after if sets.codebook_of[token] == length}
            if expected and used == set(range(length)):
                assert sets.allowed(states, "fixed")[line].nonzero().flatten().tolist() == sorted(in_turn)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_completions_equal_brute_force(data):
    token_ids = data.draw(catalogues())
    leaves, sets = leaves_by_hand(token_ids), ItemSets.from_token_ids(token_ids)
    gone: list[set] = [set()] * 3
    if data.draw(st.booleans()):
        gone = data.draw(st.lists(st.sets(st.integers(0, len(leaves) - 1)), min_size=3, max_size=3))
        keys = torch.tensor([s * len(leaves) + leaf for s, those in enumerate(gone) for leaf in sorted(those)]).long()
        states, paths = sets.start(3, keys), [[], [], []]
    else:
        length = data.draw(st.integers(0, 2))
        paths = [data.draw(st.permutations(data.draw(st.sampled_from(leaves))))[:length] for _ in gone]
        states = sets.walk(torch.tensor(paths, dtype=torch.long).view(3, length))
    unused = [[r for r in range(3) if not any(leaf[r] in path for leaf in leaves)] for path in paths]
    codebooks = torch.tensor([data.draw(st.sampled_from(of_state)) for of_state in unused])
    log_probs = torch.from_numpy(np.random.default_rng(data.draw(st.integers(0, 99))).random((3, TOKENS + 2))).log()
    with pytest.MonkeyPatch.context() as patch:  # part by part
        patch.setattr(item_sets, "MAX_COMPLETIONS", data.draw(st.sampled_from([1, 12, 1000])))
        best = sets.best_completions(states, log_probs, codebooks)
    for line, path in enumerate(paths):
        expected = np.full(sets.num_tokens, -np.inf)
        for place in compatible(leaves, path):
            needed = [token for token in leaves[place] if token not in path]
            chosen = leaves[place][codebooks[line]]
            if place not in gone[line]:
                expected[chosen] = max(expected[chosen], sum(log_probs[line, token].item() for token in needed))
        assert best[line].tolist() == pytest.approx(expected.tolist(), abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_excluded_leaves_are_never_led_to(data):
    token_ids = data.draw(catalogues())
    leaves, sets = leaves_by_hand(token_ids), ItemSets.from_token_ids(token_ids)
    gone = data.draw(st.lists(st.sets(st.integers(0, len(leaves) - 1)), min_size=1, max_size=4))
    keys = torch.tensor([s * len(leaves) + leaf for s, those in enumerate(gone) for leaf in sorted(those)]).long()
    states = sets.start(len(gone), keys)
    legal = sets.allowed(states)
    for state, those in enumerate(gone):
        left = [leaf for place, leaf in enumerate(leaves) if place not in those]
        assert legal[state].nonzero().flatten().tolist() == sorted({token for leaf in left for token in leaf})
        for token in range(sets.num_tokens):
            after = sets.advance(states, torch.tensor([state]), torch.tensor([token]))
            assert after.leaves.tolist() == [p for p, leaf in enumerate(leaves) if token in leaf and p not in those]


@settings(max_examples=40, deadline=None)
@given(catalogues(), st.integers(1, 3))
def test_outcomes_tell_apart_what_should_be(token_ids, length):
    """Equal for the same codes in any order, and for whatever leaves the same single item; different otherwise."""
    leaves, sets = leaves_by_hand(token_ids), ItemSets.from_token_ids(token_ids)
    paths = []
    for leaf in leaves:
        for order in ((0, 1, 2), (2, 1, 0), (1, 0, 2), (2, 0, 1)):
            paths.append([leaf[codebook] for codebook in order[:length]])
    numbers = sets.outcomes(sets.walk(torch.tensor(paths))).tolist()
    meanings = []
    for path in paths:
        left = compatible(leaves, path)
        meanings.append(("leaf", left[0]) if len(left) == 1 else ("codes", frozenset(path)))
    assert len(set(numbers)) == len(set(zip(numbers, meanings, strict=True))) == len(set(meanings))
    assert sets.outcomes(sets.walk(torch.tensor([[0, 0]]))).tolist() == [-1]


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_restricting_equals_building_anew(data):
    token_ids = data.draw(catalogues())
    popularity = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(token_ids), max_size=len(token_ids))))
    rows = np.array(sorted(data.draw(st.sets(st.integers(0, len(token_ids) - 1), min_size=1))))
    part = ItemSets.from_token_ids(token_ids, popularity).restrict(rows)
    anew = ItemSets.from_token_ids(token_ids[rows], popularity[rows])
    for name, tensor in anew.state_dict().items():
        expected = torch.from_numpy(rows)[tensor.long()] if name == "items" else tensor
        assert part.state_dict()[name].tolist() == expected.tolist(), name
    leaves = part.leaves_of(torch.arange(len(token_ids)), torch.from_numpy(token_ids))
    known = leaves_by_hand(token_ids[rows])
    expected = [known.index(tuple(ids)) if row in rows else -1 for row, ids in enumerate(token_ids.tolist())]
    assert leaves.tolist() == expected


def test_items_of_a_leaf_stand_by_popularity():
    token_ids = np.array([[0, 3, 5], [1, 3, 5], [0, 3, 5], [0, 3, 5]])
    sets = ItemSets.from_token_ids(token_ids, popularity=[2, 9, 7, 2])
    begin, end = sets.item_ranges(torch.tensor([0, 1, -1]))
    assert [sets.items[b:e].tolist() for b, e in zip(begin, end, strict=True)] == [[2, 0, 3], [1], []]


def test_the_work_is_that_of_the_compatible_leaves():
    """Of 3,000 items, a step after one code touches the few that have it, not the catalogue."""
    rng = np.random.default_rng(0)
    token_ids = rng.integers(0, 300, (3000, 4)) + 300 * np.arange(4)
    sets = ItemSets.from_token_ids(token_ids)
    state = sets.walk(torch.tensor([[7]]))
    next_token = sets.allowed(state).nonzero()[:1, 1]
    largest = 0

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and result.dtype != torch.bool:
                largest = max(largest, result.numel())
            return result

    with Sizes():
        sets.allowed(state)
        sets.advance(state, torch.tensor([0]), next_token)
    carriers = Counter(token_ids.flatten().tolist())[7]
    assert largest <= 4 * carriers < 200


def test_save_and_load():
    sets = ItemSets.from_token_ids(np.array([[0, 3, 5], [1, 4, 6], [1, 4, 6]]))
    again = ItemSets.from_state_dict(sets.state_dict())
    legal, expected = (index.allowed(index.walk(torch.tensor([[4]]))) for index in (again, sets))
    assert torch.equal(legal, expected)
    for name in sets.state_dict():
        with pytest.raises(ValueError, match="No item sets of this version"):
            ItemSets.from_state_dict({key: value for key, value in sets.state_dict().items() if key != name})
        if name != "leaf_tokens":
            with pytest.raises(ValueError, match="do not belong together"):
                ItemSets.from_state_dict(sets.state_dict() | {name: sets.state_dict()[name][:-1]})


@pytest.mark.parametrize(
    ("token_ids", "message"),
    [(np.empty((0, 2), dtype=int), "catalogue is empty"), ([[0, 1], [1, 2]], "Two codebooks share a token")],
)
def test_catalogues_that_make_no_sense(token_ids, message):
    with pytest.raises(ValueError, match=message):
        ItemSets.from_token_ids(token_ids)


def test_no_candidate_is_an_error():
    with pytest.raises(ValueError, match="leave no item"):
        ItemSets.from_token_ids(np.array([[0, 1]])).restrict([5])


def test_the_logits_processor_leaves_legal_scores_as_they_are():
    sets = ItemSets.from_token_ids(np.array([[0, 3, 5], [0, 4, 6], [2, 3, 6]]))
    start = TOKENS
    processor, scores = SetLogitsProcessor(sets), torch.arange(3 * 11.0).view(3, 11)
    masked = processor(torch.tensor([[start, 3], [start, 6], [start, 1]]), scores)
    assert masked[0].isfinite().nonzero().flatten().tolist() == [0, 2, 5, 6]
    assert masked[1].isfinite().nonzero().flatten().tolist() == [0, 2, 3, 4]
    assert torch.equal(masked[2], scores[2])  # left the catalogue: nothing to choose from
    assert torch.equal(masked[masked.isfinite()], scores[masked.isfinite()])
    done = processor(torch.tensor([[start, 3, 0, 5]]), scores[:1])
    assert torch.equal(done, scores[:1])
