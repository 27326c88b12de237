"""A method is a folder and a YAML: one is laid into a copy of the library, and everything works for it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOY = Path(__file__).parent / "toy_method"


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """The library as a wheel lays it out, with one folder and one file more."""
    place = tmp_path_factory.mktemp("site")
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "hf_genrec", place / "hf_genrec", ignore=ignore)
    for folder in ("dataset_scripts", "trainers", "configs"):
        shutil.copytree(ROOT / folder, place / "hf_genrec" / folder, ignore=ignore)
    shutil.copytree(TOY / "toy", place / "hf_genrec/methods/toy", ignore=ignore)
    (place / "hf_genrec/configs/toy").mkdir()
    shutil.copy(TOY / "own.yaml", place / "hf_genrec/configs/toy/own.yaml")
    return place


PROGRAM = """
import io, json, sys
from contextlib import redirect_stdout
sys.path.insert(0, sys.argv[1])
from hf_genrec import cli
assert cli.__file__.startswith(sys.argv[1])
printed = []
for command in json.loads(sys.argv[2]):
    sys.argv = ["hf-genrec", *command]
    with redirect_stdout(io.StringIO()) as out:
        try:
            cli.main()
        except SystemExit as end:
            if end.code:
                raise
    printed.append(out.getvalue())
print(json.dumps(printed))
"""


def run(library, *commands) -> list[str]:
    """What each command of that copy of the library prints, in one process."""
    commands = json.dumps([[str(word) for word in command] for command in commands])
    program = [sys.executable, "-P", "-c", PROGRAM, str(library), commands]
    finished = subprocess.run(
        program, capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"}, cwd=library
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    return json.loads(finished.stdout.splitlines()[-1])


def test_from_prepare_to_a_stranger(library, own_data):
    folder = own_data / "toy-run"
    options = ["--config", "toy/own", "--source_path", own_data / "log.csv", "--item_path", own_data / "films.csv"]
    options += ["--output_dir", folder]
    *_, printed, _, listed, configs = run(
        library,
        *([command, *options] for command in ("prepare", "tokenize", "train")),
        ["evaluate", folder],
        ["recommend", folder, "--history", "f00,f02,f04", "-k", "3", "--stranger"],
        ["refresh", folder],
        ["methods"],
        ["configs"],
    )
    record = json.loads((folder / "results/test.json").read_text())["Toy"]
    # Even users like even films: half of the catalogue is never theirs.
    assert record["metrics"]["recall@10"]["value"] > 10 / 24
    assert "opened through AutoModelForSequenceClassification" in printed
    assert printed.splitlines()[-1].startswith("  3. Film number")
    card = (folder / "model/README.md").read_text()
    assert "A toy over 24 items." in card
    assert "| size | 16 |" in card
    assert "- toys" in card
    assert "toy        Toy: the mean of a history's codes against each item's" in listed
    assert "toy/own" in configs
