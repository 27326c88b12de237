"""What the command says of itself."""

import os
import resource
import signal
import subprocess
import sys

import pytest
import typer
from conftest import exit_code, make_model, make_processor, run_command

import hf_genrec
from hf_genrec import cli
from hf_genrec.commands.recommend import _history_ids
from hf_genrec.method import load_method, methods
from hf_genrec.training.config import parse_config


def options(printed: str) -> list[str]:
    return [line.split()[0] for line in printed.splitlines() if line.startswith("  --")]


@pytest.mark.parametrize("method", methods())
def test_help_lists_the_keys_of_a_method_with_their_defaults(monkeypatch, capsys, method):
    printed = run_command(monkeypatch, capsys, "train", "--method", method, "--help")
    assert f"{load_method(method).title} (--method {method}, of {', '.join(methods())}):" in printed
    listed = options(printed)
    arguments = load_method(method).arguments()
    for name, value in vars(arguments).items():
        if name != "method":
            assert f"--{name}" in listed
            if isinstance(value, float):
                assert f"[{value}]" in printed
    assert "--learning_rate" in listed
    assert "--local_rank" not in listed  # transformers' own
    assert ("--packing" in listed) == ("packing" not in load_method(method).unused_keys)


def test_help_of_the_other_commands(monkeypatch, capsys):
    assert "--user_core" in options(run_command(monkeypatch, capsys, "prepare", "--help"))
    assert "--codebook_sizes" in options(run_command(monkeypatch, capsys, "tokenize", "--help"))
    without_codes = next(name for name in methods() if load_method(name).codes is None)
    printed = run_command(monkeypatch, capsys, "tokenize", "--method", without_codes, "--help")
    assert set(options(printed)) == {
        "--text_model",
        "--text_columns",
        "--embeddings_path",
        "--embeddings_id_column",
        "--output_dir",
    }
    assert "--rewards" in options(run_command(monkeypatch, capsys, "grpo", "--help"))
    assert exit_code("train", "--method", "nobody", "--help") == 2


def test_methods_are_listed(monkeypatch, capsys):
    lines = run_command(monkeypatch, capsys, "methods").splitlines()
    assert [line.split()[0] for line in lines] == hf_genrec.methods() == methods()


def test_importing_the_library_is_quick_and_imports_no_torch():
    program = "import sys, hf_genrec; hf_genrec.methods(); dir(hf_genrec); print('torch' in sys.modules)"

    def cpu_of_children() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    start = cpu_of_children()
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert finished.stdout == "False\n"
    assert cpu_of_children() - start < 0.3


def test_the_public_names(model, tmp_path):
    model.save_pretrained(tmp_path / "run/model")
    for place in (tmp_path / "run", tmp_path / "run/model"):
        opened = hf_genrec.load(place)
        assert type(opened) is getattr(hf_genrec, type(model).__name__) is type(model)
        assert opened.recommend(["item-3"], k=3) == model.recommend(["item-3"], k=3)
    assert {"ItemTrie", "ItemSets", "UserCache", type(model.processor).__name__} <= set(dir(hf_genrec))
    assert callable(hf_genrec.methods)
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        hf_genrec.Nothing  # noqa: B018
    with pytest.raises(OSError, match="nothing"):
        hf_genrec.load(tmp_path / "nothing")


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json: name a run folder or a saved model"):
        hf_genrec.load(tmp_path)


def test_a_method_that_does_not_import_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("hf_genrec.method.FOLDER", tmp_path)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/method.py").write_text("")
    with pytest.raises(ValueError, match=r"broken/method\.py gives no METHOD"):
        load_method("broken")


def test_help_of_sweep(monkeypatch, capsys):
    assert "--values" in run_command(monkeypatch, capsys, "sweep", "--help")


@pytest.mark.parametrize(
    ("values", "ids"),
    [
        (["a,b"], ["a", "b"]),
        ([" a , b,,a"], ["a", "b", "a"]),
        (["a", "b", "c"], ["a", "b", "c"]),
        (["a", "b,c"], ["a", "b,c"]),  # an id of the catalogue
        (["b,c,a"], ["b", "c", "a"]),
        (['a,"b,c"'], ["a", "b,c"]),
        (['"b,c" , a'], ["b,c", "a"]),
        (['"5"" disc",a'], ['5" disc', "a"]),
        (['" a "'], [" a "]),
        (['5" disc'], ['5" disc']),
        (['"a"b,c'], ['"a"b', "c"]),
        (['"a,b'], ['"a', "b"]),
        ([""], []),
    ],
)
def test_ids_of_a_history_option(values, ids):
    assert _history_ids(values, ["a", "b,c", '5" disc']) == ids


@pytest.mark.parametrize("values", [[",,"], [" , ", ""], [","]])
def test_a_history_of_commas_alone(values):
    with pytest.raises(ValueError, match=r"^--history [ ,]+: no item id in it"):
        _history_ids(values, ["a"])


def test_an_id_with_a_comma_is_recommended_from(tmp_path, monkeypatch, capsys):
    processor = make_processor()
    ids = [f"film, part {row}" for row in range(40)]
    model = make_model(processor.set_catalogue(ids, processor.codes))
    model.save_pretrained(tmp_path / "run/model")
    expected, _ = model.recommend([ids[3], ids[5]], k=3)
    for options in (["--history", ids[3], "--history", ids[5]], ["--history", f'"{ids[3]}","{ids[5]}"']):
        printed = run_command(monkeypatch, capsys, "recommend", tmp_path / "run", *options, "-k", "3")
        assert printed.startswith(f"history: 2 items, the newest last: {ids[3]}, {ids[5]}")
        assert [line.split("  (item ")[1].rsplit(", ", 1)[0] for line in printed.splitlines()[1:]] == expected
    assert exit_code("recommend", tmp_path / "run", "--history", "film") == 2
    assert "Item 'film' in the history is not in the catalogue" in capsys.readouterr().err
    error = "Item 'film' in the history is not in the catalogue (position 2, from 1): correct it, or leave"
    histories = ("--history", ids[3], "--history", "film")
    assert exit_code("recommend", tmp_path / "run", *histories) == 2
    assert f"{error} such items out by --unknown skip" in capsys.readouterr().err
    printed = run_command(
        monkeypatch, capsys, "recommend", tmp_path / "run", *histories, "--unknown", "skip", "-k", "3"
    )
    assert printed.startswith(f"history: 1 items, the newest last: {ids[3]}\n")
    assert exit_code("recommend", tmp_path / "run", *histories, "--unknown", "what") == 2
    assert "--unknown what: use raise or skip" in capsys.readouterr().err
    for k in ("0", "-3"):
        assert exit_code("recommend", tmp_path / "run", "--history", ids[3], "-k", k) == 2
        assert f"error: k={k}: give a whole number, at least 1" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["analyze", "calibrate-depth"])
def test_a_methods_command_on_another_methods_run_is_one_line(command, tmp_path, capsys):
    make_model(make_processor()).save_pretrained(tmp_path / "run/model")
    assert exit_code(command, tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "run/model is a CARE model: reasoning steps are analysed of ReaRec runs only" in error


def test_options_with_dashes_and_with_underscores_are_the_same(monkeypatch, capsys, tmp_path):
    make_model(make_processor()).save_pretrained(tmp_path / "run/model")
    asked = ("recommend", tmp_path / "run", "--history", "item-3", "-k", "4")
    printed = {run_command(monkeypatch, capsys, *asked, option) for option in ("--exclude-seen", "--exclude_seen")}
    assert len(printed) == 1
    for command in typer.main.get_command(cli.app).commands.values():
        for name in [option for entry in command.params for option in entry.opts if option.startswith("--")]:
            assert "_" not in name, f"{command.name} {name}: write it with dashes"
    assert exit_code("export_onnx", "--help") == 0
    written = [["--hidden_size", "64", "--num_train_epochs=2"], ["--hidden-size", "64", "--num-train-epochs=2"]]
    configs = [parse_config(None, [*words, "--output_dir", str(tmp_path)]) for words in written]
    for config in configs:
        assert (config.model.hidden_size, config.training.num_train_epochs) == (64, 2)


# A command that has begun, with something open, and does not end by itself.
WAITING = """
import time
from pathlib import Path
from hf_genrec import cli
from hf_genrec.files import whole_file

@cli.app.command()
def wait(path: Path):
    with whole_file(path):
        print("begun", flush=True)
        time.sleep(60)

cli.main()
"""


@pytest.mark.parametrize(
    ("number", "code", "line"), [(signal.SIGINT, 130, "interrupted\n"), (signal.SIGTERM, 143, "terminated\n")]
)
def test_a_signal_ends_a_command_with_one_line(tmp_path, number, code, line):
    command = [sys.executable, "-c", WAITING, "wait", str(tmp_path / "file")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "begun\n"
        os.kill(process.pid, number)
        printed, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, printed, said) == (code, "", line)
    assert not list(tmp_path.iterdir())
