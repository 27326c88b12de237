"""The program that runs recorded cases, over all that are here."""

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def run(*folders):
    program = [sys.executable, str(HERE / "golden_cases.py"), *map(str, folders)]
    return subprocess.run(program, capture_output=True, text=True)


def test_every_case_here_is_somebodys_and_near():
    finished = run(HERE / "golden")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    lines = finished.stdout.splitlines()
    cases = [line for line in lines if "worst gap" in line]
    assert len(cases) == len(list((HERE / "golden").rglob("case.json")))
    for line in cases:
        assert float(line.split()[-1]) < 1e-4, line


def test_a_case_of_no_method_is_an_error(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x/case.json").write_text('{"method": "nobody"}')
    finished = run(tmp_path)
    assert finished.returncode == 1
    assert "no method of the library has this case" in finished.stdout


@pytest.mark.parametrize("folder", ["nothing"])
def test_no_case_at_all_is_an_error(tmp_path, folder):
    assert run(tmp_path / folder).returncode == 1
