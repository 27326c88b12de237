import itertools
from collections import Counter

import ibis
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_genrec.data.sequences import k_core, rating_threshold, tie_key, user_sequences
from hf_genrec.data.splits import global_time, leave_one_out

PAIRS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=40)


def log_of(rows, **columns):
    users, items = zip(*rows, strict=True)
    table = {"user_id": [f"u{user}" for user in users], "item_id": [f"i{item}" for item in items]}
    return ibis.memtable(pa.table({**table, "row": list(range(len(rows))), **columns}))


def brute_force_core(rows, user_core, item_core):
    rows = list(enumerate(rows))
    while True:
        users = Counter(user for _, (user, _) in rows)
        items = Counter(item for _, (_, item) in rows)
        left = [(n, (user, item)) for n, (user, item) in rows if users[user] >= user_core and items[item] >= item_core]
        if left == rows:
            return {n for n, _ in rows}
        rows = left


@settings(max_examples=25, deadline=None)
@given(PAIRS, st.integers(0, 4), st.integers(0, 4))
def test_k_core_is_the_brute_force_core(rows, user_core, item_core):
    core = k_core(log_of(rows), user_core, item_core).to_pyarrow()
    assert set(core["row"].to_pylist()) == brute_force_core(rows, user_core, item_core)
    assert len(core) == len(set(core["row"].to_pylist()))


def test_k_core_repeats_until_nothing_changes():
    # a chain: user 0 falls, so item 0 falls, so user 1 falls, ... ; the square of users 8, 9 stays
    chain = [(user, user) for user in range(4)] + [(user + 1, user) for user in range(3)]
    square = [(8, 8), (8, 9), (9, 8), (9, 9)]
    core = k_core(log_of(chain + square), 2, 2).to_pyarrow()
    assert sorted(core["row"].to_pylist()) == [7, 8, 9, 10]


def test_rating_threshold_is_inclusive_and_drops_the_unrated():
    log = log_of([(0, 0), (0, 1), (0, 2), (0, 3)], rating=[3.0, 4.0, None, float("nan")])
    assert rating_threshold(log, 4.0).to_pyarrow()["row"].to_pylist() == [1]


def python_tie_key(row, seed):
    prime = 2**31 - 1
    add, multiply, add_again = (int(key) for key in np.random.default_rng(seed).integers(2, prime, size=3))
    return pow(pow(row + add, 5, prime) * multiply + add_again, 5, prime)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 2**31 - 2), min_size=1, max_size=30, unique=True), st.integers(0, 2**32))
def test_tie_key_equals_big_integer_arithmetic_and_never_repeats(rows, seed):
    table = ibis.memtable(pa.table({"row": pa.array(rows, pa.int64())}))
    keys = dict(zip(rows, table.select(key=tie_key(table.row, seed)).to_pyarrow()["key"].to_pylist(), strict=True))
    assert keys == {row: python_tie_key(row, seed) for row in rows}
    assert len(set(keys.values())) == len(rows)


def test_tie_key_puts_neighbouring_rows_in_every_order():
    orders = Counter()
    for first in range(0, 6000, 3):
        keys = [python_tie_key(first + n, seed=0) for n in range(3)]
        orders[tuple(np.argsort(keys))] += 1
    assert set(orders) == set(itertools.permutations(range(3)))
    assert min(orders.values()) > 250  # 333 expected, standard deviation 17
    assert max(orders.values()) < 420


def sequences_of(timestamps, tie_order="file", tie_seed=0):
    count = len(timestamps)
    log = log_of(
        [(0, n) for n in range(count)],
        timestamp=pa.array(timestamps, pa.int64()),
        item_index=pa.array(range(count), pa.int64()),
    )
    events = user_sequences(log, tie_order, tie_seed).to_pyarrow()["events"].to_pylist()[0]
    return [event["item"] for event in events]


def test_file_order_breaks_ties_by_row():
    assert sequences_of([20, 10, 20, 10]) == [1, 3, 0, 2]


def test_shuffle_moves_only_ties_and_follows_its_seed():
    times = [20] * 8 + [10] * 8
    first, again, other = (sequences_of(times, "shuffle", seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    for order in (first, other):
        assert set(order[:8]) == set(range(8, 16))
        assert set(order[8:]) == set(range(8))
    assert first == [
        *sorted(range(8, 16), key=lambda row: python_tie_key(row, 1)),
        *sorted(range(8), key=lambda row: python_tie_key(row, 1)),
    ]


@pytest.mark.parametrize("tie_order", ["file", "shuffle"])
def test_without_times_the_file_order_holds(tie_order):
    assert sequences_of([None] * 6, tie_order) == [0, 1, 2, 3, 4, 5]


def table_of_times(times_per_user):
    rows = [(user, 0) for user, times in enumerate(times_per_user) for _ in times]
    flat = pa.array([time for times in times_per_user for time in times], pa.int64())
    return log_of(rows, timestamp=flat, item_index=pa.array(range(len(rows)), pa.int64()))


def targets(sequences):
    rows = sequences.order_by("user_id").to_pyarrow().to_pylist()
    return [(len(row["events"]), row["num_validation"], row["num_test"]) for row in rows]


def test_leave_one_out_by_hand():
    sequences = user_sequences(table_of_times([[1], [1, 2], [1, 2, 3], [5, 6, 7, 8]]))
    assert targets(leave_one_out(sequences)) == [(1, 0, 0), (2, 0, 0), (3, 1, 1), (4, 1, 1)]


def test_global_time_by_hand():
    # validation [10, 20), test [20, ...): the borders belong to the later part
    sequences = user_sequences(table_of_times([[1, 9], [9, 10, 19, 20], [25, 30], [12, 3]]))
    assert targets(global_time(sequences, 10, 20)) == [(2, 0, 0), (4, 2, 1), (2, 0, 2), (2, 1, 0)]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=8), min_size=1, max_size=5))
def test_global_time_never_leaks_the_future(times_per_user):
    sequences = global_time(user_sequences(table_of_times(times_per_user)), 10, 20)
    for row in sequences.to_pyarrow().to_pylist():
        times = [event["timestamp"] for event in row["events"]]
        end_train = len(times) - row["num_validation"] - row["num_test"]
        end_validation = len(times) - row["num_test"]
        assert all(time < 10 for time in times[:end_train])
        assert all(10 <= time < 20 for time in times[end_train:end_validation])
        assert all(time >= 20 for time in times[end_validation:])
