"""Folders that appear whole, whatever happens meanwhile."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hf_genrec.files import OLD, naming, require_writable, restore_folder, source_fingerprint, whole_folder


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
        if target == folder and not str(source).endswith(OLD):
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


@pytest.mark.parametrize("kind", ["file", "folder", "tensors"])
def test_a_full_disk_leaves_what_was_there_and_is_named(folder, kind):
    """In a process that must not write files of more than a few kilobytes."""
    (folder / "a").write_text("old")
    writes = {
        "file": "write_json({'a': 'x' * 50_000}, place / 'a')",
        "folder": "with whole_folder(place) as new: (new / 'a').write_text('x' * 50_000)",
        "tensors": "with whole_folder(place) as new: save_file({'a': numpy.zeros(50_000)}, new / 'a')",
    }
    program = f"""
import pathlib, resource, sys, numpy
from safetensors.numpy import save_file
from hf_genrec.files import whole_folder, write_json
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
place = pathlib.Path(sys.argv[1])
try:
    {writes[kind]}
except OSError as error:
    sys.exit(str(error))
"""
    finished = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True)
    assert finished.returncode == 1
    assert str(folder) in finished.stderr
    assert len(finished.stderr.splitlines()) == 1
    assert contents(folder) == {"a": "old"}
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_a_folder_that_another_process_writes_is_let_be(tmp_path):
    """Its lock says so, and ends with the process: the number of a process may be another one's by now."""
    folder = tmp_path / "run [1]*"
    folder.mkdir()
    (folder / "a").write_text("old")
    program = """
import sys, time
from hf_genrec.files import whole_folder
with whole_folder(sys.argv[1]) as new:
    (new / "a").write_text("half")
    print("writing", flush=True)
    time.sleep(600)
"""
    writer = subprocess.Popen([sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert writer.stdout.readline() == "writing\n"
        restore_folder(folder)
        assert len(list(tmp_path.iterdir())) == 2
        write(folder)
        assert contents(folder) == {"a": "new"}
        assert len(list(tmp_path.iterdir())) == 2
    finally:
        writer.kill()
        writer.wait()
    restore_folder(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["run [1]*"]


def test_a_folder_that_cannot_be_written_is_said_before_the_work(tmp_path):
    (tmp_path / "shut").mkdir(mode=0o555)
    program = """
import os, sys
from pathlib import Path
from hf_genrec.files import require_writable
for name in ("", "run", "run/results"):
    folder = Path("shut") / name
    if os.geteuid() == 0:
        os.seteuid(65534)  # root may write everywhere
    try:
        require_writable(folder)
    except OSError as error:
        print(error)
"""
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path)
    lines = finished.stdout.splitlines()
    assert len(lines) == 3
    for line, name in zip(lines, ("shut", "shut/run", "shut/run/results"), strict=True):
        assert line.startswith(f"{name} cannot be written")
        assert line.endswith("(Permission denied): change that, or name another output folder")


def test_a_folder_below_a_file_cannot_be_written(tmp_path):
    require_writable(tmp_path, tmp_path / "run/results")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match=rf"run cannot be written in {tmp_path}/file \(Not a directory\)"):
        require_writable(tmp_path / "file/run")


@pytest.mark.parametrize(("number", "remedy"), [(errno.ENOSPC, "make room"), (errno.EFBIG, "ulimit -f")])
def test_a_full_disk_is_named_with_what_to_do(tmp_path, number, remedy):
    with pytest.raises(OSError, match=rf"^{tmp_path} cannot be written: .*{remedy}"), naming(tmp_path):
        raise OSError(number, os.strerror(number))
    with pytest.raises(FileNotFoundError, match="nothing"), naming(tmp_path):
        (tmp_path / "nothing").read_text()


def test_only_what_is_stored_is_fingerprinted(tmp_path):
    """A device or a pipe would be read without end."""
    os.mkfifo(tmp_path / "pipe")
    for place in ("/dev/zero", "/proc", "/proc/version", tmp_path / "pipe"):
        with pytest.raises(OSError, match=f"{place} is no stored file and no folder of such"):
            source_fingerprint(Path(place))
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a").write_text("x")
    before = source_fingerprint(folder)
    assert before == source_fingerprint(folder / "a")
    os.mkfifo(folder / "b")  # is none of its files
    assert source_fingerprint(folder) == before
    (folder / "inner").mkdir()
    (folder / "inner/d").write_text("y")
    assert source_fingerprint(folder) != before
    (folder / "c").symlink_to("/proc/version")
    with pytest.raises(OSError, match="c is no stored file"):
        source_fingerprint(folder)
