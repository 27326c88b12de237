"""What prepare.json says is checked where it is read: whatever is of another shape is named."""

import json
import os

import pytest

from hf_genrec.data.arguments import DataArguments
from hf_genrec.data.prepare_report import read_prepare_report, require_whole

COUNTS = {"interactions": 8, "users": 3, "items": 4}
SPLIT = dict.fromkeys(["train_interactions", "validation_interactions", "test_interactions"], 2)
SPLIT |= dict.fromkeys(["validation_users", "test_users", "train_only_users"], 1)


def whole(folder):
    (folder / "log.csv").write_text("x")
    report = {
        "settings": vars(DataArguments(source="tabular", source_path="log.csv")),
        "read": COUNTS | {"item_rows": 4},
        "dropped": {"k_core": COUNTS},
        "kept": COUNTS,
        "order": {"by": "row", "tie_order": "file", "tied_interactions": 0},
        "split": SPLIT,
        "sources": {"source_path": {"path": str(folder / "log.csv"), "fingerprint": "abc"}},
        "fingerprint": "def",
    }
    return json.loads(json.dumps(report))  # its parts apart from each other


def written(folder, report):
    (folder / "prepare.json").write_text(json.dumps(report))
    return folder / "prepare.json"


def refusal(path, read=read_prepare_report):
    with pytest.raises(ValueError, match="run prepare again") as error:
        read(path)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(str(path))
    assert len(str(error.value)) < len(str(path)) + 500
    return str(error.value)


def test_what_prepare_writes_is_read_and_whole(tmp_path):
    path = written(tmp_path, whole(tmp_path))
    report = read_prepare_report(path)
    require_whole(report, path)
    assert report == json.loads(path.read_text())
    gone = whole(tmp_path) | {"sources": {"source_path": {"path": "/no/where/log.csv", "fingerprint": "abc"}}}
    read_prepare_report(written(tmp_path, gone))


@pytest.mark.parametrize("value", [None, "x", 5, [1]])
@pytest.mark.parametrize("name", ["settings", "sources", "read", "dropped", "kept", "order", "split"])
def test_a_part_that_is_no_object(tmp_path, name, value):
    assert f"{name} is " in refusal(written(tmp_path, whole(tmp_path) | {name: value}))


@pytest.mark.parametrize(
    ("place", "value", "named"),
    [
        ("settings.source", 5, "settings.source is 5"),
        ("settings.source", "cinema", "settings.source is 'cinema'"),
        ("settings.source_path", ["log.csv"], "settings.source_path"),
        ("settings.source_path", "x" * 5000, "settings.source_path is 'xxx"),
        ("settings.codes_path", "/dev/zero", "settings.codes_path is '/dev/zero'"),
        ("settings.user_core", True, "settings.user_core is True"),
        ("settings.min_rating", "4", "settings.min_rating"),
        ("settings.drop_repeats", 1, "settings.drop_repeats is 1"),
        ("sources.surplus", {"path": "log.csv", "fingerprint": "abc"}, "sources names 'surplus'"),
        ("sources.source_path", "log.csv", "sources.source_path"),
        ("sources.source_path.path", 5, "sources.source_path"),
        ("sources.source_path.fingerprint", None, "sources.source_path"),
        ("sources.source_path.path", "x" * 5000, "sources.source_path.path is 'xxx"),
        ("sources.source_path.path", "/dev/zero", "sources.source_path.path is '/dev/zero'"),
        ("sources.source_path.path", "/proc", "sources.source_path.path is '/proc'"),
        ("kept.items", "4", "kept.items is '4'"),
        ("read.users", -1, "read.users is -1"),
        ("dropped.k_core", 5, "dropped.k_core is 5"),
        ("dropped.k_core.users", None, "dropped.k_core.users"),
        ("split.test_users", 1.5, "split.test_users is 1.5"),
        ("order.by", None, "order does not say"),
    ],
)
def test_a_value_of_another_kind_is_named(tmp_path, place, value, named):
    report = whole(tmp_path)
    *parents, key = place.split(".")
    part = report
    for name in parents:
        part = part[name]
    part[key] = value
    assert named in refusal(written(tmp_path, report))


def test_a_pipe_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    report = whole(tmp_path)
    report["sources"]["source_path"]["path"] = str(tmp_path / "pipe")
    assert "no stored file" in refusal(written(tmp_path, report))


@pytest.mark.parametrize("place", ["read", "order", "split", "settings.drop_repeats", "sources.source_path"])
def test_a_report_that_lacks_a_part_is_not_whole(tmp_path, place):
    report = whole(tmp_path)
    *parents, key = place.split(".")
    part = report
    for name in parents:
        part = part[name]
    del part[key]
    path = written(tmp_path, report)
    read_prepare_report(path)
    assert f"does not say {place} of" in refusal(path, lambda path: require_whole(read_prepare_report(path), path))


@pytest.mark.parametrize("name", ["start_time", "end_time"])
def test_data_of_before_a_setting_are_whole(tmp_path, name):
    report = whole(tmp_path)
    del report["settings"][name]
    require_whole(report, tmp_path)
    report["dropped"][name] = COUNTS
    with pytest.raises(ValueError, match=rf"does not say settings\.{name} of"):
        require_whole(report, tmp_path)
