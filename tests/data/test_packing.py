"""Packed rows hold exactly the targets of one row per prefix, each behind its own prefix."""

import tracemalloc

import numpy as np
import pytest
import torch
from conftest import make_processor
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_genrec.data.collator import PackedCollator
from hf_genrec.data.examples import NextItemExamples, target_runs
from hf_genrec.data.flat_sequences import FlatSequences
from hf_genrec.data.packing import PackedExamples
from hf_genrec.data.windows import ItemWindows, item_windows

PROCESSOR = make_processor(num_items=12, sizes=(3, 4), max_history=4)
ITEM_OF = {tuple(ids): row for row, ids in enumerate(PROCESSOR.token_ids.tolist())}


def unpacked(input_ids: list[int], block_ids: list[int]) -> list[tuple[list[int], int]]:
    """(history, target) of every block of a row, read token by token."""
    found, history, codes, length = [], [], [], 0
    place = 0
    while place < len(input_ids):
        block = block_ids[place]
        if block < 0:
            place += 1
            continue
        if block == 0:
            codes.append(input_ids[place])
            place += 1
            continue
        if block == 1:  # a new user: the history right before the block, back to the block before, is his
            history = []
        history += codes
        codes = []
        assert input_ids[place] == PROCESSOR.answer_token_id
        target = tuple(input_ids[place + 1 : place + 3])
        assert block_ids[place : place + 3] == [block] * 3
        items = [ITEM_OF[tuple(history[i : i + 2])] for i in range(0, len(history), 2)]
        found.append((items, ITEM_OF[target]))
        place, length = place + 3, length + 1
    assert not codes, "history that no block reads"
    return found


sequences = st.lists(st.lists(st.integers(0, 11), max_size=9), min_size=1, max_size=8).filter(any)


@settings(max_examples=60, deadline=None)
@given(sequences, st.sampled_from(["all", "last"]), st.integers(5, 40), st.integers(0, 3))
def test_packed_rows_hold_the_targets_of_one_row_per_prefix(users, targets, row_tokens, seed):
    users = [np.array(user, dtype=np.int64) for user in users]
    packed = PackedExamples(users, targets, 4, PROCESSOR.num_levels, row_tokens, seed)
    batch = PackedCollator(PROCESSOR)([packed[row] for row in range(len(packed))])
    found = [
        (tuple(history), target)
        for ids, blocks in zip(batch["input_ids"].tolist(), batch["block_ids"].tolist(), strict=True)
        for history, target in unpacked(ids, blocks)
    ]
    examples = NextItemExamples(users, targets, 4)
    expected = [(tuple(e["history"].tolist()), int(e["target"])) for e in (examples[i] for i in range(len(examples)))]
    assert sorted(found) == sorted(expected)
    assert packed.num_targets == len(expected)

    tokens = (batch["block_ids"] >= 0).sum(-1)
    assert tokens.tolist() == packed.tokens.tolist()
    assert (batch["block_ids"] == 0).sum(-1).tolist() == packed.lengths.tolist()
    assert packed.labels_per_row == pytest.approx((batch["labels"] >= 0).sum().item() / len(packed))
    for length, row in zip(packed.tokens, packed.rows, strict=True):
        one_target = len(row) == 1 and packed.ends[row[0]] - packed.first_targets[row[0]] == 1
        assert length <= row_tokens or one_target
    assert len(packed) == len(PackedExamples(users, targets, 4, PROCESSOR.num_levels, row_tokens, seed))


def test_a_packed_row_by_hand():
    users = [np.array([3, 1]), np.array([7])]
    packed = PackedExamples(users, "all", 4, PROCESSOR.num_levels, row_tokens=11)
    assert packed.tokens.tolist() == [11]
    assert packed.lengths.tolist() == [2]
    batch = PackedCollator(PROCESSOR)([packed[0]])
    (a, b), (c, d), (e, f) = PROCESSOR.token_ids[[3, 1, 7]].tolist()
    answer = PROCESSOR.answer_token_id
    assert batch["input_ids"].tolist() == [[answer, a, b, a, b, answer, c, d, answer, e, f]]
    assert batch["block_ids"].tolist() == [[1, 1, 1, 0, 0, 2, 2, 2, 1, 1, 1]]
    assert batch["labels"].tolist() == [[-100, a, b, -100, -100, -100, c, d, -100, e, f]]
    assert torch.equal(batch["logits_to_keep"][0].nonzero()[:, 0], torch.tensor([0, 1, 5, 6, 8, 9]))


def test_rows_are_filled():
    rng = np.random.default_rng(0)
    users = [rng.integers(0, 12, rng.integers(1, 6)) for _ in range(400)]
    packed = PackedExamples(users, "all", 8, PROCESSOR.num_levels, row_tokens=96)
    assert packed.tokens.sum() / (len(packed) * 96) > 0.98


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=8).filter(any),
    st.sampled_from(["all", "last"]),
    st.integers(1, 6),
    st.sampled_from([0, 1]),
)
def test_runs_are_those_of_target_after_target(sizes, targets, max_history, first):
    shared, own = {}, []
    for user, size in enumerate(sizes):
        for position in range(first if targets == "all" else max(first, size - 1), size):
            if position > max_history:
                own.append([user, position - max_history, position, position + 1])
            else:
                shared.setdefault(user, [user, 0, position, 0])[3] = position + 1
    runs, num_shared = target_runs(np.array(sizes), targets, max_history, first)
    assert runs.T.tolist() == [*shared.values(), *own]
    assert num_shared == len(shared)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.integers(1, 9))
def test_windows_follow_each_other(sizes, max_history):
    found = []
    for user, size in enumerate(sizes):
        first = 0
        while first < size:
            start = max(0, first - (max_history + 1) // 2) if first else 0
            found.append([user, start, first, min(size, start + max_history + 1)])
            first = found[-1][3]
    assert item_windows(np.array(sizes), max_history).T.tolist() == found


def test_rows_of_a_large_log_take_less_memory_than_it():
    """Nothing as long as the log is made, neither an array nor Python's objects."""
    sequences = FlatSequences.from_lengths(np.zeros(2_000_000, np.int32), np.full(50_000, 40))
    for rows in (lambda: PackedExamples(sequences, "all", 50, 3, 512), lambda: ItemWindows(sequences, "all", 50)):
        tracemalloc.start()
        assert rows().num_targets == 2_000_000
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < sequences.values.nbytes
