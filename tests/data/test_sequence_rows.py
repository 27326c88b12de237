"""Rows of items hold exactly the targets of one row per prefix, each behind its own prefix."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_genrec.data.sequence_rows import PackedSequences, SequenceCollator
from hf_genrec.methods.rearec.modeling_rearec import ReaRecConfig, ReaRecForNextItem

ITEMS, MAX_HISTORY = 12, 4

sequences = st.lists(st.lists(st.integers(0, ITEMS - 1), max_size=9), min_size=1, max_size=8).filter(
    lambda users: any(len(user) > 1 for user in users)
)


def prefixes(users, targets: str) -> list[tuple[tuple[int, ...], int]]:
    """(history, target) of every target, by the definition."""
    found = []
    for user in users:
        for position in range(1, len(user)):
            if targets == "all" or position == len(user) - 1:
                found.append((tuple(user[max(position - MAX_HISTORY, 0) : position]), user[position]))
    return found


@settings(max_examples=60, deadline=None)
@given(sequences, st.sampled_from(["all", "last"]), st.booleans(), st.randoms())
def test_rows_hold_the_targets_of_one_row_per_prefix(users, targets, packing, random):
    arrays = [np.array(user, dtype=np.int64) for user in users]
    rows = PackedSequences(arrays, targets, MAX_HISTORY, packing)
    order = list(range(len(rows)))
    random.shuffle(order)
    batch = SequenceCollator(ITEMS, packed=True)([rows[row] for row in order])
    found = []
    for ids, labels in zip(batch["input_ids"].tolist(), batch["sequence_labels"].tolist(), strict=True):
        history = [item for item in ids if item != ITEMS]
        assert ids == history + [ITEMS] * (len(ids) - len(history))
        found += [(tuple(history[: place + 1]), target) for place, target in enumerate(labels) if target != -100]
    expected = prefixes(users, targets)
    assert sorted(found) == sorted(expected)
    assert rows.num_targets == len(expected)
    lengths = (batch["input_ids"] != ITEMS).sum(1)
    assert lengths.tolist() == rows.lengths[order].tolist()
    assert lengths.max() == batch["input_ids"].shape[1]  # no longer than the longest
    if packing:
        shared = sum(any(position <= MAX_HISTORY for position in range(1, len(user))) for user in users)
        late = sum(max(len(user) - 1 - MAX_HISTORY, 0) for user in users)
        assert targets == "last" or len(rows) == shared + late
    else:
        assert len(rows) == len(expected)


@settings(max_examples=20, deadline=None)
@given(sequences)
def test_packed_batches_have_the_loss_of_one_row_per_prefix(users):
    arrays = [np.array(user, dtype=np.int64) for user in users]
    torch.manual_seed(0)
    model = ReaRecForNextItem(ReaRecConfig(num_items=ITEMS, max_history=MAX_HISTORY, hidden_size=8)).eval()
    losses = []
    for packed in (True, False):
        rows = PackedSequences(arrays, "all", MAX_HISTORY, packed)
        batch = SequenceCollator(ITEMS, packed)([rows[row] for row in range(len(rows))])
        losses.append(model(**batch).losses)
    torch.testing.assert_close(losses[0], losses[1])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, ITEMS - 1), max_size=20), min_size=1, max_size=6), st.integers(1, 6))
def test_windows_hold_each_target_once_behind_half_a_history_or_more(users, max_history):
    arrays = [np.array(user, dtype=np.int64) for user in users]
    if max(map(len, users)) < 2:
        return
    rows = PackedSequences(arrays, "all", max_history, windows=True)
    found = []
    for row, (user, start) in enumerate(zip(rows.users, rows.starts, strict=True)):
        items, first = rows[row]["items"], rows[row]["first_target"]
        assert len(items) <= max_history + 1
        for place in range(first, len(items)):
            position = start + place
            assert items[place] == users[user][position]
            assert items[:place].tolist() == users[user][position - place : position]
            assert min(position, (max_history + 1) // 2) <= place <= max_history
            found.append((user, position))
    expected = [(user, position) for user, items in enumerate(users) for position in range(1, len(items))]
    assert sorted(found) == expected
    assert rows.num_targets == len(expected)
    if max(map(len, users)) <= max_history + 1:
        whole = PackedSequences(arrays, "all", max_history)
        assert [rows[row]["items"].tolist() for row in range(len(rows))] == [
            whole[row]["items"].tolist() for row in range(len(whole))
        ]


def test_rows_by_hand():
    users = [np.array([3, 1, 4, 1, 5]), np.array([9]), np.array([2, 7])]
    rows = PackedSequences(users, "all", max_history=3)
    assert rows.num_targets == 5
    batch = SequenceCollator(ITEMS, packed=True)([rows[row] for row in range(len(rows))])
    assert batch["input_ids"].tolist() == [[3, 1, 4], [2, 12, 12], [1, 4, 1]]
    assert batch["sequence_labels"].tolist() == [[1, 4, 1], [7, -100, -100], [-100, -100, 5]]

    last = PackedSequences(users, "last", max_history=3, packing=False)
    batch = SequenceCollator(ITEMS, packed=False)([last[0], last[1]])
    assert batch["input_ids"].tolist() == [[1, 4, 1], [2, 12, 12]]
    assert batch["labels"].tolist() == [5, 7]


def test_sequences_without_a_history():
    with pytest.raises(ValueError, match="No user has two training items"):
        PackedSequences([np.array([3]), np.array([], dtype=np.int64)])
