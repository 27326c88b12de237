"""What S3-Rec is trained on: prefixes of the training sequences, masks, negatives, segments, attributes."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
import torch

from hf_genrec.data.prepared import PreparedData
from hf_genrec.methods.reg4rec.categories import item_categories
from hf_genrec.methods.s3rec.attributes import item_attributes
from hf_genrec.methods.s3rec.s3rec_rows import (
    NextItemRows,
    NextItemRowsCollator,
    PretrainingCollator,
    PretrainingPrefixes,
    draw_others,
)

pytestmark = pytest.mark.libraries

ITEMS, MASK = 20, 21
SEQUENCES = [np.array([3, 1, 4, 1, 5]), np.array([9]), np.array([], dtype=np.int64), np.arange(12)]


def prefixes(**settings) -> PretrainingPrefixes:
    return PretrainingPrefixes(SEQUENCES, ITEMS, **{"max_history": 6, "seed": 3} | settings)


def drawn(rows, epochs=60):
    """(index, row) of many epochs."""
    for rows.epoch in range(epochs):
        for index in range(len(rows)):
            yield index, rows[index]


def test_no_validation_or_test_item_is_ever_read():
    """Neither as a history nor as a segment of somebody else: users' held-out items are those from 12 on."""
    sequences = [np.array([user, user + 4, user + 8, 12 + user, 16 + user]) for user in range(4)]
    items = pa.table({"item_id": [f"i{row}" for row in range(ITEMS)]})
    one = np.ones(4, dtype=np.int64)
    prepared = PreparedData(
        [f"u{user}" for user in range(4)], [f"i{row}" for row in range(ITEMS)], items, sequences, one, one, {}
    )
    rows = PretrainingPrefixes(prepared.train_sequences(), ITEMS, 6, seed=0)
    seen = set()
    for _, row in drawn(rows):
        for name in ("items", "input_ids", "masked_segment", "segment", "other_segment"):
            seen |= set(row[name].tolist())
    assert seen == set(range(12)) | {MASK}


def test_one_random_prefix_a_user_and_epoch():
    rows = prefixes()
    assert len(rows) == rows.num_targets == 3
    lengths = [Counter() for _ in range(3)]
    for index, row in drawn(rows):
        whole = [SEQUENCES[0], SEQUENCES[1], SEQUENCES[3]][index]
        ends = [end for end in range(1, len(whole) + 1) if np.array_equal(whole[max(end - 6, 0) : end], row["items"])]
        assert ends, row["items"]
        lengths[index][ends[0]] += 1
    assert [set(found) for found in lengths] == [set(range(1, 6)), {1}, set(range(1, 13))]
    assert max(lengths[2].values()) < 15  # of 60, 5 expected


def test_all_prefixes():
    rows = prefixes(prefixes="all")
    assert len(rows) == 5 + 1 + 12
    found = [row["items"].tolist() for row in (rows[index] for index in range(len(rows)))]
    expected = [s[max(end - 6, 0) : end].tolist() for s in SEQUENCES for end in range(1, len(s) + 1)]
    assert found == expected


def test_masks_and_negatives():
    share, count = 0, 0
    for _, row in drawn(prefixes(mask_probability=0.3), 200):
        masked = row["input_ids"] == MASK
        assert masked[-1]
        assert np.array_equal(row["input_ids"][~masked], row["items"][~masked])
        assert not set(row["negatives"]) & set(row["items"])
        share, count = share + masked[:-1].sum(), count + len(masked) - 1
    assert share / count == pytest.approx(0.3, abs=0.03)


def test_segments():
    sizes = set()
    followers = {tuple(pair) for s in SEQUENCES for pair in pairwise(s)} | {(5, 9), (9, 0)}
    for _, row in drawn(prefixes()):
        items, length = row["items"], len(row["items"])
        if length == 1:
            assert all(np.array_equal(row[name], items) for name in ("masked_segment", "segment", "other_segment"))
            continue
        inside = row["masked_segment"] == MASK
        places = np.flatnonzero(inside)
        assert np.array_equal(places, np.arange(places[0], places[0] + len(places)))  # in one piece
        assert 1 <= len(places) <= length // 2
        sizes.add(len(places))
        assert np.array_equal(row["segment"], np.where(inside, items, MASK))
        assert np.array_equal(row["masked_segment"], np.where(inside, MASK, items))
        assert np.array_equal(row["other_segment"] == MASK, ~inside)
        other = row["other_segment"][inside].tolist()
        assert all(pair in followers for pair in pairwise(other))
    assert sizes == {1, 2, 3}


def test_draws_depend_on_seed_epoch_and_row_alone():
    rows, again, other = prefixes(), prefixes(), prefixes(seed=4)
    assert all(np.array_equal(rows[2][name], again[2][name]) for name in rows[2])
    torch.manual_seed(9)
    assert np.array_equal(rows[2]["negatives"], again[2]["negatives"])
    first = rows[2]
    rows.epoch = 1
    assert any(not np.array_equal(first[name], rows[2][name]) for name in first)
    assert any(not np.array_equal(first[name], other[2][name]) for name in first)


def test_others_are_uniform():
    had = np.array([0, 3, 3, 4, 19])
    found = Counter(draw_others(np.random.default_rng(0), had, ITEMS, 16000).tolist())
    assert found.keys() == set(range(ITEMS)) - set(had.tolist())
    assert all(abs(count - 1000) < 120 for count in found.values())


def test_who_has_had_everything_is_named():
    with pytest.raises(
        ValueError, match="User 2 has had all 3 items, so that no negative is left: set pretrain_epochs: 0"
    ):
        PretrainingPrefixes([np.array([0, 1, 1]), np.array([0, 2, 1])], 3, 5, seed=0)
    with pytest.raises(ValueError, match="set loss_type: softmax"):
        NextItemRows([np.array([0, 2, 1])], 3, 0)


def test_batches_of_prefixes():
    has = np.eye(ITEMS, 5, dtype=bool)
    rows = prefixes()
    examples = [rows[index] for index in range(3)]
    batch = PretrainingCollator(ITEMS, has)(examples)
    width = max(len(example["items"]) for example in examples)
    for line, example in enumerate(examples):
        for name, values in example.items():
            assert batch[name][line].tolist() == [ITEMS] * (width - len(values)) + values.tolist()
    items = np.concatenate([example["items"] for example in examples])
    assert batch["items"].flatten()[batch["item_places"]].tolist() == items.tolist()
    assert np.array_equal(batch["attributes"].numpy(), has[items])
    assert "attributes" not in PretrainingCollator(ITEMS, np.zeros((ITEMS, 0), dtype=bool))(examples)


def test_negatives_of_the_fine_tuning_are_of_no_item_of_the_user():
    rows = NextItemRows(SEQUENCES, ITEMS, seed=2, max_history=6, windows=True)
    collate = NextItemRowsCollator(ITEMS, packed=True)
    batch = collate([rows[index] for index in range(len(rows))])
    is_target = batch["sequence_labels"] != -100
    assert batch["negatives"].shape == batch["target_places"].shape == (rows.num_targets,)
    lines = is_target.nonzero()[:, 0]
    for line, negative in zip(lines.tolist(), batch["negatives"].tolist(), strict=True):
        assert negative not in SEQUENCES[int(rows.users[line])]
        assert negative < ITEMS
    before = batch["negatives"].clone()
    rows.epoch = 1
    assert not torch.equal(collate([rows[index] for index in range(len(rows))])["negatives"], before)


ITEM_TABLE = pa.table(
    {
        "item_id": ["a", "b", "c", "d"],
        "categories": ["Action, Comedy", '["Comedy", "Toys, Games"]', None, ""],
        "brand": ["Comedy", None, "X", "X"],
        "tags": [["p", "q"], [], None, ["q"]],
        "year": [1999, 2000, None, 1999],
    }
)


def test_attributes():
    has, names = item_attributes(ITEM_TABLE)
    assert names == ["categories: Action", "categories: Comedy", "categories: Toys, Games"]
    assert has.tolist() == [[True, True, False], [False, True, True], [False] * 3, [False] * 3]
    has, names = item_attributes(ITEM_TABLE, ["brand", "tags", "year"])
    assert names == ["brand: Comedy", "brand: X", "tags: p", "tags: q", "year: 1999", "year: 2000"]
    assert [np.flatnonzero(line).tolist() for line in has] == [[0, 2, 3, 4], [5], [1], [1, 3, 4]]
    assert item_attributes(ITEM_TABLE.select(["item_id"]))[0].shape == (4, 0)
    with pytest.raises(
        ValueError, match="attribute_columns: the items table has no column colour; name some of item_id"
    ):
        item_attributes(ITEM_TABLE, ["colour"])


def test_attributes_are_split_as_categories_are():
    places, names = item_categories(ITEM_TABLE)
    assert [names[place] for place in places] == ["Action", "Comedy", "other", "other"]
