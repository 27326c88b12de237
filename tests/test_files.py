"""Folders that appear whole, whatever happens meanwhile."""

import os
import subprocess
import sys

import pytest

from hf_genrec.files import restore_folder, whole_folder


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/a").write_text("old")
    return tmp_path / "model"


def write(folder):
    with whole_folder(folder) as new:
        (new / "a").write_text("new")


def test_a_folder_is_replaced(folder):
    os.chmod(folder, 0o750)
    write(folder)
    assert contents(folder) == {"a": "new"}
    assert folder.stat().st_mode & 0o777 == 0o750
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    write(folder.parent / "another/model")
    assert contents(folder.parent / "another/model") == {"a": "new"}


def test_a_failing_block_leaves_the_old_folder(folder):
    with pytest.raises(ValueError, match="no"), whole_folder(folder):
        raise ValueError("no")
    assert contents(folder) == {"a": "old"}
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_the_old_folder_comes_back_when_the_new_one_cannot_take_its_name(folder, monkeypatch):
    rename = os.rename

    def fails(source, target):
        if target == folder and not str(source).endswith("-old"):
            raise OSError("no space")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fails)
    with pytest.raises(OSError, match="no space"):
        write(folder)
    assert contents(folder) == {"a": "old"}


def test_the_folder_one_stands_in_and_a_link_to_it(folder, monkeypatch):
    monkeypatch.chdir(folder)
    write(".")
    assert contents(folder) == {"a": "new"}
    (folder.parent / "link").symlink_to(folder)
    (folder / "a").write_text("old")
    write(folder.parent / "link")
    assert (folder.parent / "link").is_symlink()
    assert contents(folder) == {"a": "new"}


def test_a_mount_point_is_refused(folder, monkeypatch):
    monkeypatch.setattr(os.path, "ismount", lambda path: path == folder)
    with pytest.raises(OSError, match="mount point"):
        write(folder)
    assert contents(folder) == {"a": "old"}


KILLED = """
import os, signal, sys
from hf_genrec.files import whole_folder
calls, rename = [], os.rename
def counted(*names):
    rename(*names)
    calls.append(names)
    if len(calls) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
os.rename = counted
with whole_folder(sys.argv[1]) as new:
    (new / "a").write_text("new")
    if sys.argv[2] == "0":
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(("renames", "left"), [(0, "old"), (1, "old"), (2, "new")])
def test_after_a_kill_the_folder_is_whole(folder, renames, left):
    """Killed before the first rename, between the two, and behind both."""
    killed = subprocess.run([sys.executable, "-c", KILLED, str(folder), str(renames)])
    assert killed.returncode == -9
    assert len(list(folder.parent.iterdir())) > 1
    restore_folder(folder)
    assert contents(folder) == {"a": left}
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
