"""`recommend --all-users`: users a second, kills, memory, and Ray workers against one process.

    OMP_NUM_THREADS=1 python -m benchmarks.batch runs/care-beauty runs/rearec-beauty

For each run, all users of its data. `killed`: one uninterrupted command, and one that is killed ten times at random
moments, whose files are compared with the former's byte for byte. `memory`: the peak of the command for these users and
for ten times as many. `ray`: 40 parts by one and by two Ray actors on this machine, in alternating rounds, whose files
are compared with those of the command; users a second between the first finished part and the last one, for what comes
before is the start of processes. Quality plays no part: a run trained for a few steps will do. The rows are those of
benchmarks/results; measure on an idle machine.
"""

import argparse
import os
import random
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.cells import write_row
from hf_genrec.data.prepared import SEQUENCES_FILE
from hf_genrec.method import method_of
from hf_genrec.serving.batch import Batch
from hf_genrec.serving.batch_work import Recommend, history_rows
from hf_genrec.serving.part_folder import PartFolder
from hf_genrec.serving.ray_batch import on_ray
from hf_genrec.training.run_folder import RunFolder

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "RAY_USAGE_STATS_ENABLED": "0"}
TIMES = 10  # as many users in the larger file


# The command, and its peak memory at the end. Not ru_maxrss: a process inherits that of its parent.
PROGRAM = """
import sys
from hf_genrec import cli
try:
    cli.main()
finally:
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    print(status["VmHWM"].split()[0])
"""


def command(run: Path, output: Path, part_size: int, *more: str) -> list[str]:
    options = ["--part-size", str(part_size), "--output", str(output), *(more or ("--all-users",))]
    return [sys.executable, "-c", PROGRAM, "recommend", str(run), *options]


def measured(call: list[str]) -> dict[str, float]:
    """Seconds, CPU seconds and peak memory of a process that succeeds."""
    start = time.perf_counter()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    finished = subprocess.run(call, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime,
        "peak_mib": int(finished.stdout.split()[-1]) / 1024,
    }


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def killed(run: Path, output: Path, part_size: int, kills: int, within: float) -> int:
    """
    Kill the command at random moments of its work, each time behind its start, and let it end at last.

    Returns:
        the part files that were left by any of the killed processes, all of them counted.
    """
    rng, left = random.Random(0), 0
    for _ in range(kills):
        process = subprocess.Popen(
            command(run, output, part_size), env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        parts = len(list(output.glob("part-*")))
        while len(list(output.glob("part-*"))) <= parts and process.poll() is None:
            time.sleep(0.01)  # until it has made a part
        time.sleep(rng.uniform(0, within))
        process.send_signal(signal.SIGKILL)
        if process.wait() != -signal.SIGKILL:
            raise RuntimeError("the command ended before it could be killed: more users or smaller parts")
        left += len(list(output.glob("part-*"))) - parts
    measured(command(run, output, part_size))
    return left


def by_ray(run: Path, histories: Path, output: Path, part_size: int, workers: int) -> float:
    """Users a second between the first parts, one of each worker, and the last one, by the times of the files."""
    folder = RunFolder(run)
    work = Recommend(folder.require_model().absolute())
    batch = Batch(work, history_rows(folder, histories), output, part_size)
    parts = PartFolder(output, work.name, batch.settings(), work.unit, batch.source.check(), work.counts)
    with parts.at_work():
        for record in on_ray(batch, parts.settings, parts.missing, lambda users: None, workers):
            parts.add(record)
        parts.finish()
    ended = sorted(path.stat().st_mtime for path in output.glob("part-*"))
    return (len(ended) - workers) * part_size / (ended[-1] - ended[workers - 1])


def measure(run: Path, what: str, place: Path, given: argparse.Namespace) -> dict[str, Any]:
    """A row of figures; see above."""
    sequences, size = run / "data" / SEQUENCES_FILE, given.part_size
    users = pq.read_metadata(sequences).num_rows
    table = pq.read_table(sequences, columns=["user_id", "item_ids"])
    if what == "memory":
        pq.write_table(pa.concat_tables([table] * TIMES), place / "more.parquet")
        few = measured(command(run, place / "few", size))
        more = measured(command(run, place / "more", size, "--histories", str(place / "more.parquet")))
        return {"users": [users, TIMES * users], "peak_mib": [few["peak_mib"], more["peak_mib"]]}
    if what == "killed":
        whole = measured(command(run, place / "whole", size))
        expected = contents(place / "whole")
        left = killed(run, place / "killed", size, given.kills, whole["seconds"] / given.kills / 2)
        row = {"users": users, "parts": len(expected) - 2, "seconds": whole["seconds"]}
        row |= {"cpu_seconds": whole["cpu_seconds"], "users_per_cpu_second": users / whole["cpu_seconds"]}
        row |= {"kills": given.kills, "parts_of_killed": left}
        return row | {"equal": contents(place / "killed") == expected}
    return row_of_ray(run, table, place, given)


def row_of_ray(run: Path, table: pa.Table, place: Path, given: argparse.Namespace) -> dict[str, Any]:
    users, size = given.ray_users, given.ray_users // 40
    pq.write_table(pa.concat_tables([table] * -(-users // table.num_rows)).slice(0, users), place / "some.parquet")
    measured(command(run, place / "whole", size, "--histories", str(place / "some.parquet")))
    expected, equal, rates = contents(place / "whole"), True, []
    for turn in range(given.rounds):
        rates.append([])
        for workers in (1, 2):
            rates[-1].append(by_ray(run, place / "some.parquet", place / f"{workers}-{turn}", size, workers))
            equal = equal and contents(place / f"{workers}-{turn}") == expected
    ratios = [two / one for one, two in rates]
    return {"users": users, "rates": rates, "ratios": ratios, "ratio": statistics.median(ratios), "equal": equal}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="run folders with data and model")
    parser.add_argument("--data", default="amazon2014_beauty", help="what the runs were trained on")
    parser.add_argument("--what", nargs="+", default=["killed", "memory", "ray"])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3, help="of Ray; the ratio is their median")
    parser.add_argument("--part-size", type=int, default=500)
    parser.add_argument("--ray-users", type=int, default=20_000, help="of Ray; in 40 parts, each user once or more")
    given = parser.parse_args()
    os.environ |= ENVIRONMENT
    torch.set_num_threads(1)
    if "ray" in given.what:
        import ray

        ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False)
    for what in given.what:
        for run in given.runs:
            with tempfile.TemporaryDirectory() as place:
                figures = measure(run, what, Path(place), given)
            load = os.getloadavg()[1]  # of five minutes, this program among them
            row = {"cell": f"{method_of(run / 'model')}, {what}", **figures, "load_average": load}
            write_row("batch", given.data, row)
            print(row, flush=True)


if __name__ == "__main__":
    main()
