from datetime import date, datetime

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hf_genrec.data.arguments import DataArguments
from hf_genrec.data.times import parse_time


def test_yaml_dates_and_milliseconds_mean_the_same_time():
    text = "{split: global_time, validation_time: 2015-01-01, test_time: 1420156800000}"
    arguments = DataArguments(**yaml.safe_load(text))
    assert arguments.validation_ms == 1420070400000  # 2015-01-01 00:00 UTC
    assert arguments.test_ms == arguments.validation_ms + 24 * 3600 * 1000


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": "netflix"}, "source: 'netflix' is not one of movielens, sequence_files, tabular"),
        ({"source": "tabular"}, "source_path is missing"),
        ({"item_path": "items.csv"}, "item_path is not used"),
        ({"source": "tabular", "source_path": "a.csv", "min_rating": 3.0}, "min_rating needs rating_column"),
        ({"user_core": -1}, "user_core: -1"),
        ({"user_core": None}, "user_core: None"),
        ({"max_history": 0}, "max_history: 0"),
        ({"drop_repeats": "maybe"}, "drop_repeats: 'maybe' is not true or false"),
        ({"test_time": "2015-01-01"}, "need split: global_time"),
        ({"split": "global_time", "test_time": "2015-01-01"}, "validation_time is missing"),
        ({"split": "global_time", "validation_time": "soon", "test_time": "2015-01-01"}, "validation_time: 'soon'"),
        ({"start_time": "2015-01-02", "end_time": date(2015, 1, 1)}, "start_time 2015-01-02 must be before end_time"),
        (
            {"split": "global_time", "start_time": "5", "validation_time": "4", "test_time": "6"},
            "start_time 5 must be before validation_time 4",
        ),
        (
            {"split": "global_time", "validation_time": date(2015, 1, 1), "test_time": "2015-01-01"},
            "validation_time 2015-01-01 must be before test_time 2015-01-01",
        ),
    ],
)
def test_unusable_settings_are_named_in_one_line(settings, message):
    with pytest.raises(ValueError, match=r".") as error:
        DataArguments(**settings)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("value", "unit", "milliseconds"),
    [
        ("881250949", "s", 881250949000),
        ("881250949.25", "s", 881250949250),
        (881250949.25, "s", 881250949250),
        ("-1", "s", -1000),
        ("1420070400123", "ms", 1420070400123),
        ("2015-01-01", "iso", 1420070400000),
        ("2015-01-01T01:00:00+01:00", "iso", 1420070400000),
        ("2015-01-01T00:00:00Z", "iso", 1420070400000),
    ],
)
def test_times_by_hand(value, unit, milliseconds):
    assert parse_time(value, unit) == milliseconds


@pytest.mark.parametrize(
    ("value", "unit"), [("yesterday", "s"), ("nan", "s"), ("inf", "ms"), ("1420070400000", "s"), ("12", "iso")]
)
def test_what_is_no_time_is_refused(value, unit):
    with pytest.raises(ValueError, match=f"time_unit: {unit}"):
        parse_time(value, unit)


@given(st.datetimes(min_value=datetime(1900, 1, 1)))
def test_iso_keeps_whole_milliseconds(moment):
    text = moment.isoformat(timespec="milliseconds")
    assert moment.microsecond // 1000 == parse_time(text, "iso") % 1000
