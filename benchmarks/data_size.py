"""What a log of 1, 10 or 50 million rows costs: seconds and peak memory of `prepare`, of others, of starting `train`.

    python -m benchmarks.data_size --rows 10_000_000 --cells duckdb-parquet duckdb-csv spark pandas-loop rectools
    python -m benchmarks.data_size --rows 10_000_000 --cells train-rearec train-care

A cell is a process of its own on the same synthetic log (see `synthetic_log`), at two threads: 5-core, the last item of
a user for the test, the one before for the validation, and what is left in files. Each writes its row to
`benchmarks/results/data_size-synthetic.jsonl`. Memory is the most that the process and those it started held at once.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.cells import write_row
from benchmarks.measure import environment
from benchmarks.synthetic_log import write_log

CORE = ["--source", "tabular", "--user_core", "5", "--item_core", "5"]
CODES = 64  # of each of three levels
PROBE = """
import os, resource
from hf_genrec.training.trainer import GenRecTrainer
def first(*args, **kwargs):
    print("peak KiB", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, flush=True)
    os._exit(0)
GenRecTrainer.training_step = first
from hf_genrec.cli import main
main()
"""


def measured(command: list[str]) -> dict[str, Any]:
    """Seconds, CPU seconds and peak memory of a command and its children.

    Raises:
        RuntimeError: it failed; with the end of what it said.
    """
    limits = {name: "2" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS")}
    start, peak, cpu = time.perf_counter(), 0, 0.0
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | limits
    ) as child:
        tree = psutil.Process(child.pid)
        while child.poll() is None:
            total, times = 0, 0.0
            try:
                for process in (tree, *tree.children(recursive=True)):
                    total += process.memory_info().rss
                    times += sum(process.cpu_times()[:2])
            except psutil.Error:
                pass
            peak, cpu = max(peak, total), max(cpu, times)
            time.sleep(0.2)
        assert child.stdout is not None
        said = child.stdout.read()
        if child.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {child.returncode}: {said[-2000:]}")
    seconds = time.perf_counter() - start
    counts = [line.split(": ")[1] for line in said.splitlines() if line.startswith("users, items, interactions: ")]
    exact = [int(line.split()[2]) for line in said.splitlines() if line.startswith("peak KiB")]
    return {
        **({"users_items_interactions": list(map(int, counts[0].split()))} if counts else {}),
        "seconds": seconds,
        "cpu_seconds": cpu,
        "peak_memory_mib": max([peak / 2**20, *(kib / 1024 for kib in exact)]),
    }


def program(*arguments: str) -> list[str]:
    return [sys.executable, "-m", *arguments]


def prepare(log: Path, run: Path, *options: str) -> list[str]:
    return program("hf_genrec.cli", "prepare", *CORE, "--source_path", str(log), "--output_dir", str(run), *options)


def train(method: str, log: Path, folder: Path) -> dict[str, Any]:
    """The start of a training on a log, until the first batch is there, beside that on a tiny log of all its items."""
    measured(prepare(log, folder / "large"))
    items = pq.read_table(folder / "large/data/items.parquet", columns=["item_id"])["item_id"]
    tiny, codes = folder / "tiny.parquet", folder / "codes.tsv"
    users = [f"u{place // 10}" for place in range(len(items))]
    pq.write_table(pa.table({"user_id": users, "item_id": items, "timestamp": [1_500_000_000] * len(items)}), tiny)
    with codes.open("w") as file:
        for place, item in enumerate(items.to_pylist()):
            digits = (place // CODES**2, place // CODES % CODES, place % CODES)
            file.write(f"{item}\t{' '.join(f'<{level}_{code}>' for level, code in zip('abc', digits, strict=True))}\n")
    prepared = ["--source", "tabular", "--source_path", str(tiny), "--output_dir", str(folder / "tiny")]
    measured(program("hf_genrec.cli", "prepare", *prepared))
    found = {}
    for name, path in (("tiny", tiny), ("large", log)):
        given = ["--source", "tabular", "--source_path", str(path), "--output_dir", str(folder / name)]
        given += CORE if name == "large" else []
        configuration = {"rearec": "rearec/tabular", "care": "care/ml-100k"}[method]
        if method == "care":
            measured(program("hf_genrec.cli", "tokenize", *given, "--method", "care", "--codes_path", str(codes)))
            given += ["--codes_path", str(codes), "--codebook_sizes", *[str(CODES)] * 3]
            given += ["--packed_row_tokens", "256"]
        given += ["--max_steps", "1", "--eval_users", "1000", "--max_history", "50"]
        found[name] = measured([sys.executable, "-c", PROBE, "train", "--config", configuration, *given])
    sequences = pq.ParquetFile(folder / "large/data/sequences.parquet").metadata
    interactions = sum(sequences.row_group(group).column(1).num_values for group in range(sequences.num_row_groups))
    own = (4 * interactions + 16 * sequences.num_rows) / 2**20  # item rows as int32, a start and an end per user
    return found["large"] | {
        "tiny": found["tiny"],
        "sequences_mib": own,
        "above_tiny": (found["large"]["peak_memory_mib"] - found["tiny"]["peak_memory_mib"]) / own,
    }


def cell(name: str, rows: int, folder: Path, python: str) -> dict[str, Any]:
    kind = "csv" if name.endswith("csv") else "parquet"
    log = folder / f"log.{kind}"
    if not log.exists():
        write_log(log, rows)
    work = folder / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        if name.startswith("train-"):
            return train(name.removeprefix("train-"), log, work)
        if name.startswith("duckdb-"):
            return measured(prepare(log, work / "run"))
        if name == "spark":
            return measured(prepare(log, work / "run", "--engine", "spark", "--master", "local[2]"))
        peers = str(Path(__file__).with_name("data_peers.py"))
        return measured([python, peers, name, str(log), str(work / "out")])
    finally:
        shutil.rmtree(work, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--cells", nargs="+", default=["duckdb-parquet", "duckdb-csv", "pandas-loop"])
    parser.add_argument("--folder", type=Path, default=Path("/tmp/data_size"), help="where the log lies meanwhile")
    parser.add_argument("--peers-python", default=sys.executable, help="the interpreter that has RecTools and RecBole")
    parser.add_argument("--keep", action="store_true", help="leave the log there")
    given = parser.parse_args()
    folder = given.folder / str(given.rows)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        for name in given.cells:
            found = cell(name, given.rows, folder, given.peers_python)
            row = {"cell": f"{name}-{given.rows}", "rows": given.rows, **found, "load_before": os.getloadavg()[1]}
            write_row("data_size", "synthetic", row | environment())
            print(name, given.rows, {key: value for key, value in row.items() if key != "cell"}, flush=True)
    finally:
        if not given.keep:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
