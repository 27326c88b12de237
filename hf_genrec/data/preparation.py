"""`prepare`: interactions and items -> PreparedData."""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hf_genrec.cells import (
    Role,
    as_id,
    as_text,
    cells,
    check_column,
    is_number,
    is_temporal,
    is_text,
    milliseconds,
    plain_type,
    shown,
)
from hf_genrec.data.arguments import DataArguments
from hf_genrec.data.dates import check_dates
from hf_genrec.data.flat_sequences import CHUNK, FlatSequences, Ids
from hf_genrec.data.prepared import PreparedData
from hf_genrec.pictures import name_pictures

if TYPE_CHECKING:
    import datasets
    import ibis

logger = logging.getLogger(__name__)

_INTERACTIONS = {
    "user_id": pa.string(),
    "item_id": pa.string(),
    "timestamp": pa.int64(),
    "row": pa.int64(),
    "rating": pa.float64(),
}


def prepare(
    interactions: "datasets.Dataset | ibis.Table",
    items: "datasets.Dataset | pa.Table",
    arguments: DataArguments,
    collect: "Callable[[ibis.Table], pa.Table] | None" = None,
) -> PreparedData:
    """Filters the log, orders every user's interactions, splits them, and reports every row that was left out.

    Order of the steps: rating, start and end, repeats, iterative k-core, sequences (by time, then `tie_order`), split.
    The catalogue holds the items that kept an interaction: those of the items table in its order, then items it does
    not have, in the order of the log, with null text.

    Args:
        interactions: user_id, item_id, timestamp (milliseconds UTC, nullable), row, and optionally rating. A table of
            Ibis has all five, of these very types and without missing ids, and is read by the engine it is in.
        items: item_id (unique) and text columns.
        collect: how the engine gives the rows of a large ordered table; by default as Ibis does.

    Raises:
        ValueError: a column or an id is missing, an item id is there twice, a filter leaves nothing, no item is in the
            items table, only some interactions have a time, dates that no log has, or a global-time split without
            times, without training interactions or outside the dates.
    """
    import ibis
    from ibis import _

    from hf_genrec.data.sequences import first_interactions, k_core, rating_threshold, user_sequences
    from hf_genrec.data.splits import given, global_time, leave_one_out

    if not isinstance(items, pa.Table):
        items = name_pictures(items, arguments.item_path, arguments.image_folder)
    item_table = _item_table(items)
    connection = None
    if isinstance(interactions, ibis.Table):
        source = interactions
    else:
        log = _interaction_table(interactions)
        if log.num_rows == 0:
            raise ValueError(f"there are no interactions in source {arguments.source} ({arguments.source_path})")
        connection = ibis.duckdb.connect()
        source = connection.create_table("interactions", ibis.memtable(log))
    positions = {"item_id": item_table["item_id"], "position": pa.array(range(item_table.num_rows), pa.int64())}
    catalogue_rows = ibis.memtable(pa.table(positions))

    report: dict[str, Any] = {"settings": arguments.deciding(), "read": _counts(source), "dropped": {}}
    report["read"]["item_rows"] = item_table.num_rows
    kept = source
    if arguments.min_rating is not None:
        unrated = source.filter(_.rating.isnull() | _.rating.isnan()).count().to_pyarrow().as_py()
        if unrated:
            of = report["read"]["interactions"]
            logger.warning("%d of %d interactions have no rating: dropped by min_rating", unrated, of)
        kept = rating_threshold(kept, arguments.min_rating)
        report["dropped"]["min_rating"] = _dropped(source, kept, f"min_rating={arguments.min_rating}")
        report["dropped"]["min_rating"]["unrated_interactions"] = unrated
    timed = _is_timed(kept, arguments)
    # Before the other filters: what comes later is not known yet.
    if arguments.start_ms is not None:
        before, kept = kept, kept.filter(kept.timestamp >= arguments.start_ms)
        report["dropped"]["start_time"] = _dropped(before, kept, f"start_time={arguments.start_time}", "set it earlier")
    if arguments.end_ms is not None:
        before, kept = kept, kept.filter(kept.timestamp < arguments.end_ms)
        report["dropped"]["end_time"] = _dropped(before, kept, f"end_time={arguments.end_time}", "set it later")
    if arguments.drop_repeats:
        before, kept = kept, first_interactions(kept)
        report["dropped"]["repeats"] = _dropped(before, kept, "drop_repeats")
        repeats = report["dropped"]["repeats"]["interactions"]
        logger.info("%d interactions repeat an earlier one of the same user and item: dropped", repeats)
    if arguments.user_core > 0 or arguments.item_core > 0:
        rated = kept
        kept = k_core(rated, arguments.user_core, arguments.item_core)
        name = f"user_core={arguments.user_core}, item_core={arguments.item_core}"
        report["dropped"]["k_core"] = _dropped(rated, kept, name)
    report["kept"] = _counts(kept)

    report["order"] = _order_report(kept, arguments, timed)
    report["times"] = check_dates(kept, arguments) if timed else None
    catalogue = (
        kept.group_by("item_id")
        .agg(first_row=_.row.min())
        .left_join(catalogue_rows, "item_id")
        .order_by([_.position.isnull(), _.position, _.first_row])
        .select("item_id", "position")
        .to_pyarrow()
    )
    report["items_without_text"] = catalogue["position"].null_count
    report["item_rows_without_interactions"] = item_table.num_rows - len(catalogue) + report["items_without_text"]
    _check_text(catalogue, item_table, arguments)

    index = {"item_id": catalogue["item_id"], "item_index": pa.array(range(len(catalogue)), pa.int64())}
    indexed = kept.inner_join(ibis.memtable(pa.table(index)), "item_id")
    sequences = user_sequences(indexed, arguments.tie_order, arguments.tie_seed)
    if arguments.split == "leave_one_out":
        sequences = leave_one_out(sequences)
    elif arguments.split == "given":
        sequences = given(sequences, indexed)
    else:
        sequences = global_time(sequences, arguments.validation_ms, arguments.test_ms)
    first_rows = source.group_by("user_id").agg(first_row=_.row.min())
    ordered = (
        sequences.inner_join(first_rows, "user_id")
        .order_by(_.first_row)
        .select(
            "user_id",
            items=_.events.map(lambda event: event["item"]),
            num_validation=_.num_validation.cast("int64"),
            num_test=_.num_test.cast("int64"),
        )
    )
    users = (ordered.to_pyarrow() if collect is None else collect(ordered)).combine_chunks()
    if connection is not None:
        connection.disconnect()

    lists = users["items"].combine_chunks()
    item_rows = item_table.take(catalogue["position"])
    items = lists.flatten().to_numpy(zero_copy_only=False).astype(np.int32)
    prepared = PreparedData(
        user_ids=Ids.of(users["user_id"]),
        item_ids=catalogue["item_id"].to_pylist(),
        items=item_rows.set_column(item_rows.column_names.index("item_id"), "item_id", catalogue["item_id"]),
        sequences=FlatSequences.from_lengths(items, pc.list_value_length(lists).to_numpy(zero_copy_only=False)),
        num_validation=users["num_validation"].to_numpy(),
        num_test=users["num_test"].to_numpy(),
        report=report,
    )
    report["split"] = _split_report(prepared, arguments)
    report["repeats"] = _repeats(prepared)
    report["long_histories"] = _long_histories(prepared, arguments.max_history)
    return prepared


def _interaction_table(interactions: "datasets.Dataset") -> pa.Table:
    table = interactions.with_format("arrow")[:]
    if missing := set(_INTERACTIONS) - {"rating"} - set(table.column_names):
        found = ", ".join(table.column_names)
        raise ValueError(f"interactions have no column {', '.join(sorted(missing))}; columns found: {found}")
    if "rating" not in table.column_names:
        table = table.append_column("rating", pa.nulls(table.num_rows, pa.float64()))
    roles: dict[str, Role] = {"user_id": "id", "item_id": "id", "timestamp": "time", "rating": "rating"}
    for name, role in roles.items():
        table = table.set_column(table.column_names.index(name), name, _plain_column("interactions", table, name, role))
    columns = _INTERACTIONS | ({"part": pa.int64()} if "part" in table.column_names else {})
    table = table.select(list(columns)).cast(pa.schema(list(columns.items())))
    for name in ("user_id", "item_id", "row"):
        if nulls := table[name].null_count:
            raise ValueError(f"interactions: {nulls} rows have no {name}: correct or remove them")
    return table


def _item_table(items: "datasets.Dataset") -> pa.Table:
    table = items if isinstance(items, pa.Table) else items.with_format("arrow")[:]
    if "item_id" not in table.column_names:
        raise ValueError(f"items have no column item_id; columns found: {', '.join(table.column_names)}")
    for place, name in enumerate(table.column_names):
        column = _plain_column("items", table, name, "id" if name == "item_id" else "further")
        table = table.set_column(place, name, column.cast(pa.string()))
    table = table.combine_chunks()
    if nulls := table["item_id"].null_count:
        raise ValueError(f"items: {nulls} rows have no item_id: correct or remove them")
    counts = pc.value_counts(table["item_id"])
    repeated = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
    if len(repeated):
        raise ValueError(
            f"items: {len(repeated)} item ids are there more than once, first {shown(repeated[0].as_py())}"
        )
    return table


def _plain_column(of: str, table: pa.Table, name: str, role: Role) -> pa.ChunkedArray:
    """A column as text or numbers, where it is of another type; one that cannot be what it stands for is refused."""
    field = table.schema.field(name)
    if role in ("time", "rating") and is_text(plain_type(field.type)):
        try:
            return table[name].cast(_INTERACTIONS[name])
        except pa.ArrowException:
            what = "milliseconds" if role == "time" else "numbers"
            raise ValueError(f"{of}: column {name!r} holds text that is no number: give {what}") from None
    if pa.types.is_string(field.type) or pa.types.is_integer(field.type) or pa.types.is_null(field.type):
        return table[name]
    check_column(of, field, role, "a column of the data set")
    if role == "rating" and is_number(field.type):
        return table[name]
    column = table[name].combine_chunks()
    if role == "time" and is_temporal(field.type):
        return pa.chunked_array([pa.array(milliseconds(column), pa.int64())])
    if role == "time" and is_number(field.type):
        return table[name].cast(pa.float64()).cast(pa.int64(), safe=False)
    read: Callable[[Any, str], str | None] = as_id if role == "id" else as_text
    return pa.chunked_array([pa.array([None if c is None else read(c, name) for c in cells(column)], pa.string())])


def _counts(log: "ibis.Table") -> dict[str, int]:
    counts = log.agg(interactions=log.count(), users=log.user_id.nunique(), items=log.item_id.nunique())
    return counts.to_pyarrow().to_pylist()[0]


def _dropped(before: "ibis.Table", after: "ibis.Table", name: str, remedy: str = "lower it") -> dict[str, int]:
    counts, left = _counts(before), _counts(after)
    if left["interactions"] == 0:
        raise ValueError(f"{name} leaves nothing of {counts['interactions']} interactions: {remedy}")
    return {key: counts[key] - left[key] for key in counts}


def _check_text(catalogue: pa.Table, items: pa.Table, arguments: DataArguments) -> None:
    """Warns of items of the log that have no row in the items table; refuses where that is all of them."""
    without = catalogue.filter(pc.is_null(catalogue["position"]))["item_id"]
    if not len(without):
        return
    if len(without) == len(catalogue):
        log, table = arguments.source_path or "the log", arguments.item_path or "the items table"
        known = f"for instance {shown(items['item_id'][0].as_py())}" if items.num_rows else "which is empty"
        raise ValueError(
            f"none of the {len(catalogue)} items of {log} (for instance {shown(without[0].as_py())}) is in {table} "
            f"({known}): ids must be written alike in both: correct item_column, or the ids of one file"
        )
    logger.warning(
        "%d items are not in the items table: kept without text (%.1f %% of %d, for instance %s)",
        len(without),
        100 * len(without) / len(catalogue),
        len(catalogue),
        shown(without[0].as_py()),
    )


def _is_timed(log: "ibis.Table", arguments: DataArguments) -> bool:
    """Whether the interactions have times; refuses logs that cannot be ordered or split by time."""
    first = log.row.min(where=log.timestamp.isnull())
    counts = log.agg(rows=log.count(), timed=log.timestamp.count(), first=first).to_pyarrow().to_pylist()[0]
    rows, timed = counts["rows"], counts["timed"]
    named = [name for name in ("start_time", "end_time") if getattr(arguments, name) is not None]
    if timed < rows and (timed or arguments.split == "global_time" or named):
        log_path, remedy = arguments.source_path or "the log", "set time_column: null"
        if named:
            log_path, remedy = f"{named[0]} needs times: {log_path}", f"leave {named[0]} out"
        if arguments.split == "global_time":
            log_path, remedy = f"split global_time needs times: {log_path}", "use split: leave_one_out"
        raise ValueError(
            f"{log_path}: {rows - timed} of {rows} interactions have no timestamp, the first is row "
            f"{counts['first'] + 1} (from 1, without a header): give every row one, or {remedy}"
        )
    return timed > 0


def _order_report(log: "ibis.Table", arguments: DataArguments, timed: bool) -> dict[str, Any]:
    """How ties are ordered and how many there are."""
    from ibis import _

    if not timed:
        if arguments.tie_order == "shuffle":
            logger.warning("tie_order: shuffle has no effect, the interactions have no timestamps: file order is kept")
        return {"by": "row", "tie_order": "file", "tied_interactions": 0}
    groups = log.group_by(["user_id", "timestamp"]).agg(size=_.count()).filter(_.size > 1)
    tied = groups["size"].sum().fill_null(0).to_pyarrow().as_py()
    return {"by": "timestamp", "tie_order": arguments.tie_order, "tied_interactions": int(tied)}


def _split_report(prepared: PreparedData, arguments: DataArguments) -> dict[str, int]:
    held_out = prepared.num_validation + prepared.num_test
    lengths = prepared.sequences.lengths
    counts = {
        "train_interactions": lengths.sum() - held_out.sum(),
        "validation_interactions": prepared.num_validation.sum(),
        "test_interactions": prepared.num_test.sum(),
        "validation_users": np.count_nonzero(prepared.num_validation),
        "test_users": np.count_nonzero(prepared.num_test),
        "train_only_users": np.count_nonzero(held_out == 0),
    }
    report = {name: int(count) for name, count in counts.items()}
    if report["train_interactions"] == 0:
        raise ValueError(f"validation_time {arguments.validation_time} leaves no training interactions: set it later")
    if arguments.split == "leave_one_out" and report["train_only_users"]:
        logger.warning("%d users with fewer than 3 interactions are kept for training only", report["train_only_users"])
    for name in ("validation", "test"):
        if report[f"{name}_users"] == 0:
            logger.warning("the %s split has no targets", name)
    return report


def _repeats(prepared: PreparedData) -> dict[str, int]:
    """How often validation targets repeat an item of their history."""
    split = prepared.split("validation", may_be_empty=True)
    repeated, total = 0, int(split.targets.lengths.sum())
    for first in range(0, len(split.targets), CHUNK):
        users = slice(first, first + CHUNK)
        targets, seen = (_user_items(part[users], len(prepared.item_ids)) for part in (split.targets, split.histories))
        repeated += int(np.isin(targets, seen).sum())
    if total:
        logger.info(
            "%d of %d validation targets (%.1f %%) are items that the user had before",
            repeated,
            total,
            100 * repeated / total,
        )
    return {"validation_targets": total, "in_history": repeated}


def _user_items(sequences: FlatSequences, num_items: int) -> np.ndarray:
    """(interactions,) a number for each pair of a sequence and an item of it."""
    items = np.concatenate([np.empty(0, dtype=np.int64), *sequences.chunks()])
    return np.repeat(np.arange(len(sequences)), sequences.lengths) * num_items + items


def _long_histories(prepared: PreparedData, max_history: int) -> dict[str, Any]:
    """Targets that training cannot let share a row, since the oldest items before them are cut off; says what they
    cost where that is much."""
    lengths = prepared.train_sequences().lengths
    own_rows = np.maximum(lengths - 1 - max_history, 0)
    longest, total = int(own_rows.argmax()), int(own_rows.sum())
    if total:
        much = own_rows[longest] >= 1000 and own_rows[longest] > 0.1 * lengths.sum()
        logger.log(
            logging.WARNING if much else logging.INFO,
            "%d of %d training targets have more than max_history (%d) items before them and cost a row each, where "
            "a method reads no windows; %d of them are of user %s: to train faster raise max_history, set windows or "
            "targets: last, or cut the log",
            total,
            lengths.sum(),
            max_history,
            own_rows[longest],
            shown(prepared.user_ids[longest]),
        )
    return {"targets": total, "users": int((own_rows > 0).sum()), "longest_user": prepared.user_ids[longest]}
