"""`hf-genrec folds` on somebody's own log."""

import json

import pytest
from conftest import exit_code, run_command

from hf_genrec.data.prepared import PreparedData
from hf_genrec.trainers.folds import DAY_MS, windows

FIRST = 1_600_000_000  # seconds


@pytest.fixture
def options(tmp_path):
    """A log of ten days: each user has an item a day, the last item on the last day."""
    rows = [f"u{user},i{(user + day) % 13},{FIRST + day * 86400 + user}" for user in range(20) for day in range(10)]
    (tmp_path / "log.csv").write_text("\n".join(["user_id,item_id,timestamp", *rows]) + "\n")
    said = {"source": "tabular", "source_path": tmp_path / "log.csv", "output_dir": tmp_path / "run", "use_cpu": "true"}
    said |= {"method": "rearec", "hidden_size": 8, "intermediate_size": 8, "num_train_epochs": 1, "max_history": 4}
    return [word for key, value in said.items() for word in (f"--{key}", value)]


def test_windows():
    assert windows(10 * DAY_MS, 3, 2) == [
        (4 * DAY_MS + 1, 6 * DAY_MS + 1), (6 * DAY_MS + 1, 8 * DAY_MS + 1), (8 * DAY_MS + 1, 10 * DAY_MS + 1)
    ]  # fmt: skip
    assert windows(100, 1, 0.5) == [(101 - DAY_MS // 2, 101)]
    for bad in ((0, 1), (2, 0), (2, -1)):
        with pytest.raises(ValueError, match="at least one fold, and days above 0"):
            windows(100, *bad)


def test_folds(options, tmp_path, monkeypatch, capsys, caplog):
    command = ["folds", "--num-folds", 2, "--fold-days", 2, *options]
    with caplog.at_level("INFO"):
        run_command(monkeypatch, capsys, *command)
    record = json.loads((tmp_path / "run/results/folds.json").read_text())
    # Days 0 to 9; the last interaction is 19 seconds behind the start of day 9.
    for place, before in ((1, 6), (2, 8)):
        prepared = PreparedData.load(tmp_path / f"run/folds/{place}/data")
        user = prepared.user_ids.index("u19")
        assert len(prepared.sequences[user]) == before + 2
        assert (prepared.num_validation[user], prepared.num_test[user]) == (2, 2)
        line = record["folds"][place - 1]
        assert line["users"] == 20
        tested = json.loads((tmp_path / f"run/folds/{place}/results/test.json").read_text())
        for name, figures in line["systems"].items():
            assert figures["ndcg@10"]["value"] == tested[name]["metrics"]["ndcg@10"]["value"]
    assert list(record["mean"]) == ["ReaRec", "most popular", "item-kNN"]
    values = [line["systems"]["ReaRec"]["recall@10"]["value"] for line in record["folds"]]
    assert record["mean"]["ReaRec"]["recall@10"] == pytest.approx(sum(values) / 2)
    assert "| mean |" in caplog.text
    # Kept, and refused with other settings.
    monkeypatch.setattr("hf_genrec.trainers.train.main", lambda *_: pytest.fail("trained again"))
    run_command(monkeypatch, capsys, *command)
    assert exit_code(*command, "--weight_decay", "0.3") == 2
    assert "folds/1 was made with other settings (training: weight_decay)" in capsys.readouterr().err


def test_folds_that_make_no_sense(options, tmp_path, capsys):
    def error_of(*words):
        assert exit_code("folds", *words) == 2
        return capsys.readouterr().err.strip().splitlines()[-1]

    error = error_of("--num-folds", 5, "--fold-days", 3, *options)
    assert "test_time" in error or "validation_time" in error or "leaves nothing" in error
    assert "at least one fold" in error_of("--num-folds", 0, "--fold-days", 3, *options)
    error = error_of("--num-folds", 1, "--fold-days", 1, *options, "--time_column", "none")
    assert "none" in error or "no times" in error
