"""Filters and per-user sequences as Ibis expressions.

The same expressions run on DuckDB and on Spark: no engine's own SQL, no ordered `collect` (Spark refuses it, so structs
are collected and the array is sorted), no engine's own hash.
"""

import ibis
import numpy as np
from ibis import _

from hf_genrec.data.arguments import TieOrder

# 2**31 - 1 is prime and 5 does not divide 2**31 - 2, so x -> x**5 permutes the residues; products stay below 2**62.
_PRIME = 2**31 - 1


def rating_threshold(interactions: ibis.Table, min_rating: float) -> ibis.Table:
    """The interactions with a rating of at least `min_rating`; one without a rating (null, NaN) is not among them."""
    # engines sort NaN above every number
    return interactions.filter(_.rating >= min_rating, ~_.rating.isnan())


def first_interactions(interactions: ibis.Table) -> ibis.Table:
    """Of the interactions of a user with the same item the earliest, and of simultaneous ones the first in the source;
    without timestamps (all null) the first in the source."""
    window = ibis.window(group_by=["user_id", "item_id"], order_by=[_.timestamp.fill_null(0), _.row])
    numbered = interactions.mutate(repeat=ibis.row_number().over(window))
    return numbered.filter(_.repeat == 0).drop("repeat")


def k_core(interactions: ibis.Table, user_core: int, item_core: int) -> ibis.Table:
    """The largest part of the log in which every user has `user_core` and every item `item_core` interactions.

    Rows are counted, so a repeated pair counts each time. Runs queries until nothing changes; between rounds only the
    surviving ids are kept, never a copy of the log.
    """

    def survivors(log: ibis.Table, column: str, smallest: int) -> ibis.Table:
        counts = log.group_by(column).agg(interactions=_.count())
        return ibis.memtable(counts.filter(_.interactions >= smallest).select(column).to_pyarrow())

    items = survivors(interactions, "item_id", 0)
    size = None
    while True:
        users = survivors(interactions.semi_join(items, "item_id"), "user_id", user_core)
        items = survivors(interactions.semi_join(users, "user_id").semi_join(items, "item_id"), "item_id", item_core)
        core = interactions.semi_join(users, "user_id").semi_join(items, "item_id")
        previous, size = size, core.count().to_pyarrow().as_py()
        if size == previous:
            return core


def tie_key(row: ibis.expr.types.IntegerValue, seed: int) -> ibis.expr.types.IntegerValue:
    """A seeded pseudo-random number for every row: the same on every engine, different rows (below 2**31 - 1) differ.

    Two rounds of "add a key, raise to the fifth power" modulo the prime 2**31 - 1, with keys drawn from `seed`; one
    round would leave the keys of neighbouring rows correlated.
    """
    add, multiply, add_again = (int(key) for key in np.random.default_rng(seed).integers(2, _PRIME, size=3))

    def fifth_power(x: ibis.expr.types.IntegerValue) -> ibis.expr.types.IntegerValue:
        square = (x * x) % _PRIME
        return ((square * square) % _PRIME * x) % _PRIME

    first = fifth_power((row.cast("int64") + add) % _PRIME)
    return fifth_power((first * multiply + add_again) % _PRIME)


def user_sequences(interactions: ibis.Table, tie_order: TieOrder = "file", tie_seed: int = 0) -> ibis.Table:
    """One row per user: user_id and `events`, an array of structs (timestamp, tie, row, item) oldest first.

    `interactions` needs user_id, item_index, timestamp and row. Equal timestamps stand in the order of the file or of
    `tie_key`; without timestamps (all null) the order is that of the file.
    """
    tie = _.row if tie_order == "file" else tie_key(_.row, tie_seed)
    timed = interactions.mutate(time=_.timestamp.fill_null(0), tie=_.timestamp.isnull().ifelse(_.row, tie))
    # structs compare field by field, in this order
    event = ibis.struct({"timestamp": timed.time, "tie": timed.tie, "row": timed.row, "item": timed.item_index})
    return timed.mutate(event=event).group_by("user_id").agg(events=_.event.collect()).mutate(events=_.events.sort())
