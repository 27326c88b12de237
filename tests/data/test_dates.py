"""Dates that no log has are refused; what was read is said."""

import datasets
import pytest

from hf_genrec.data import dates
from hf_genrec.data.arguments import DataArguments
from hf_genrec.data.preparation import prepare

NOW = 1_790_000_000_000  # September 2026
TABULAR = {"source": "tabular", "source_path": "log.csv"}


@pytest.fixture(autouse=True)
def _clock(monkeypatch):
    monkeypatch.setattr(dates, "now_ms", lambda: NOW)


def run(times, **settings):
    log = {"user_id": ["u"] * len(times), "item_id": [f"i{n}" for n in range(len(times))]}
    log |= {"timestamp": times, "row": list(range(len(times)))}
    features = {"user_id": "string", "item_id": "string", "timestamp": "int64", "row": "int64"}
    table = datasets.Dataset.from_dict(
        log, features=datasets.Features({name: datasets.Value(kind) for name, kind in features.items()})
    )
    items = [{"item_id": item, "title": item} for item in log["item_id"]]
    return prepare(table, datasets.Dataset.from_list(items), DataArguments(**settings))


def test_the_range_is_reported_and_logged(caplog):
    with caplog.at_level("INFO"):
        prepared = run([1_420_070_401_500, 1_420_070_400_000, 1_520_070_400_000], **TABULAR)
    assert prepared.report["times"] == {"first": "2015-01-01T00:00:00Z", "last": "2018-03-03T09:46:40Z"}
    assert "interactions from 2015-01-01T00:00:00Z to 2018-03-03T09:46:40Z (UTC)" in caplog.text
    assert run([None, None, None], **TABULAR).report["times"] is None


SECONDS = [1_600_000_000, 1_600_500_000, 1_601_000_000]
SPAN = {"split": "global_time", "validation_time": "2020-09-20", "test_time": "2020-09-22"}


@pytest.mark.parametrize(
    ("times", "settings", "message"),
    [
        (
            SECONDS,
            TABULAR | {"time_unit": "ms"},
            "dated 1970-01-19T12:26:40Z to .* seconds read as milliseconds: set time",
        ),
        (SECONDS, {}, "seconds read as milliseconds: give milliseconds"),  # a data set of one's own
        # pandas.to_datetime(seconds): nanoseconds, of a Parquet file
        ([1600, 1601, 1601], TABULAR, "all interactions are dated 1970-01-01T00:00:01Z .* in another unit"),
        ([5000, 6000, 7000], TABULAR | {"time_unit": "iso"}, "all interactions are dated 1970.* in another unit"),
        ([1, -1000, -2000], TABULAR, r"2 of 3 .* before 1970, the first 1969-12-31T23:59:59Z \(user 'u', item 'i1'\)"),
        (
            [1, 2, 4_102_444_800_000],
            TABULAR,
            r"csv: 1 of 3 interactions are dated later than 2027-.* 2100-01-01.*time_unit",
        ),
        ([1, NOW + 367 * 86_400_000, 2], {}, "1 of 3 interactions are dated later than"),
        ([253_402_300_800_000] * 2, {}, "2 of 2 interactions are dated later than .* the first 253402300800000 ms"),
        (
            [t * 1000 for t in SECONDS],
            SPAN | {"test_time": "2021-01-01"},
            "test_time 2021-01-01 is after the last .*2020",
        ),
        (
            [t * 1000 for t in SECONDS],
            SPAN | {"validation_time": "2021-01-01", "test_time": "2021-02-01"},
            "validation_time 2021-01-01 is after the last interaction",
        ),
        (
            [t * 1000 for t in SECONDS],
            SPAN | {"validation_time": "2020-01-01"},
            r"leaves no training interactions \(they are of 2020-09-13T12:26:40Z to 2020-09-25",
        ),
    ],
)
def test_dates_that_no_log_has(times, settings, message):
    with pytest.raises(ValueError, match=message) as error:
        run(times, **settings)
    assert "\n" not in str(error.value)


def test_a_year_ahead_and_an_order_are_let_be(caplog):
    run([1_420_070_400_000, NOW + 365 * 86_400_000], **TABULAR)
    assert not [record for record in caplog.records if record.levelname == "WARNING" and "dated" in record.getMessage()]
    run([0, 1000, 2000, 1_000_000_000], **TABULAR)
    assert "right if the times are a mere order" in caplog.text
    run([0, 1_420_070_400_000, 1_420_070_400_001], **TABULAR)
    assert "1 interactions are dated 1970, the last one 2015-01-01T00:00:00Z" in caplog.text
    run([t * 1000 for t in SECONDS], **SPAN)
