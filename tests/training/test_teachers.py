"""Runs that a run learns from: named in its configuration, trained before it, called by name."""

import json
import re
import shutil

import pytest
from conftest import CODED_DATA, config_beside, exit_code, run_command, run_pipeline

from hf_genrec.evaluation.report import training_cost
from hf_genrec.hub import model_fingerprint
from hf_genrec.method import load_model
from hf_genrec.trainers import sweep, train_teachers
from hf_genrec.training.config import parse_config
from hf_genrec.training.teachers import checked_teachers, teachers_cpu_seconds

pytestmark = pytest.mark.libraries

SASREC = "rearec --reasoning none --hidden_size 16 --intermediate_size 16 --num_train_epochs 2 --max_history 5"


@pytest.fixture(scope="module")
def config(own_data):
    kept = tuple(name for name in CODED_DATA if name != "collab")  # its vectors come from a teacher
    return config_beside(
        own_data,
        "taught.yaml",
        f"""
method: codetree
teachers:
  first: {SASREC} --seed 1
  second: {SASREC} --seed 2
  both: ensemble --members_runs first second
collaborative_run: first
soft_targets_run: both
soft_targets_weight: 0.5
codebook_sizes: [4, 4, 4]
max_history: 8
hidden_size: 16
intermediate_size: 32
output_dir: {own_data}/taught
num_train_epochs: 2
per_device_train_batch_size: 8
use_cpu: true
""",
        kept,
    )


@pytest.fixture(scope="module")
def taught(config, own_data):
    """The run, from its log to its model."""
    assert exit_code("prepare", "--config", config) == 0
    assert exit_code("teachers", "--config", config) == 0
    run_pipeline(config)
    return own_data / "taught"


def test_teachers_are_runs_of_their_own_configurations(taught, own_data):
    folder = taught / "teachers"
    for seed, name in enumerate(("first", "second"), start=1):
        model = load_model(folder / name / "model")
        assert model.config.model_type == "rearec"
        assert (model.config.hidden_size, model.config.max_history) == (16, 5)
        assert json.loads((folder / name / "model/training_args.json").read_text())["seed"] == seed
    both = load_model(folder / "both/model")
    assert [type(member).__name__ for member in both.members] == ["ReaRecForNextItem"] * 2
    prepared = [json.loads((path / "data/prepare.json").read_text()) for path in (taught, *folder.iterdir())]
    assert len({report["fingerprint"] for report in prepared}) == 1


def test_keys_call_them_by_name(config, taught):
    read = parse_config(str(config))
    assert read.tokenizer.collaborative_run == str(taught / "teachers/first")
    assert read.training.soft_targets_run == str(taught / "teachers/both")
    assert read.training.dense_run is None
    record = json.loads((taught / "results/training.json").read_text())
    assert record["soft_targets"]["recommender"] == model_fingerprint(taught / "teachers/both/model")


def test_the_cost_of_all_parts_is_counted_once(taught):
    folder = taught / "teachers"
    costs = {
        name: training_cost(folder / name / "results/training.json")["cpu_seconds"] for name in ("first", "second")
    }
    found = teachers_cpu_seconds(["first", "second", "both"], folder)
    assert {name: found[name] for name in costs} == costs
    assert 0 < found["both"] < training_cost(folder / "both/results/training.json")["cpu_seconds"] - max(costs.values())
    record = json.loads((taught / "results/training.json").read_text())
    assert record["teachers_cpu_seconds"] == found
    whole = training_cost(taught / "results/training.json")["cpu_seconds"]
    assert whole == pytest.approx(record["cpu_seconds"] + sum(found.values()))
    assert "| teachers | first, second, both, " in (taught / "model/README.md").read_text()


def test_evaluate_shows_them(taught):
    assert exit_code("evaluate", taught) == 0
    records = json.loads((taught / "results/test.json").read_text())
    assert list(records) == [
        "CodeTree", "ReaRec, first", "ReaRec, second", "Ensemble, both", "most popular", "item-kNN"
    ]  # fmt: skip
    left_out = records["CodeTree"]["seen_items_removed"]
    first = taught / "teachers/first"
    assert exit_code("evaluate", first, *(["--exclude-seen"] if left_out else ["--no-exclude-seen"])) == 0
    alone = next(json.loads(path.read_text()) for path in (first / "results").glob("test*.json"))
    assert alone["ReaRec"]["metrics"]["ndcg@10"] == records["ReaRec, first"]["metrics"]["ndcg@10"]


def test_finished_ones_are_kept(config, taught):
    folder = taught / "teachers"
    before = {path.name: model_fingerprint(path / "model") for path in folder.iterdir()}
    train_teachers.main(parse_config(str(config)))
    assert {path.name: model_fingerprint(path / "model") for path in folder.iterdir()} == before
    assert exit_code("train", "--config", config, "--resume_from_checkpoint", "last") == 0  # on the same teachers


def test_a_changed_line_is_not_passed_over(config, taught, tmp_path, capsys):
    changed = tmp_path / "changed.yaml"
    changed.write_text(config.read_text().replace("--hidden_size 16", "--hidden_size 8"))
    assert exit_code("teachers", "--config", changed) == 2
    assert "first/checkpoints/checkpoint-6 is of a model with other settings (hidden_size" in capsys.readouterr().err


def test_untrained_ones_are_asked_for(config, taught, tmp_path, capsys):
    for command in ("tokenize", "train"):
        assert exit_code(command, "--config", config, "--teachers_dir", tmp_path) == 2
        error = capsys.readouterr().err
        assert f"{tmp_path / 'first'} holds no trained teacher: run `hf-genrec teachers` first" in error


def test_runs_of_a_sweep_have_them_in_common(config, taught, own_data, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(taught / "teachers", base / "teachers")
    options = ["--output_dir", str(base), "--collaborative_run", "first"]
    record = sweep.main(str(config), "soft_targets_weight", ["0.1", "0.9"], options)
    assert [line["value"] for line in record["values"]] == ["0.1", "0.9"]
    for line in record["values"]:
        report = json.loads((tmp_path / line["run"] / "results/training.json").read_text())
        assert report["soft_targets"]["run"] == str(base / "teachers/both")
        assert not (tmp_path / line["run"] / "teachers").exists()


@pytest.mark.parametrize(
    ("teachers", "fault"),
    [
        ("rearec", "teachers: no mapping"),
        ('["rearec"]', "teachers: no mapping"),
        ({"../first": "rearec"}, "the name '../first'"),
        ({"first": ""}, "first: '' names no configuration"),
        ({"first": 3}, "first: 3 names no configuration"),
    ],
)
def test_what_is_no_mapping_of_lines(teachers, fault):
    with pytest.raises(ValueError, match=r"^teachers: ") as raised:
        checked_teachers(teachers)
    assert fault in str(raised.value)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("rearec/nowhere", "teachers: first: there is no file and no shipped configuration 'rearec/nowhere'"),
        ("rearec --hiden_size 16", "teachers: first: command line: unknown option --hiden_size, did you mean"),
        ("rearec --seed 'one", "teachers: first: No closing quotation"),
        ("codetree/beauty", "teachers: first: codetree/beauty names teachers itself"),
    ],
)
def test_a_line_that_cannot_be_used(config, line, fault, tmp_path):
    changed = tmp_path / "changed.yaml"
    changed.write_text(config.read_text().replace(f"  first: {SASREC} --seed 1", f"  first: {line}"))
    with pytest.raises(ValueError, match=re.escape(fault)) as raised:
        train_teachers.main(parse_config(str(changed)))
    assert str(raised.value).startswith(fault)


def test_without_teachers_there_is_nothing_to_do(rearec_config, capsys):
    assert exit_code("teachers", "--config", rearec_config) == 2
    assert "names no teachers" in capsys.readouterr().err


def test_one_process_trains_them(config, monkeypatch):
    read = parse_config(str(config))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match="by one process"):
        train_teachers.main(read)


def test_help_lists_its_keys(monkeypatch, capsys):
    shown = run_command(monkeypatch, capsys, "teachers", "--help")
    assert all(f"--{key}" in shown for key in ("teachers", "teachers_dir", "output_dir"))
    assert "--hidden_size" not in shown
