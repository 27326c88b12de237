"""What a command costs before it answers: CPU seconds of whole processes, in alternating rounds.

    python -m benchmarks.startup

`hf-genrec recommend` of the small saved models in tests/saved stands beside a process that only imports what such a
model cannot do without, and commands with a mistake beside none. The rows are those of benchmarks/results; measure on
an idle machine.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.cells import write_row
from hf_genrec.data.prepared import PreparedData

SAVED = Path(__file__).parents[1] / "tests/saved"
IMPORTS = "import torch, transformers.models.qwen2.modeling_qwen2"
BASE = "imports alone"


def commands(place: Path) -> dict[str, list[str]]:
    """The measured processes by the name of their cell."""
    program = [sys.executable, "-m", "hf_genrec.cli"]
    found = {BASE: [sys.executable, "-c", IMPORTS]}
    for archive in sorted(SAVED.glob("*.zip")):
        model = place / archive.stem / "model"
        with zipfile.ZipFile(archive) as file:
            file.extractall(model)
        item_ids = json.loads((model / "catalogue.json").read_text(encoding="utf-8"))["item_ids"]
        found[f"recommend, {archive.stem}"] = [*program, "recommend", str(place / archive.stem), "--user", "u"]
        counts = np.array([0])
        items = pa.table({"item_id": item_ids})
        PreparedData(["u"], item_ids, items, [np.array([0, 1])], counts, counts, {}).save(place / archive.stem / "data")
        run = str(place / archive.stem)
    (place / "damaged.yaml").write_text("source: [tabular\n", encoding="utf-8")
    (place / "unknown.yaml").write_text("hiden_size: 3\n", encoding="utf-8")
    nothing = str(place / "nothing")
    tabular = ["--source", "tabular", "--output_dir", nothing, "--source_path"]
    for name, arguments in {
        "no such run": ["recommend", nothing, "--user", "u"],
        "no such user": ["recommend", run, "--user", "nobody"],
        "no such command": ["recomend"],
        "no such configuration": ["train", "--config", nothing],
        "damaged YAML": ["train", "--config", str(place / "damaged.yaml")],
        "unknown key": ["train", "--config", str(place / "unknown.yaml")],
        "no prepared data": ["train", "--output_dir", nothing],
        "no source file": ["prepare", *tabular, nothing],
        "unknown option of grpo": ["grpo", "--lora_rank", "3"],
    }.items():
        found[f"mistake, {name}"] = [*program, *arguments]
    return found


def cpu_seconds(command: list[str], mistake: bool) -> float:
    """User and system time of a process and those it starts."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    finished = subprocess.run(command, capture_output=True, text=True, env=environment)
    if finished.returncode != (2 if mistake else 0):
        raise RuntimeError(f"{' '.join(command)}: {finished.stderr.strip()}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="processes of each kind; the figures are medians")
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as place:
        processes = commands(Path(place))
        spent: dict[str, list[float]] = {name: [] for name in processes}
        for _ in range(rounds):
            for name, command in processes.items():
                spent[name].append(cpu_seconds(command, name.startswith("mistake")))
    base = statistics.median(spent[BASE])
    print(f"{'':32} CPU s   above the imports")
    for name, seconds in spent.items():
        row = {
            "cell": name,
            "rounds": rounds,
            "cpu_seconds": statistics.median(seconds),
            "lowest": min(seconds),
            "highest": max(seconds),
            "above_imports": statistics.median(seconds) - base,
        }
        write_row("startup", "commands", row)
        print(f"{name:32} {row['cpu_seconds']:5.2f}   {row['above_imports']:+.2f}")


if __name__ == "__main__":
    main()
