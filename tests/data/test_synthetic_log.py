import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from benchmarks import synthetic_log


def test_the_log_follows_its_law(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic_log, "BLOCK", 40_000)
    synthetic_log.write_log(tmp_path / "log.parquet", 100_000, seed=1)
    synthetic_log.write_log(tmp_path / "log.csv", 100_000, seed=1)
    table = pq.read_table(tmp_path / "log.parquet")
    assert table.schema == synthetic_log.SCHEMA
    assert pa.csv.read_csv(tmp_path / "log.csv").equals(table)

    popularity = np.sort(table["item_id"].value_counts().field("counts").to_numpy())[::-1]
    assert 900 < len(popularity) <= 1000
    expected = 100_000 / np.arange(1, 6) / (1 / np.arange(1, 1001)).sum()
    assert np.abs(popularity[:5] / expected - 1).max() < 0.06  # 1.2 % to 2.7 % is one deviation

    lengths = table["user_id"].value_counts().field("counts").to_numpy()
    assert 7 <= np.median(lengths) <= 9
    assert 13 < lengths.mean() < 15  # exp(0.5) * 8, and about half for rounding up
    assert 0.9 < np.log(lengths).std() < 1.1
    times = table["timestamp"].to_numpy()
    for start in range(0, 100_000, 40_000):
        assert (np.diff(times[start : start + 40_000]) >= 0).all()


def test_the_seed_decides_and_other_files_are_refused(tmp_path):
    first, again, other = (next(synthetic_log.blocks(1000, seed)) for seed in (0, 0, 1))
    assert first.equals(again)
    assert not first.equals(other)
    with pytest.raises(ValueError, match=r"log\.json: name it \.parquet or \.csv"):
        synthetic_log.write_log(tmp_path / "log.json", 10)
