"""The wheel: what is in it, and what runs where nothing else is than what it asks for."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
FOLDERS = {"hf_genrec": "hf_genrec"} | {
    name: f"hf_genrec/{name}" for name in ("dataset_scripts", "trainers", "configs")
}

# Runs commands one after the other and prints, per command, its exit code.
PROGRAM = """
import json, sys
import hf_genrec
from hf_genrec import cli
assert hf_genrec.__file__.startswith(sys.prefix), hf_genrec.__file__
for command in json.loads(sys.argv[1]):
    sys.argv = ["hf-genrec", *command]
    try:
        cli.main()
    except SystemExit as finished:
        print("\\nexit code", finished.code or 0, flush=True)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built by the installed setuptools, from a copy that holds what is needed for it."""
    place = tmp_path_factory.mktemp("wheel")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, place / "source" / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, place / "source")
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", place]
    run([sys.executable, "-m", "pip", "wheel", *options, place / "source"], place)
    (built,) = place.glob("*.whl")
    return built


def run(command, folder, **environment) -> str:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    clean |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hub"), "OMP_NUM_THREADS": "1"} | environment
    finished = subprocess.run(list(map(str, command)), cwd=folder, env=clean, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout[-2000:] + finished.stderr[-4000:]
    return finished.stdout


def environment_of(wheel: Path, place: Path, *extras: str) -> Path:
    """
    A virtual environment with the wheel and what it asks for with these extras, and nothing else: links to what is
    installed here, so that nothing is downloaded. Returns its Python.
    """
    run([sys.executable, "-m", "venv", "--without-pip", place], place.parent)
    python = place / "bin/python"
    options = ["--quiet", "--no-deps", "--no-index", "--disable-pip-version-check"]
    run([sys.executable, "-m", "pip", "--python", python, "install", *options, wheel], place.parent)
    (site,) = place.glob("lib/*/site-packages")
    (library,) = distributions(path=[str(site)])
    for needed in _required(library, extras):
        for name in {path.parts[0] for path in needed.files or [] if path.parts[0] not in ("..", "__pycache__")}:
            if not (site / name).exists():
                (site / name).symlink_to(Path(str(needed.locate_file(name))))
    return python


def _required(library: Distribution, extras: tuple[str, ...]) -> list[Distribution]:
    found: dict[str, Distribution] = {}
    done, waiting = set(), [(library.name, extra) for extra in ("", *extras)]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in done:
            continue
        done.add((name, extra))
        try:
            of_name = library if name == library.name else distribution(name)
        except PackageNotFoundError:
            continue  # what only other machines need, or what running it will miss
        found[name] = of_name
        for line in of_name.requires or []:
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                waiting += [(needed.name, further) for further in ("", *needed.extras)]
    del found[library.name]
    return list(found.values())


@pytest.fixture(scope="module")
def core(wheel, tmp_path_factory) -> Path:
    return environment_of(wheel, tmp_path_factory.mktemp("core") / "core")


def test_every_file_of_the_library_is_in_it(wheel):
    expected = {
        f"{inside}/{path.relative_to(ROOT / folder)}"
        for folder, inside in FOLDERS.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == expected
    assert "hf_genrec/py.typed" in names


def test_its_version_is_the_librarys(wheel):
    import hf_genrec

    assert wheel.name.startswith(f"hf_genrec-{hf_genrec.__version__}-")
    assert f"## {hf_genrec.__version__}\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert hf_genrec.__version__ not in (ROOT / "setup.cfg").read_text(encoding="utf-8").split("[options]")[0]


def test_the_core_alone_recommends(core, tmp_path):
    """torch, transformers, numpy, safetensors, typer and what these ask for: a saved model of each method."""
    commands = [["methods"], ["configs"], ["doctor"]]
    for path in sorted((ROOT / "tests/saved").glob("*.zip")):
        zipfile.ZipFile(path).extractall(tmp_path / path.stem / "model")
        item_id = json.loads((tmp_path / path.stem / "model/catalogue.json").read_text())["item_ids"][1]
        commands.append(["recommend", path.stem, "--history", item_id, "-k", "3"])
    printed = run([core, "-c", PROGRAM, json.dumps(commands)], tmp_path)
    assert printed.count("exit code 0") == len(commands) == 6
    assert printed.count("  3. ") == 3
    assert 'pip install "hf_genrec[data]"' in printed
    missing = subprocess.run([core, "-c", "import pyarrow"], cwd=tmp_path, capture_output=True, text=True)
    assert "No module named 'pyarrow'" in missing.stderr


def test_what_is_missing_is_said_with_the_remedy(core, tmp_path):
    for command in (["evaluate", "run"], ["recommend", "run", "--user", "u"], ["prepare"]):
        (tmp_path / "run/model").mkdir(parents=True, exist_ok=True)
        (tmp_path / "run/model/config.json").write_text("{}")
        finished = subprocess.run([core.with_name("hf-genrec"), *command], cwd=tmp_path, capture_output=True, text=True)
        assert finished.returncode == 2
        assert finished.stderr.count("\n") == 1
        assert "hf-genrec doctor" in finished.stderr


@pytest.mark.slow
def test_every_command_and_a_whole_run_from_another_folder(wheel, tmp_path, own_data):
    python = environment_of(wheel, tmp_path / "all", "all")
    commands = [line.split()[0] for line in run([python.with_name("hf-genrec"), "configs"], tmp_path).splitlines()]
    assert "care/ml-100k" in commands
    names = json.loads(
        run(
            [python, "-c", "import json, typer; from hf_genrec.cli import app; "
             "print(json.dumps(list(typer.main.get_command(app).commands)))"], tmp_path,
        )
    )  # fmt: skip
    printed = run([python, "-c", PROGRAM, json.dumps([[name, "--help"] for name in names])], tmp_path)
    assert printed.count("exit code 0") == len(names) > 10

    environment_of(wheel, tmp_path / "train", "train")
    config = ["--config", str(own_data / "mine.yaml"), "--output_dir", "run"]
    stages = [[stage, *config] for stage in ("prepare", "tokenize", "train")]
    stages += [["evaluate", "run"], ["recommend", "run", "--user", "u00", "-k", "5", "--stranger"]]
    printed = run([tmp_path / "train/bin/python", "-c", PROGRAM, json.dumps(stages)], tmp_path)
    assert printed.count("exit code 0") == len(stages)
    assert printed.count("Film number") >= 5
    assert "cannot import hf_genrec: the same items and scores" in printed
