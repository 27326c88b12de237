"""Whether lists leave the history out: chosen by a training, kept by the model, and what everybody gets by default."""

import json
import logging
import shutil

import numpy as np
import pytest
from conftest import exit_code, make_model, make_processor, run_command
from tiny_ensemble import tiny_ensemble
from tiny_rearec import tiny_rearec, tiny_split
from tiny_reg4rec import make_reg4rec, make_set_processor

import hf_genrec
from hf_genrec.data.prepared import EvaluationSplit, PreparedData
from hf_genrec.evaluation.metrics import ndcg_at_k
from hf_genrec.hub import recommend_as_stranger
from hf_genrec.training.seen_items import choose_exclude_seen

MODELS = {
    "care": lambda: make_model(make_processor(30)),
    "ensemble": tiny_ensemble,
    "rearec": tiny_rearec,
    "reg4rec": lambda: make_reg4rec(make_set_processor(30)),
}


def split_of(model, seen: bool) -> EvaluationSplit:
    """Targets that the model finds: its best item of the history, or its best one outside."""
    histories = [history for history in tiny_split().histories if 0 < len(set(history)) < 12]
    rows, _ = model.recommend_rows(histories, 30, exclude_seen=False)
    targets = [
        next(np.array([row]) for row in line if (row in history) == seen)
        for line, history in zip(rows.tolist(), histories, strict=True)
    ]
    return EvaluationSplit("validation", [str(user) for user in range(len(histories))], histories, targets)


@pytest.mark.parametrize("method", MODELS)
@pytest.mark.parametrize("seen", [True, False])
def test_the_better_rule_is_chosen_and_kept(method, seen, tmp_path):
    model = MODELS[method]()
    split = split_of(model, seen)
    chosen = choose_exclude_seen(model, split)
    figures = {}
    for name, leave_out in (("history_in_lists", False), ("history_left_out", True)):
        rows, _ = model.recommend_rows(split.histories, 10, exclude_seen=leave_out)
        figures[name] = pytest.approx(ndcg_at_k(rows, split.targets, 10).mean())
    assert chosen == {
        "left_out": not seen,
        "chosen_by": "validation",
        "users": len(split.histories),
        "ndcg@10": figures,
    }
    model.save_pretrained(tmp_path)
    again, ids = hf_genrec.load(tmp_path), model.processor.item_ids
    histories = [[ids[3], ids[9]], [], [ids[5]]]
    assert again.processor.exclude_seen is not seen
    assert again.recommend(histories, k=5) == model.recommend(histories, k=5, exclude_seen=not seen)
    assert again.recommend(histories, k=5, exclude_seen=seen) == model.recommend(histories, k=5, exclude_seen=seen)


def test_equal_figures_leave_the_history_in_and_a_setting_overrules(caplog):
    model = tiny_rearec()
    split = split_of(model, seen=False)
    equal = {"history_in_lists": 0.5, "history_left_out": 0.5}
    assert not choose_exclude_seen(model, split, known=equal)["left_out"]
    assert choose_exclude_seen(model, split, known=equal | {"history_left_out": 0.6})["left_out"]
    with caplog.at_level(logging.INFO):
        assert choose_exclude_seen(model, split, False) == {
            "left_out": False,
            "chosen_by": "exclude_seen",
            "users": len(split.histories),
            "ndcg@10": choose_exclude_seen(model, split)["ndcg@10"],
        }
    assert "lists may hold items of the history by default, as is set: validation NDCG@10 " in caplog.text
    nobody = EvaluationSplit("validation", [], [], [])
    model.processor.exclude_seen = False
    assert choose_exclude_seen(model, nobody) is None
    assert model.processor.exclude_seen is False


@pytest.mark.parametrize("method", MODELS)
def test_folders_of_earlier_versions_keep_the_history(method, tmp_path):
    MODELS[method]().save_pretrained(tmp_path)
    path = tmp_path / "processor_config.json"
    settings = json.loads(path.read_text())
    del settings["exclude_seen"]
    path.write_text(json.dumps(settings))
    assert hf_genrec.load(tmp_path).processor.exclude_seen is False
    path.write_text(json.dumps(settings | {"exclude_seen": "yes"}))
    with pytest.raises(ValueError, match=r"processor_config.json is damaged \(exclude_seen='yes'"):
        hf_genrec.load(tmp_path)


@pytest.fixture(scope="module")
def run(rearec_config, tmp_path_factory):
    """Nobody of this log has an item twice."""
    folder = tmp_path_factory.mktemp("seen") / "run"
    options = ["--config", rearec_config, "--output_dir", folder, "--num_train_epochs", 2]
    for command in ("prepare", "train"):
        assert exit_code(command, *options) == 0
    return folder


def test_a_training_chooses_and_says_so(run, monkeypatch, capsys):
    record = json.loads((run / "results/training.json").read_text())
    chosen = record["seen_items"]
    assert chosen["left_out"]
    assert chosen["ndcg@10"]["history_in_lists"] == record["best_validation_ndcg@10"]
    split, model = PreparedData.load(run / "data").split("validation"), hf_genrec.load(run)
    assert chosen["users"] == len(split.histories)
    rows, _ = model.recommend_rows(split.histories, 10, exclude_seen=True)
    assert chosen["ndcg@10"]["history_left_out"] == pytest.approx(ndcg_at_k(rows, split.targets, 10).mean())
    assert model.processor.exclude_seen
    with_history, without = chosen["ndcg@10"].values()
    card = (run / "model/README.md").read_text()
    assert f"leave the history out; validation NDCG@10 {with_history:.4f} with them, {without:.4f} without |" in card
    # What a stranger gets, too.
    history = ["f00", "f02", "f04"]
    items, _ = model.recommend(history, k=24)
    assert len(items) == 21
    assert recommend_as_stranger(run / "model", history, 24)[0] == items
    printed = run_command(monkeypatch, capsys, "recommend", run, "--history", "f00,f02,f04", "-k", "24")
    assert len(printed.splitlines()) == 1 + 21
    options = ["--history", "f00,f02,f04", "-k", "24", "--no-exclude-seen"]
    assert len(run_command(monkeypatch, capsys, "recommend", run, *options).splitlines()) == 1 + 24


def test_evaluate_takes_the_default_unless_it_is_told(run, monkeypatch, capsys):
    removed = {}
    for options in ([], ["--no-exclude-seen"], ["--exclude-seen"]):
        run_command(monkeypatch, capsys, "evaluate", run, "--split", "validation", *options)
        for path in (run / "results").glob("validation*.json"):
            removed[path.stem] = json.loads(path.read_text())["ReaRec"]["seen_items_removed"]
    assert removed == {"validation": True, "validation-seen": False}
    chosen = json.loads((run / "results/training.json").read_text())["seen_items"]["ndcg@10"]
    for name, rule in (("validation", "history_left_out"), ("validation-seen", "history_in_lists")):
        record = json.loads((run / f"results/{name}.json").read_text())["ReaRec"]
        assert record["metrics"]["ndcg@10"]["value"] == pytest.approx(chosen[rule])
    frame = hf_genrec.Run(run).evaluate("validation")
    assert frame.loc["ReaRec", "ndcg@10"] == pytest.approx(chosen["history_left_out"])


def test_compare_asks_where_runs_differ(run, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(run, other)
    path = other / "model/processor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"exclude_seen": False}))
    output = ["--split", "validation", "--output-dir", tmp_path / "compared"]
    assert exit_code("compare", run, other, *output) == 2
    assert (
        "run leaves the history out of its lists and other does not: say --exclude-seen or" in capsys.readouterr().err
    )
    shutil.copytree(run, tmp_path / "same")
    assert exit_code("compare", run, tmp_path / "same", *output) == 0
    assert json.loads((tmp_path / "compared/compare.json").read_text())["seen_items_removed"] is True


def test_lists_for_all_users_and_python(run, tmp_path):
    import pyarrow.parquet as pq

    from hf_genrec.serving.batch import recommend_users

    opened = hf_genrec.Run(run)
    user = opened.data.user_ids[0]
    expected = opened.model.recommend(opened._history(user), k=24, exclude_seen=True)[0]
    assert opened.recommend(user, k=24)[0] == expected
    assert len(opened.recommend(user, k=24, exclude_seen=False)[0]) == 24
    for exclude_seen, count in ((None, len(expected)), (False, 24)):
        recommend_users(run, tmp_path / str(exclude_seen), k=24, exclude_seen=exclude_seen)
        table = pq.read_table(tmp_path / str(exclude_seen))
        assert table["user_id"].to_pylist().count(user) == count


def test_a_setting_decides_and_repeats_are_counted(rearec_config, tmp_path):
    log = ["member,film,seen_at"]
    for user in range(30):
        # Two films by turns: each target but the first two was there before.
        log += [f"u{user:02d},f{(user + place % 2) % 24:02d},{1000 * place}" for place in range(6)]
    log += ["v0,f00,0", "v0,f01,1", "v0,f02,2", "v0,f03,3"]
    (tmp_path / "log.csv").write_text("\n".join(log) + "\n")
    config = tmp_path / "config.yaml"
    lines = [line for line in rearec_config.read_text().splitlines() if not line.startswith(("source_path", "output"))]
    config.write_text("\n".join([*lines, f"source_path: {tmp_path}/log.csv", f"output_dir: {tmp_path}/run"]) + "\n")
    assert exit_code("prepare", "--config", config) == 0
    report = json.loads((tmp_path / "run/data/prepare.json").read_text())
    assert report["repeats"] == {"validation_targets": 31, "in_history": 30}
    options = ["--config", config, "--num_train_epochs", 2]
    assert exit_code("train", *options) == 0
    assert hf_genrec.load(tmp_path / "run").processor.exclude_seen is False
    assert exit_code("prepare", "--config", config, "--output_dir", tmp_path / "set") == 0
    assert exit_code("train", *options, "--output_dir", tmp_path / "set", "--exclude_seen", "true") == 0
    chosen = json.loads((tmp_path / "set/results/training.json").read_text())["seen_items"]
    assert (chosen["left_out"], chosen["chosen_by"]) == (True, "exclude_seen")
    assert chosen["ndcg@10"]["history_left_out"] < chosen["ndcg@10"]["history_in_lists"]
