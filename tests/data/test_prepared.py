import json
import logging
import re

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_genrec.data.arguments import DataArguments
from hf_genrec.data.preparation import prepare
from hf_genrec.data.prepared import PreparedData

# user, item, timestamp, rating; z comes first, d is in no items table, e has no interactions
LOG = [
    ("z", "b", 1, 5.0),
    ("a", "c", 9, 2.0),
    ("z", "a", 3, 4.0),
    ("a", "a", 4, 5.0),
    ("z", "c", 2, 1.0),
    ("a", "b", 5, 4.0),
    ("z", "d", 8, 5.0),
    ("k", "a", 6, 4.0),
]
ITEMS = [{"item_id": i, "title": i.upper(), "description": None, "categories": None} for i in "cabe"]


def interactions(log=LOG):
    columns = zip(*log, strict=True) if log else ([], [], [], [])
    users, items, times, ratings = map(list, columns)
    features = {"user_id": "string", "item_id": "string", "timestamp": "int64", "row": "int64", "rating": "float64"}
    return datasets.Dataset.from_dict(
        {"user_id": users, "item_id": items, "timestamp": times, "row": list(range(len(users))), "rating": ratings},
        features=datasets.Features({name: datasets.Value(kind) for name, kind in features.items()}),
    )


def run(log=LOG, items=ITEMS, **settings):
    return prepare(interactions(log), datasets.Dataset.from_list(items), DataArguments(**settings))


def named(prepared, sequences):
    return [[prepared.item_ids[item] for item in sequence] for sequence in sequences]


def test_users_items_and_splits_by_hand(caplog):
    prepared = run()
    assert prepared.user_ids == ["z", "a", "k"]
    assert prepared.item_ids == ["c", "a", "b", "d"]
    assert prepared.items["title"].to_pylist() == ["C", "A", "B", None]
    assert prepared.items["item_id"].to_pylist() == prepared.item_ids
    assert named(prepared, prepared.sequences) == [["b", "c", "a", "d"], ["a", "b", "c"], ["a"]]
    assert prepared.sequences[0].dtype == np.int64
    assert named(prepared, prepared.train_sequences()) == [["b", "c"], ["a"], ["a"]]
    assert prepared.item_popularity().tolist() == [1, 2, 1, 0]

    validation, test = prepared.split("validation"), prepared.split("test")
    assert validation.user_ids == test.user_ids == ["z", "a"]
    assert named(prepared, validation.histories) == [["b", "c"], ["a"]]
    assert named(prepared, validation.targets) == [["a"], ["b"]]
    assert named(prepared, test.histories) == [["b", "c", "a"], ["a", "b"]]
    assert named(prepared, test.targets) == [["d"], ["c"]]

    report = prepared.report
    assert report["read"] == {"interactions": 8, "users": 3, "items": 4, "item_rows": 4}
    assert (report["items_without_text"], report["item_rows_without_interactions"]) == (1, 1)
    assert report["split"]["train_only_users"] == 1
    assert report["split"]["train_interactions"] == 4
    assert "1 items are not in the items table" in caplog.text
    assert "1 users with fewer than 3 interactions" in caplog.text


def test_global_time_has_several_targets_and_empty_histories():
    prepared = run(split="global_time", validation_time="4", test_time="6")
    assert named(prepared, prepared.train_sequences()) == [["b", "c", "a"], [], []]
    validation, test = prepared.split("validation"), prepared.split("test")
    assert (validation.user_ids, named(prepared, validation.targets)) == (["a"], [["a", "b"]])
    assert named(prepared, validation.histories) == [[]]
    assert (test.user_ids, named(prepared, test.targets)) == (["z", "a", "k"], [["d"], ["c"], ["a"]])
    assert named(prepared, test.histories) == [["b", "c", "a"], ["a", "b"], []]


def test_a_window_of_time_goes_before_the_other_filters():
    """An item that only has its second interaction outside the window is none of a core of two."""
    log = [("u", "a", 1, None), ("u", "b", 2, None), ("v", "a", 3, None), ("v", "b", 4, None), ("w", "b", 9, None)]
    prepared = run(log, start_time="2", end_time="9", item_core=2)
    assert named(prepared, prepared.sequences) == [["b"], ["b"]]
    dropped = prepared.report["dropped"]
    assert dropped["start_time"] == {"interactions": 1, "users": 0, "items": 0}
    assert dropped["end_time"] == {"interactions": 1, "users": 1, "items": 0}
    assert dropped["k_core"] == {"interactions": 1, "users": 0, "items": 1}


def test_filters_are_counted_and_keep_the_order_of_the_source():
    log = [("z", "e", 0, 1.0), *LOG, ("z", "a", 12, None)]
    prepared = run(log, min_rating=4.0, item_core=2)
    # z's first row falls to the rating, yet z was there first
    assert prepared.user_ids == ["z", "a", "k"]
    assert named(prepared, prepared.sequences) == [["b", "a"], ["a", "b"], ["a"]]
    dropped = prepared.report["dropped"]
    assert dropped["min_rating"] == {"interactions": 4, "users": 0, "items": 2, "unrated_interactions": 1}
    assert dropped["k_core"] == {"interactions": 1, "users": 0, "items": 1}
    assert prepared.report["kept"] == {"interactions": 5, "users": 3, "items": 2}


def test_a_filtered_and_reordered_dataset_is_read_as_it_shows_itself():
    table = interactions().select([3, 1, 5])
    prepared = prepare(table, datasets.Dataset.from_list(ITEMS), DataArguments())
    assert named(prepared, prepared.sequences) == [["a", "b", "c"]]


def test_shuffle_without_times_says_that_it_does_nothing(caplog):
    log = [(user, item, None, rating) for user, item, _, rating in LOG]
    prepared = run(log, tie_order="shuffle", tie_seed=3)
    assert named(prepared, prepared.sequences) == [["b", "a", "c", "d"], ["c", "a", "b"], ["a"]]
    assert prepared.report["order"] == {"by": "row", "tie_order": "file", "tied_interactions": 0}
    assert "shuffle has no effect" in caplog.text


def test_repeats_are_dropped_behind_the_rating_and_before_the_cores(caplog):
    log = [
        ("z", "a", 5, 5.0),
        ("z", "a", 1, 1.0),  # the earliest, but badly rated
        ("z", "b", 6, 5.0),
        ("z", "a", 3, 4.0),
        ("z", "b", 6, 4.0),  # simultaneous: the first in the file stays
        ("a", "a", 9, 4.0),
    ]
    with caplog.at_level(logging.INFO):
        prepared = run(log, min_rating=4.0, drop_repeats=True)
    assert named(prepared, prepared.sequences) == [["a", "b"], ["a"]]
    assert prepared.report["dropped"]["repeats"] == {"interactions": 2, "users": 0, "items": 0}
    assert prepared.report["settings"]["drop_repeats"] is True
    assert "2 interactions repeat an earlier one" in caplog.text
    # three interactions of z, two different ones
    assert run(log, user_core=3).report["kept"]["users"] == 1
    with pytest.raises(ValueError, match="user_core=3, item_core=0 leaves nothing"):
        run(log, user_core=3, drop_repeats=True)
    untimed = [(user, item, None, rating) for user, item, _, rating in log]
    prepared = run(untimed, drop_repeats=True)
    assert named(prepared, prepared.sequences) == [["a", "b"], ["a"]]
    # a row without a time is not the earliest: it is refused, dropped or not
    with pytest.raises(ValueError, match="1 of 3 interactions have no timestamp"):
        run([("z", "a", None, 5.0), ("z", "a", 3, 5.0), ("z", "b", 3, 5.0)], drop_repeats=True)


def test_items_of_other_ids_are_refused_and_the_share_is_named(caplog):
    log = [(user, f"{item}.0", time, rating) for user, item, time, rating in LOG]
    with pytest.raises(ValueError, match=r"^none of the 4 items of x/log\.csv \(for instance 'b\.0'\)") as error:
        run(log, source="tabular", source_path="x/log.csv", item_path="x/films.csv")
    assert "is in x/films.csv (for instance 'c'): ids must be written alike" in str(error.value)
    run([*LOG, ("k", "f", 7, 1.0)])
    assert "2 items are not in the items table: kept without text (40.0 % of 5, for instance 'd')" in caplog.text


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [({}, "only users with 3 interactions or more"), ({"split": "global_time"}, r"another validation_time \(4\)")],
)
def test_an_empty_split_is_refused_with_the_remedy(settings, remedy):
    if settings:
        settings |= {"validation_time": "4", "test_time": "5"}
    prepared = run([("z", "a", 1, 1.0), ("z", "b", 6, 1.0)], **settings)
    with pytest.raises(ValueError, match=f"the validation split has no targets, .*{remedy}.*eval_strategy"):
        prepared.split("validation")
    assert prepared.split("validation", may_be_empty=True).user_ids == []
    if not settings:
        with pytest.raises(ValueError, match="the test split has no targets"):
            prepared.split("test")


def test_data_sets_of_ones_own_types_mean_the_same():
    """What pandas, say, makes of a log: floats for ids, nanoseconds for times, categories."""
    plain = prepare(interactions(), datasets.Dataset.from_list(ITEMS), DataArguments())
    table = interactions().to_pandas()
    table["user_id"] = table["user_id"].astype("category")
    table["timestamp"] = pd.to_datetime(table["timestamp"], unit="ms")
    for unit in ("s", "ms", "us", "ns"):
        kind = pa.timestamp(unit, "UTC")
        log = pa.Table.from_pandas(table.assign(timestamp=table["timestamp"] + pd.Timedelta(days=10_000)))
        place = log.column_names.index("timestamp")
        log = log.set_column(place, "timestamp", log["timestamp"].cast(kind, safe=False))
        found = prepare(datasets.Dataset(log), datasets.Dataset.from_list(ITEMS), DataArguments())
        assert found.report["times"]["first"] == "1997-05-19T00:00:00Z"
        if unit != "s":  # where all of them are simultaneous
            assert named(found, found.sequences) == named(plain, plain.sequences)
    numbers = interactions([("u", str(n), n, 1.0) for n in range(3)]).to_pandas()
    numbers["item_id"] = numbers["item_id"].astype(float)
    items = datasets.Dataset.from_list([{"item_id": n, "categories": ["x", "y"], "new": True} for n in range(3)])
    found = prepare(datasets.Dataset.from_pandas(numbers), items, DataArguments())
    assert found.item_ids == ["0", "1", "2"]
    assert found.items.to_pylist()[0] == {"item_id": "0", "categories": "x, y", "new": "true"}


@pytest.mark.parametrize(
    ("column", "cells", "message"),
    [
        ("item_id", [[1]] * 8, "interactions: column 'item_id' (a column of the data set) is of type list<"),
        ("user_id", [True] * 8, "is of type bool: ids are text or whole numbers"),
        ("user_id", [0.5] * 8, "the id 0.5 in column 'user_id' is a decimal number"),
        ("timestamp", [{"x": 1}] * 8, "is of type struct<x: int64>: times are"),
        ("timestamp", ["noon"] * 8, "interactions: column 'timestamp' holds text that is no number: give milliseconds"),
    ],
)
def test_columns_of_a_data_set_that_cannot_be_read(column, cells, message):
    table = interactions().remove_columns(column).add_column(column, cells)
    with pytest.raises(ValueError, match=r".") as error:
        prepare(table, datasets.Dataset.from_list(ITEMS), DataArguments())
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_what_long_histories_cost_is_said(caplog):
    log = [("u", "abc"[n % 3], n, 1.0) for n in range(1200)] + [("v", "a", n, 1.0) for n in range(9)]
    prepared = run(log, max_history=20)
    assert prepared.report["long_histories"] == {"targets": 1198 - 21, "users": 1, "longest_user": "u"}
    assert "1177 of 1205 training targets have more than max_history (20) items before them" in caplog.text
    assert "1177 of them are of user 'u'" in caplog.text
    caplog.clear()
    assert run(log, max_history=1200).report["long_histories"]["targets"] == 0
    assert "max_history" not in caplog.text


def test_ties_are_counted():
    log = [("u", "a", 1, None), ("u", "b", 1, None), ("u", "c", 2, None), ("v", "a", 1, None)]
    assert run(log).report["order"]["tied_interactions"] == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"log": []}, "there are no interactions"),
        ({"min_rating": 6.0}, "min_rating=6.0 leaves nothing of 8 interactions"),
        ({"user_core": 5}, "user_core=5, item_core=0 leaves nothing of 8 interactions"),
        ({"items": [*ITEMS, ITEMS[1]]}, "1 item ids are there more than once, first 'a'"),
        ({"log": [*LOG, ("z", None, 1, 1.0)]}, "1 rows have no item_id"),
        (
            {"log": [*LOG, ("z", "a", None, 1.0), ("z", "b", None, 1.0)]},
            "2 of 10 interactions have no timestamp, the first is row 9 (from 1, without a header): give every row one",
        ),
        (
            {"log": [("z", "a", None, 1.0)], "split": "global_time", "validation_time": "4", "test_time": "6"},
            "split global_time needs times: the log: 1 of 1 interactions have no timestamp, the first is row 1 ",
        ),
        ({"split": "global_time", "validation_time": "1", "test_time": "6"}, "leaves no training interactions"),
        ({"start_time": "99"}, "start_time=99 leaves nothing of 8 interactions: set it earlier"),
        ({"log": [("z", "a", None, 1.0)], "end_time": "4"}, "end_time needs times: the log: 1 of 1 interactions"),
        ({"items": [{"item_id": "B"}]}, "none of the 4 items of the log (for instance 'b') is in the items table"),
    ],
)
def test_what_cannot_be_prepared_is_one_line(change, message):
    with pytest.raises(ValueError, match=r".") as error:
        run(**change)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_column_is_named():
    with pytest.raises(ValueError, match="no column user_id; columns found: item_id, timestamp, row, rating"):
        prepare(interactions().remove_columns("user_id"), datasets.Dataset.from_list(ITEMS), DataArguments())


@pytest.mark.parametrize(
    "settings", [{}, {"split": "global_time", "validation_time": "4", "test_time": "6"}, {"user_core": 3}]
)
def test_save_and_load_give_the_same_data(tmp_path, settings):
    prepared = run(**settings)
    prepared.save(tmp_path / "data")
    loaded = PreparedData.load(tmp_path / "data")
    assert loaded.user_ids == prepared.user_ids
    assert loaded.item_ids == prepared.item_ids
    assert loaded.items.equals(prepared.items)
    assert [s.tolist() for s in loaded.sequences] == [s.tolist() for s in prepared.sequences]
    assert loaded.sequences[0].dtype == np.int64
    assert loaded.num_validation.tolist() == prepared.num_validation.tolist()
    assert loaded.num_test.tolist() == prepared.num_test.tolist()
    assert loaded.report == prepared.report | {"fingerprint": prepared.fingerprint}
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [
        "items.parquet",
        "prepare.json",
        "sequences.parquet",
    ]
    rows = datasets.Dataset.from_parquet(str(tmp_path / "data" / "sequences.parquet"), cache_dir=str(tmp_path))
    assert rows[0]["item_ids"] == named(prepared, prepared.sequences)[0]


@pytest.mark.parametrize("name", ["sequences.parquet", "items.parquet", "prepare.json"])
def test_missing_and_truncated_files_are_named(tmp_path, name):
    run().save(tmp_path)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=name) as error:
        PreparedData.load(tmp_path)
    assert "\n" not in str(error.value)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f"{name} does not exist"):
        PreparedData.load(tmp_path)


def test_an_item_outside_the_catalogue_is_refused(tmp_path):
    prepared = run()
    prepared.save(tmp_path / "whole")
    prepared.items = prepared.items.slice(1)
    prepared.save(tmp_path / "cut")
    with pytest.raises(ValueError, match=r"item 'c' is not in items\.parquet"):
        PreparedData.load(tmp_path / "cut")


def changed(table, name, values):
    return table.set_column(table.column_names.index(name), name, pa.array(values))


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        *(
            ("sequences", lambda table, values=values: changed(table, "num_test", values), f"'num_test' {said}")
            for values, said in (
                (["x"] * 3, "is of type string, not int64"),
                ([True] * 3, "is of type bool"),
                ([1.0] * 3, "is of type double"),
                ([None] * 3, "is of type null"),
                (pa.array([None] * 3, pa.int64()), "holds nulls"),
            )
        ),
        *(
            ("sequences", lambda table, values=values: changed(table, "item_ids", values), "'item_ids' is of type")
            for values in (["a"] * 3, [[1]] * 3, [{"a": 1}] * 3, [None] * 3, [[["a"]]] * 3)
        ),
        ("sequences", lambda table: changed(table, "user_id", range(3)), "'user_id' is of type int64, not string"),
        ("sequences", lambda table: table.append_column("user_id", table["user_id"]), "'user_id' is there twice"),
        ("items", lambda table: changed(table, "item_id", range(4)), "'item_id' is of type int64, not string"),
        ("items", lambda table: changed(table, "item_id", ["a", None, "b", "c"]), "'item_id' holds nulls"),
        (
            "items",
            lambda table: changed(table, "item_id", table["item_id"].combine_chunks().dictionary_encode()),
            "'item_id' is of type dict",
        ),
        ("items", lambda table: table.append_column("title", table["title"]), "'title' is there twice"),
        ("items", lambda table: changed(table, "title", [b"x"] * 4), "'title' is of type binary, not text or numbers"),
        ("items", lambda table: changed(table, "title", pa.array([1] * 4, pa.date32())), "'title' is of type date32"),
        ("items", lambda table: changed(table, "title", [[{"a": 1}]] * 4), "'title' is of type list of struct"),
    ],
)
def test_a_column_of_another_type_is_named(tmp_path, file, change, said):
    run().save(tmp_path)
    path = tmp_path / f"{file}.parquet"
    pq.write_table(change(pq.ParquetFile(path).read()), path)
    with pytest.raises(ValueError, match="run prepare again") as error:
        PreparedData.load(tmp_path)
    assert str(error.value).startswith(f"{path}: column {said}")
    assert "\n" not in str(error.value)


def test_what_the_report_does_not_say_is_named_with_its_folder(tmp_path):
    prepared = run()
    del prepared.report["settings"]["tie_seed"]
    prepared.save(tmp_path)
    place = re.escape(f"{tmp_path}/prepare.json")
    with pytest.raises(ValueError, match=f"^{place} does not say tie_seed of the prepared data: run prepare again$"):
        PreparedData.load(tmp_path).settings("source", "tie_seed")


def test_nothing_partial_is_left_when_writing_fails(tmp_path):
    prepared = run()
    prepared.save(tmp_path)
    before = json.loads((tmp_path / "prepare.json").read_text())
    prepared.report["order"] = object()
    with pytest.raises(TypeError):
        prepared.save(tmp_path)
    assert json.loads((tmp_path / "prepare.json").read_text()) == before
    assert len(list(tmp_path.iterdir())) == 3


def test_unknown_split_name():
    with pytest.raises(ValueError, match="'train' is not one of validation, test"):
        run().split("train")


def test_wanted_filters_do_not_warn(caplog):
    with caplog.at_level(logging.WARNING):
        run([row for row in LOG if row[1] != "d" and row[0] != "k"], min_rating=1.0)
    assert caplog.text == ""
