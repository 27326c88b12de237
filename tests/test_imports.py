"""Imports flow one way, and what travels to the Hub stands alone."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODELS = ROOT / "hf_genrec/models"


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
    assert "2 kept, 0 broken" in finished.stdout


@pytest.mark.parametrize("path", sorted(MODELS.glob("*.py")), ids=lambda path: path.name)
def test_model_files_import_what_exists_at_a_strangers(path):
    allowed = {"torch", "transformers", "numpy", "safetensors"} | sys.stdlib_module_names
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert {alias.name.split(".")[0] for alias in node.names} <= allowed
        if isinstance(node, ast.ImportFrom):
            if node.level:
                assert node.level == 1
                assert (MODELS / f"{node.module}.py").is_file()
            else:
                assert node.module.split(".")[0] in allowed
