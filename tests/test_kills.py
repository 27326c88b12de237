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

pytestmark = pytest.mark.libraries
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


@pytest.mark.slow  # 20 kills of each of six commands, each of which then runs to its end
@pytest.mark.parametrize("command", ["prepare", "tokenize", "train", "evaluate", "grpo", "calibrate-depth"])
def test_at_random_moments(made, reasoning, tmp_path, command):
    """Killed anywhere and started again, a command ends as one that was let be."""
    start_from = reasoning if command == "calibrate-depth" else made
    run, rng = RunFolder(tmp_path / "run"), np.random.default_rng(0)
    options = ["--config", made / "mine.yaml", "--output_dir", run.path]
    resumed = ["--resume_from_checkpoint", "last"]
    result = RunFolder(run.path / "post") if command == "grpo" else run
    arguments = {
        "prepare": [*options, "--user_core", "2"],
        "tokenize": [*options, "--tokenizer_seed", "4"],
        "train": [*options, *resumed, "--seed", "5"],
        "evaluate": [run.path],
        "grpo": ["--pretrained", run.path, "--output_dir", result.path, *GRPO, *resumed],
        "calibrate-depth": [run.path, "--rule", "kl"],
    }[command]

    def begin():
        shutil.rmtree(run.path, ignore_errors=True)
        shutil.copytree(start_from / "run", run.path)
        if command == "train":
            shutil.rmtree(run.checkpoints)

    def ended():
        weights = load_model(result.require_model()).state_dict()
        facts = {name: weight.tolist() for name, weight in weights.items()}
        facts["data"] = PreparedData.load(run.data).fingerprint
        if command == "tokenize":
            facts["codes"] = SemanticIds.load(run.semantic_ids).fingerprint
        if command == "calibrate-depth":
            facts["rule"] = load_model(run.model).config.depth_rule
        return facts

    begin()
    start = time.monotonic()
    assert not in_a_child([command, *arguments])
    seconds, expected, kills = time.monotonic() - start, ended(), 0
    for _ in range(100):
        begin()
        kills += in_a_child([command, *arguments], kill_after=rng.uniform(0, seconds))
        assert not in_a_child([command, *arguments])
        assert ended() == expected
        if kills == 20:
            return
    raise AssertionError(f"{kills} of 100 commands were killed before they ended")
