"""The files of a Space, and what `hf-genrec demo` refuses before anything slow is imported."""

import ast
import re
import socket
import sys
from importlib.metadata import version

import pytest
import yaml
from conftest import exit_code, make_model, make_processor, outcomes

import hf_genrec
from hf_genrec.serving.demo.space import write_space


def test_files(tmp_path):
    folder = write_space(tmp_path / "space", ["my-org/one", "my-org/two"])
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "app.py", "requirements.txt"]
    tree = ast.parse((folder / "app.py").read_text())
    (call,) = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert (call.func.id, ast.literal_eval(call.args[0])) == ("launch", ["my-org/one", "my-org/two"])
    settings = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
    assert settings["sdk"] == "gradio"
    assert settings["sdk_version"] == version("gradio")
    assert settings["app_file"] == "app.py"
    assert settings["models"] == ["my-org/one", "my-org/two"]
    assert f"hf_genrec[demo]=={hf_genrec.__version__}" in (folder / "requirements.txt").read_text().splitlines()


def test_what_no_space_can_load(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_model(make_processor()).save_pretrained("runs/mine/model")
    capsys.readouterr()
    for name in ("runs/mine", "../mine", "mine", "a/b/c", "a b/c", '"/x'):
        assert exit_code("demo", name, "--write-space", tmp_path / "space") == 2
        error = capsys.readouterr().err
        assert re.fullmatch(r"error: a Space loads its model from the Hub, not from .*my-org/my-model\n", error)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/note").write_text("mine")
    assert exit_code("demo", "a/b", "--write-space", tmp_path / "full") == 2
    assert "holds something already: name a new folder" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["note"]
    assert not (tmp_path / "space").exists()


def test_refusals_come_before_torch_is_imported(tmp_path):
    (tmp_path / "empty").mkdir()
    commands = [["demo", str(tmp_path / "empty")], ["demo", "a", "--port", "0"], ["demo", "a", "--port", "70000"]]
    found, errors = outcomes(commands)
    assert [(code, {"torch", "gradio"} & set(modules)) for code, modules in found] == [(2, set())] * 3
    assert "holds no trained model: run `hf-genrec train` first" in "\n".join(errors)


def test_without_gradio_one_line_names_the_extra(tmp_path, monkeypatch, capsys):
    make_model(make_processor()).save_pretrained(tmp_path / "model")
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "hf_genrec.serving.demo.page", raising=False)
    capsys.readouterr()
    assert exit_code("demo", tmp_path) == 2
    assert capsys.readouterr().err == 'error: the demo needs Gradio: pip install "hf_genrec[demo]"\n'


def test_where_nothing_can_listen_is_said_before_runs_are_opened(tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for options in (["--port", port], ["--host", "a" * 300]):
            assert exit_code("demo", tmp_path / "nothing", *options) == 2
            error = capsys.readouterr().err
            assert re.fullmatch(
                r"error: nothing can listen at port \d+ of \S+ \(.*\): name another --port or --host\n", error
            )


def test_three_runs_are_refused(capsys):
    assert exit_code("demo", "a", "b", "c") == 2
    with pytest.raises(ValueError, match="not from mine, which names no owner"):
        write_space("nowhere", ["mine"])
