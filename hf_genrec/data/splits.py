"""Which of a user's last interactions are validation and test targets, as Ibis expressions on `user_sequences`."""

import ibis
from ibis import _


def leave_one_out(sequences: ibis.Table) -> ibis.Table:
    """Adds num_validation and num_test: one each, or none for users with fewer than 3 interactions (all training)."""
    one = (_.events.length() >= 3).ifelse(1, 0)
    return sequences.mutate(num_validation=one, num_test=one)


def global_time(sequences: ibis.Table, validation_ms: int, test_ms: int) -> ibis.Table:
    """Adds num_validation and num_test: interactions in [validation_ms, test_ms) and from `test_ms` on.

    Sequences are in order of time, so these are each user's last interactions and training holds nothing later.
    """

    def count_from(milliseconds: int) -> ibis.expr.types.IntegerValue:
        return sequences.events.filter(lambda event: event["timestamp"] >= milliseconds).length()

    num_test = count_from(test_ms)
    return sequences.mutate(num_validation=count_from(validation_ms) - num_test, num_test=num_test)


def given(sequences: ibis.Table, interactions: ibis.Table) -> ibis.Table:
    """Adds num_validation and num_test: the interactions whose `part` is 1, and 2. Within a sequence the parts stand in
    this order, behind those of training, 0."""
    counts = interactions.group_by("user_id").agg(
        num_validation=_.part.count(where=_.part == 1), num_test=_.part.count(where=_.part == 2)
    )
    return sequences.inner_join(counts, "user_id")
