"""One saved folder in several environments: the same answers, and the speed of each, in alternating processes.

    python -m benchmarks.versions --pythons OLD/bin/python NEW/bin/python

The environments need torch and transformers and nothing else. The folders are those of tests/saved, refreshed, and a
CARE model of 12,101 items with four layers of 128; the questions are those of tests/saved/answers.py. Answers are
compared with those of the first environment. Times are CPU seconds of `recommend` on one thread, medians within a
process and over the rounds.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from benchmarks.generation import build
from benchmarks.measure import write_result
from hf_genrec.refresh import refresh

SAVED = Path(__file__).parents[1] / "tests/saved"


def make_folders(place: Path, items: int) -> dict[str, Path]:
    folders = {}
    for archive in sorted(SAVED.glob("*.zip")):
        folders[f"{archive.stem}, of an earlier version"] = place / archive.stem
        with zipfile.ZipFile(archive) as file:
            file.extractall(place / archive.stem)
        refresh(place / archive.stem)
    model = build(items, layers=4, hidden=128, history=20)
    codes = model.processor.codes
    model.processor.set_catalogue([f"item-{row}" for row in range(items)], codes)
    model.save_pretrained(place / "large")
    return folders | {f"care, {items:,} items": place / "large"}


def ask(python: str, folder: Path, calls: int, modules: str) -> dict:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": modules, "OMP_NUM_THREADS": "1"}
    command = [python, str(SAVED / "answers.py"), str(folder), "--time", str(calls)]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True)
    if finished.returncode:
        raise RuntimeError(f"{python}, {folder}: {finished.stderr.strip().splitlines()[-1]}")
    return json.loads(finished.stdout.splitlines()[-1])


def largest_gap(found: dict, expected: dict) -> float:
    """The largest difference of scores; the items must be the same."""
    assert found["answers"].keys() == expected["answers"].keys()
    assert found["codes"] == expected["codes"]
    gaps = [0.0]
    for way, (items, scores) in expected["answers"].items():
        assert found["answers"][way][0] == items, way
        gaps.append(float(np.abs(np.array(found["answers"][way][1]) - np.array(scores)).max(initial=0.0)))
    return max(gaps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pythons", nargs="+", required=True, help="interpreters of the environments")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=20, help="timed calls in a process")
    parser.add_argument("--items", type=int, default=12101, help="items of the large catalogue")
    options = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as place:
        for name, folder in make_folders(Path(place), options.items).items():
            asked: list[list[dict]] = [[] for _ in options.pythons]
            for _ in range(options.rounds):
                for answers, python in zip(asked, options.pythons, strict=True):
                    answers.append(ask(python, folder, options.calls, str(Path(place) / "modules")))
            first = statistics.median(answer["cpu_seconds"] for answer in asked[0])
            results[name] = [
                {
                    "transformers": answers[0]["transformers"],
                    "largest_gap_of_scores": max(largest_gap(answer, asked[0][0]) for answer in answers),
                    "cpu_ms": 1000 * statistics.median(answer["cpu_seconds"] for answer in answers),
                    "times_the_first": statistics.median(answer["cpu_seconds"] for answer in answers) / first,
                }
                for answers in asked
            ]
            for row in results[name]:
                print(
                    f"{name:<34} transformers {row['transformers']:<8} {row['cpu_ms']:8.1f} CPU ms of 32 histories, "
                    f"{row['times_the_first']:.2f} times the first; scores within {row['largest_gap_of_scores']:.1e}"
                )
    settings = {name: value for name, value in vars(options).items() if name != "pythons"}
    write_result("versions", "python -m benchmarks.versions --pythons OLD/bin/python NEW/bin/python", settings, results)


if __name__ == "__main__":
    main()
