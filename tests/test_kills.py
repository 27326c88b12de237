"""A stage that is killed: the next one finds what was there before or what is new, never a mixture."""

import os
import shutil
import signal
import sys
import time

import numpy as np
import pytest
from conftest import exit_code
from safetensors.torch import load_file

from hf_genrec.data.prepared import PreparedData
from hf_genrec.method import load_model
from hf_genrec.semantic_ids.ids import SemanticIds
from hf_genrec.training.config import parse_config
from hf_genrec.training.lineage import require_prepared, require_tokenized
from hf_genrec.training.run_folder import RunFolder

RENAMES = ("rename", "replace")


def in_a_child(arguments, kill_behind=None, kill_after=None) -> bool:
    """
    Whether `hf-genrec`, in a process of its own, was killed: behind its n-th rename, or after so many seconds.
    """
    child = os.fork()
    if child == 0:
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        done = [0]

        def counted(rename):
            def call(*names, **options):
                rename(*names, **options)
                done[0] += 1
                if done[0] == kill_behind:
                    os.kill(os.getpid(), signal.SIGKILL)

            return call

        for name in RENAMES:
            setattr(os, name, counted(getattr(os, name)))
        sys.argv = ["hf-genrec", *map(str, arguments)]
        try:
            from hf_genrec import cli

            cli.main()
        except SystemExit as finished:
            os._exit(finished.code or 0)
        finally:
            os._exit(99)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0, arguments
    return False


@pytest.fixture(scope="module")
def made(own_data, tmp_path_factory):
    """A run, prepared, tokenized and trained for an epoch with one seed of the codes; and one of another seed."""
    folder = tmp_path_factory.mktemp("kills")
    text = (
        (own_data / "mine.yaml").read_text().replace("num_train_epochs: 4", "num_train_epochs: 2\ndisable_tqdm: true")
    )
    (folder / "mine.yaml").write_text(text)
    for command in ("prepare", "tokenize", "train"):
        options = ["--tokenizer_seed", "3"] if command == "tokenize" else []
        assert exit_code(command, "--config", folder / "mine.yaml", "--output_dir", folder / "run", *options) == 0
    return folder


def each_rename(command, folder, target, check, before=lambda: None):
    """Kill a command behind each of its renames in turn, check, let it run to its end, check again."""
    behind, points = 1, 0
    while True:
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(folder / "run", target)
        before()
        if not in_a_child(command, kill_behind=behind):
            return points
        points += 1
        check(finished=False)
        assert not in_a_child(command)
        check(finished=True)
        behind += 1


def test_prepare(made, tmp_path):
    target = RunFolder(tmp_path / "run")
    command = [
        "prepare",
        "--config",
        made / "mine.yaml",
        "--output_dir",
        target.path,
        "--user_core",
        "2",
        "--item_core",
        "9",
    ]
    seen = set()

    def check(finished):
        prepared = PreparedData.load(target.data)
        seen.add((finished, prepared.report["settings"]["item_core"]))
        config = parse_config(None, ["--output_dir", str(target.path), "--source_path", "unused"])
        data = require_prepared(config)
        assert data == prepared.fingerprint
        if prepared.report["settings"]["item_core"] == 9:
            with pytest.raises(ValueError, match="was made of other data"):
                require_tokenized(config, data)
        else:
            require_tokenized(config, data)
        assert [path.name for path in target.path.iterdir() if path.name.startswith(".")] == []

    assert each_rename(command, made, target.path, check) >= 3
    assert seen == {(False, 0), (False, 9), (True, 9)}


def test_tokenize(made, tmp_path):
    target = RunFolder(tmp_path / "run")
    command = ["tokenize", "--config", made / "mine.yaml", "--output_dir", target.path, "--tokenizer_seed", "4"]
    old, seen = SemanticIds.load(made / "run/semantic_ids").fingerprint, set()

    def check(finished):
        config = parse_config(None, ["--output_dir", str(target.path), "--source_path", "unused"])
        require_tokenized(config, require_prepared(config))
        seen.add((finished, SemanticIds.load(target.semantic_ids).fingerprint == old))

    assert each_rename(command, made, target.path, check) >= 4
    assert seen == {(False, True), (False, False), (True, False)}


@pytest.mark.slow  # a training for each of its renames, and two more
def test_train(made, tmp_path):
    """Behind each rename of a training that replaces a model a whole one is there; resumed, it ends alike."""
    target = RunFolder(tmp_path / "run")
    command = ["train", "--config", made / "mine.yaml", "--output_dir", target.path, "--resume_from_checkpoint", "last"]
    command += ["--seed", "5"]
    assert not in_a_child([*command, "--output_dir", _without_checkpoints(made, tmp_path / "whole")])
    expected, earlier = (load_file(path / "model/model.safetensors") for path in (tmp_path / "whole", made / "run"))
    seen = set()

    def check(finished):
        target.require_model()
        weights = load_model(target.model).state_dict()
        new, old = (all((weights[name] == model[name]).all() for name in model) for model in (expected, earlier))
        assert new != old
        seen.add((finished, new))

    points = each_rename(command, made, target.path, check, lambda: shutil.rmtree(target.checkpoints))
    assert points >= 6
    assert seen == {(False, False), (False, True), (True, True)}


def _without_checkpoints(made, folder):
    shutil.copytree(made / "run", folder)
    shutil.rmtree(folder / "checkpoints")
    return folder


def test_evaluate(made, tmp_path):
    target = RunFolder(tmp_path / "run")

    def check(finished):
        assert (target.results / "test.json").is_file() or not finished
        load_model(target.require_model())

    assert each_rename(["evaluate", target.path], made, target.path, check) >= 2


GRPO = [
    "--num_generations", "4", "--per_device_train_batch_size", "32", "--max_steps", "4", "--eval_steps", "2",
    "--save_steps", "2", "--learning_rate", "0.003", "--use_cpu", "true", "--report_to", "none",
    "--disable_tqdm", "true",
]  # fmt: skip


@pytest.fixture(scope="module")
def reasoning(rearec_config, tmp_path_factory):
    """A trained run of ReaRec."""
    folder = tmp_path_factory.mktemp("reasoning")
    for command in ("prepare", "train"):
        assert exit_code(command, "--config", rearec_config, "--output_dir", folder / "run") == 0
    return folder


class Command:
    """A command on a copy of a run: where it begins, how it is called, and the facts it must end with."""

    def __init__(self, name, made, reasoning, folder):
        self.name, self.run = name, RunFolder(folder / "run")
        self.source = (reasoning if name == "calibrate-depth" else made) / "run"
        self.result = RunFolder(self.run.path / "post") if name == "grpo" else self.run
        options = ["--config", made / "mine.yaml", "--output_dir", self.run.path]
        resumed = ["--resume_from_checkpoint", "last"]
        self.words = {
            "prepare": [*options, "--user_core", "2"],
            "tokenize": [*options, "--tokenizer_seed", "4"],
            "train": [*options, *resumed, "--seed", "5"],
            "evaluate": [self.run.path],
            "grpo": ["--pretrained", self.run.path, "--output_dir", self.result.path, *GRPO, *resumed],
            "calibrate-depth": [self.run.path, "--rule", "kl"],
        }[name]

    def call(self, **kill):
        return in_a_child([self.name, *self.words], **kill)

    def begin(self):
        shutil.rmtree(self.run.path, ignore_errors=True)
        shutil.copytree(self.source, self.run.path)
        if self.name == "train":
            shutil.rmtree(self.run.checkpoints)

    def facts(self):
        model = load_model(self.result.require_model())
        facts = {name: weight.tolist() for name, weight in model.state_dict().items()}
        facts |= {
            "data": PreparedData.load(self.run.data).fingerprint,
            "rule": getattr(model.config, "depth_rule", None),
        }
        if self.name == "tokenize":
            facts["codes"] = SemanticIds.load(self.run.semantic_ids).fingerprint
        return facts


@pytest.mark.slow  # each command runs twice as often as it renames
@pytest.mark.parametrize("name", ["grpo", "calibrate-depth"])
def test_behind_each_rename(made, reasoning, tmp_path, name):
    command, points = Command(name, made, reasoning, tmp_path), 0
    command.begin()
    assert not command.call()
    expected = command.facts()
    while True:
        command.begin()
        if not command.call(kill_behind=points + 1):
            break
        assert not command.call()
        assert command.facts() == expected
        points += 1
    assert points >= 3


@pytest.mark.slow  # 20 kills of each of six commands, each of which then runs to its end
@pytest.mark.parametrize("name", ["prepare", "tokenize", "train", "evaluate", "grpo", "calibrate-depth"])
def test_at_random_moments(made, reasoning, tmp_path, name):
    """Killed anywhere and started again, a command ends as one that was let be."""
    command, rng = Command(name, made, reasoning, tmp_path), np.random.default_rng(0)
    command.begin()
    start = time.monotonic()
    assert not command.call()
    seconds, expected, kills = time.monotonic() - start, command.facts(), 0
    for _ in range(100):
        command.begin()
        kills += command.call(kill_after=rng.uniform(0, seconds))
        assert not command.call()
        assert command.facts() == expected
        if kills == 20:
            return
    raise AssertionError(f"{kills} of 100 commands were killed before they ended")
