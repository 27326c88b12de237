"""Imports flow one way, and what travels to the Hub stands alone."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "hf_genrec"
METHODS = sorted(path.name for path in (PACKAGE / "methods").iterdir() if (path / "method.py").is_file())


def travelling() -> list[Path]:
    """Every file that is saved with some model or item tokenizer."""
    starts = [*PACKAGE.glob("methods/*/modeling_*.py"), *PACKAGE.glob("item_tokenizers/modeling_*.py")]
    starts += [*PACKAGE.glob("methods/*/processing_*.py"), *PACKAGE.glob("*/processing_*.py")]
    found, waiting = set(), starts
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += [target for _, target in relative_imports(path)]
    return sorted(found)


def relative_imports(path: Path) -> list[tuple[str | None, Path]]:
    return [
        (node.module, path.parents[node.level - 1].joinpath(*(node.module or "").split(".")).with_suffix(".py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.level
    ]


def test_layers(tmp_path):
    """import-linter on the package as the wheel lays it out, with the top-level folders inside."""
    shutil.copytree(ROOT / "hf_genrec", tmp_path / "hf_genrec", ignore=shutil.ignore_patterns("__pycache__"))
    for folder in ("dataset_scripts", "trainers", "configs"):
        shutil.copytree(ROOT / folder, tmp_path / "hf_genrec" / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    linter = Path(sys.executable).with_name("lint-imports")
    finished = subprocess.run(
        [linter, "--no-cache"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "3 kept, 0 broken" in finished.stdout


def test_names_of_model_files_differ():
    """They are saved into one folder."""
    names = [path.name for path in travelling() if path.name != "__init__.py"]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("path", travelling(), ids=lambda path: path.name)
def test_model_files_import_what_exists_at_a_strangers(path):
    allowed = {"torch", "transformers", "numpy", "safetensors"} | sys.stdlib_module_names
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert {alias.name.split(".")[0] for alias in node.names} <= allowed
        if isinstance(node, ast.ImportFrom) and not node.level:
            assert node.module.split(".")[0] in allowed
    for module, target in relative_imports(path):
        assert module is not None, "from . import name"
        assert target.is_file()


def test_every_file_of_the_four_folders_travels():
    """A file there that no model takes along is in the wrong room."""
    rooms = [PACKAGE / name for name in ("catalogue", "decoding", "item_tokenizers")]
    there = {path for room in rooms for path in room.glob("*.py") if path.name != "__init__.py"}
    assert there <= set(travelling())


def test_files_that_travel_differ_in_their_names():
    """They lie in one folder at a stranger's, those of a model and of its item tokenizer together."""
    names = [path.name for path in travelling()]
    assert len(names) == len(set(names))


def shared_files() -> list[Path]:
    folders = [PACKAGE, ROOT / "trainers", ROOT / "dataset_scripts"]
    return [
        path for folder in folders for path in sorted(folder.rglob("*.py")) if PACKAGE / "methods" not in path.parents
    ]


OTHERS_NAMES = ("care_csv", "__arrow_c_stream__", "SOCK_STREAM")  # a source and protocols, called as by their authors


@pytest.mark.parametrize("path", shared_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_shared_code_names_no_method(path):
    text = path.read_text(encoding="utf-8")
    for other in OTHERS_NAMES:
        text = text.replace(other, "")
    named = re.findall(rf"(?i)(?<![a-z])(?:{'|'.join(METHODS)})(?![a-z])", text)
    assert not named


def test_no_file_is_too_long_to_hold_in_mind():
    for path in [*shared_files(), *(PACKAGE / "methods").rglob("*.py")]:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 450, path
