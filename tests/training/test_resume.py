"""Trainings that go on: from another place, at their end, from damaged checkpoints; and those that diverge."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from conftest import exit_code
from safetensors.torch import load_file

from hf_genrec.hub import write_model_card
from hf_genrec.training.arguments import GenRecTrainingArguments, check_training, join_processes
from hf_genrec.training.checkpoints import fault_of, mark_complete
from hf_genrec.training.trainer import GenRecTrainer

pytestmark = pytest.mark.libraries
LAST = ("--resume_from_checkpoint", "last")


@pytest.fixture(scope="module")
def made(rearec_config, tmp_path_factory):
    """A run of three epochs whose checkpoints are all there."""
    folder = tmp_path_factory.mktemp("resume")
    settings = rearec_config.read_text().replace("num_train_epochs: 6", "num_train_epochs: 3\ndisable_tqdm: true")
    (folder / "mine.yaml").write_text(settings + "save_total_limit: 10\n")
    for command in ("prepare", "train"):
        assert exit_code(command, "--config", folder / "mine.yaml", "--output_dir", folder / "run") == 0
    return folder


@pytest.fixture
def run(made, tmp_path):
    shutil.copytree(made / "run", tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def fresh(made, tmp_path):
    (tmp_path / "fresh").mkdir()
    shutil.copytree(made / "run/data", tmp_path / "fresh/data")
    return tmp_path / "fresh"


@pytest.fixture
def train(made, capsys):
    def call(folder, *options):
        capsys.readouterr()
        code = exit_code("train", "--config", made / "mine.yaml", "--output_dir", folder, *options)
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert (code, len(errors)) in ((0, 0), (2, 1))
        return errors[0] if errors else ""

    return call


def steps(run):
    return sorted(int(path.name.split("-")[1]) for path in (run / "checkpoints").iterdir())


def record(run):
    return json.loads((run / "results/training.json").read_text())


def is_of(run, step):
    weights, expected = (
        load_file(run / "model/model.safetensors"),
        load_file(run / f"checkpoints/checkpoint-{step}/model.safetensors"),
    )
    return all((weights[name] == expected[name]).all() for name in expected)


def call_best(run, step):
    """As if this checkpoint had been the best of all, with a path as a relative output folder has it."""
    path = run / f"checkpoints/checkpoint-{steps(run)[-1]}/trainer_state.json"
    state = json.loads(path.read_text())
    state |= {"best_metric": 0.99, "best_global_step": step}
    state["best_model_checkpoint"] = f"some/where/checkpoints/checkpoint-{step}"
    path.write_text(json.dumps(state))
    mark_complete(path.parent)


def test_the_best_checkpoint_is_found_where_the_run_stands_now(run, train, tmp_path, monkeypatch):
    first, *_, last = steps(run)
    call_best(run, first)
    monkeypatch.chdir(tmp_path)
    assert train("run", *LAST) == ""
    assert is_of(run, first)
    assert not is_of(run, last)
    assert record(run)["best_validation_ndcg@10"] == 0.99
    run.rename(tmp_path / "moved")
    monkeypatch.chdir("/")
    assert train(tmp_path / "moved", *LAST) == ""
    assert is_of(tmp_path / "moved", first)


def test_a_best_checkpoint_that_is_gone_is_not_forgotten(run, train):
    first, *_ = steps(run)
    call_best(run, first)
    before = (run / "model/model.safetensors").read_bytes()
    shutil.rmtree(run / f"checkpoints/checkpoint-{first}")
    assert f"checkpoint-{first}, the best of the checkpoints so far, is missing" in train(run, *LAST)
    assert (run / "model/model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    "options", [("--max_steps", "7"), ("--learning_rate", "1e-30", "--early_stopping_patience", "1")]
)
def test_a_finished_training_stays_as_it_is(fresh, train, options):
    options = (
        *options,
        "--eval_strategy",
        "steps",
        "--save_strategy",
        "steps",
        "--eval_steps",
        "3",
        "--save_steps",
        "3",
    )
    assert train(fresh, *options) == ""
    ended, saved = record(fresh)["steps"], steps(fresh)
    weights = (fresh / "model/model.safetensors").read_bytes()
    assert ended == (7 if "7" in options else 6)
    for _ in range(2):
        shutil.rmtree(fresh / "model")
        assert train(fresh, *options, *LAST) == ""
        assert (record(fresh)["steps"], steps(fresh)) == (ended, saved)
        assert (fresh / "model/model.safetensors").read_bytes() == weights


def test_patience_goes_on_where_it_was(fresh, train):
    """Killed behind the first evaluation that was no better, a training of patience 2 stops at the next one."""
    options = ("--learning_rate", "1e-30", "--early_stopping_patience", "2", "--num_train_epochs", "9")
    assert train(fresh, *options) == ""
    ended = record(fresh)["steps"]
    assert record(fresh)["epochs"] == 3
    shutil.rmtree(fresh / f"checkpoints/checkpoint-{ended}")
    assert train(fresh, *options, *LAST) == ""
    assert record(fresh)["steps"] == ended


def test_a_log_with_an_infinite_gradient(fresh, train, monkeypatch):
    logged = GenRecTrainer.log
    monkeypatch.setattr(
        GenRecTrainer, "log", lambda self, logs, *rest: logged(self, logs | {"grad_norm": float("inf")}, *rest)
    )
    assert train(fresh) == ""
    assert (fresh / "model/model.safetensors").is_file()
    assert record(fresh)["log"][0]["grad_norm"] == "inf"
    assert train(fresh, *LAST) == ""


def load(path):
    return {name: tensor.clone() for name, tensor in load_file(path).items()}  # the file is going to change


def flip(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 0x10
    path.write_bytes(content)


DAMAGES = {
    "weights cut": ("model.safetensors", lambda path: path.write_bytes(path.read_bytes()[:-100])),
    "a bit of the weights": ("model.safetensors", flip),
    "no weights": ("model.safetensors", lambda path: path.unlink()),
    "optimizer cut": ("optimizer.pt", lambda path: path.write_bytes(path.read_bytes()[:-100])),
    "optimizer overwritten": ("optimizer.pt", lambda path: path.write_bytes(path.read_bytes()[:400] + bytes(900))),
    "no optimizer": ("optimizer.pt", lambda path: path.unlink()),
    "another schedule": ("scheduler.pt", lambda path: path.write_bytes((path.parent / "rng_state.pth").read_bytes())),
    "a state of nothing": ("trainer_state.json", lambda path: path.write_text("[]")),
    "state cut": ("trainer_state.json", lambda path: path.write_text(path.read_text()[:-20])),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_not_gone_on_from(run, train, damage):
    """The one before is, and the training ends as it would have."""
    *_, before, last = steps(run)
    expected = load(run / f"checkpoints/checkpoint-{last}/model.safetensors")
    name, spoil = DAMAGES[damage]
    spoil(run / f"checkpoints/checkpoint-{last}" / name)
    assert f"checkpoint-{last} is no complete checkpoint" in train(
        run, "--resume_from_checkpoint", run / f"checkpoints/checkpoint-{last}"
    )
    assert train(run, *LAST) == ""
    assert record(run)["resumed_from"].endswith(f"checkpoint-{before}")
    found = load(run / f"checkpoints/checkpoint-{last}/model.safetensors")
    assert all((found[name] == expected[name]).all() for name in expected)


def test_a_state_that_was_put_into_a_checkpoint_later(run, train):
    """Nothing is unpickled that was not saved with the checkpoint, and no list of its files may be cut short."""
    checkpoints = run / "checkpoints"
    newest, before = (checkpoints / f"checkpoint-{step}" for step in (steps(run)[-1], steps(run)[-2]))
    (newest / "scaler.pt").write_bytes(b"\x80\x04N.")
    assert fault_of(newest) == "scaler.pt was put there later"
    (newest / "scaler.pt").unlink()
    (newest / "notes.txt").write_text("of mine")
    assert fault_of(newest) is None
    known = json.loads((newest / "complete.json").read_text())
    assert {"optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"} <= known.keys()
    (before / "complete.json").write_text("{}")
    assert fault_of(before).endswith("was put there later")
    (before / "complete.json").write_text("[" * 100_000)
    assert "complete.json is damaged (maximum recursion depth" in fault_of(before)


@pytest.mark.parametrize("content", ["[]", "{}", "1", "null", "[" * 100_000, '{"seed": "x"}', '{"seed": true}'])
@pytest.mark.parametrize(
    ("file", "command", "says"),
    [
        ("model/training_args.json", ("evaluate",), "training_args.json is damaged"),
        ("model/training_args.json", ("analyze",), "training_args.json is damaged"),
        ("data/prepare.json", ("evaluate",), "prepare.json"),
        ("data/prepare.json", ("recommend", "--user", "u01"), "prepare.json"),
        ("model/lineage.json", ("evaluate",), "does not say what it was trained on"),
        ("model/catalogue.json", ("evaluate",), "catalogue.json"),
        ("model/config.json", ("evaluate",), "model"),
    ],
)
def test_files_of_a_run_of_any_shape(run, capsys, file, command, says, content):
    (run / file).write_text(content)
    assert exit_code(command[0], run, *command[1:]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert says in line
    assert len(line) < 500 + len(str(run))


@pytest.mark.parametrize("content", ["[]", "{}", "1", "null", "[" * 100_000, '{"a": {"model": []}}', '{"steps": "x"}'])
def test_a_card_is_written_without_figures_that_are_damaged(run, caplog, content):
    for name in ("training", "test", "validation"):
        (run / "results" / f"{name}.json").write_text(content)
    write_model_card(run.resolve() / "model", run / "results")
    assert "from_pretrained" in (run / "model/README.md").read_text()
    assert "training.json is damaged" in caplog.text
    assert "without its figures" in caplog.text


@pytest.mark.parametrize("content", ["[]", "{}", "1", "null", "[" * 100_000, '{"best_model_checkpoint": 5}'])
@pytest.mark.parametrize("name", ["trainer_state.json", "lineage.json"])
def test_checkpoints_whose_files_are_of_another_shape(run, train, name, content):
    """As somebody leaves them who also wrote complete.json anew."""
    for checkpoint in (run / "checkpoints").iterdir():
        (checkpoint / name).write_text(content)
        mark_complete(checkpoint)
    if name == "trainer_state.json" and content == "{}":
        return  # a state that says nothing is transformers' to read
    error = train(run, *LAST)
    assert "checkpoint-" in error
    assert "train anew" in error


def test_a_folder_that_is_named_like_a_checkpoint(run, train):
    (run / "checkpoints/checkpoint-old").mkdir()
    assert "checkpoint-old is no checkpoint of a training" in train(run, *LAST)
    (run / "checkpoints/checkpoint-old").rename(run / "checkpoints/old")
    assert train(run, *LAST) == ""
    assert (run / "checkpoints/old").is_dir()


def test_a_training_that_diverges_ends_with_an_error(fresh, run, train):
    assert "the training diverged: the loss is nan at step" in train(fresh, "--learning_rate", "1e30")
    assert not (fresh / "model").exists()
    assert "the model's weights or scores hold NaN or infinity: lower learning_rate" in train(
        fresh, "--learning_rate", "1e30", "--per_device_train_batch_size", "100"
    )
    # Of an earlier model nothing is lost.
    before = (run / "model/model.safetensors").read_bytes()
    shutil.rmtree(run / "checkpoints")
    assert "diverged" in train(run, "--learning_rate", "1e30", "--max_grad_norm", "0")
    assert (run / "model/model.safetensors").read_bytes() == before


def test_processes_that_do_not_train_together(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    arguments = SimpleNamespace(use_cpu=False, world_size=1, fsdp=None)
    join_processes(arguments)
    assert arguments.use_cpu == (not torch.accelerator.is_available())
    with pytest.raises(ValueError, match="2 processes were started, but this one trains with 1"):
        check_training(arguments)


def test_evaluations_without_checkpoints(tmp_path):
    with pytest.raises(ValueError, match=r"eval_steps 5.*save_steps 10.*must be equal"):
        GenRecTrainingArguments(
            str(tmp_path), use_cpu=True, eval_strategy="steps", save_strategy="steps", eval_steps=5, save_steps=10
        )


def test_a_state_that_no_training_writes_is_refused_before_anything_is_replaced(run, train):
    path = run / f"checkpoints/checkpoint-{steps(run)[-1]}/trainer_state.json"
    state = json.loads(path.read_text())
    before = (run / "model/model.safetensors").read_bytes()
    for change in ({"log_history": 5}, {"stateful_callbacks": 5}, {"global_step": 10**12}):
        path.write_text(json.dumps(state | change))
        mark_complete(path.parent)
        assert train(run, *LAST).startswith(f"error: {path} is damaged ({next(iter(change))}")
        assert (run / "model/model.safetensors").read_bytes() == before


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", '{"seconds": "x"}'])
def test_a_damaged_record_of_a_finished_training_is_written_anew(run, train, caplog, text):
    path = run / "results/training.json"
    ended = record(run)["steps"]
    path.write_text(text)
    assert train(run, *LAST) == ""
    assert f"is written anew: {path}" in caplog.text
    assert record(run)["steps"] == ended
    assert record(run)["cpu_seconds"] > 0
