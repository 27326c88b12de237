"""Requests of users whose history is in the user cache, beside the same requests without it: time and bytes.

    OMP_NUM_THREADS=1 python -m benchmarks.second_requests RUN ...      # finished runs, on an idle machine

A model that reads items one after the other knows all of a history but its newest item; one that reads a history as a
whole is asked again with the same one. Users are drawn from the test split, the same ones for every run. All runs take
turns, so that what else the machine does hits them alike; a figure is the median over rounds, of CPU seconds.
"""

import argparse
import logging
import statistics
import time
from pathlib import Path
from typing import Any

from benchmarks.cells import write_row
from benchmarks.measure import environment
from benchmarks.user_cache import some_histories
from hf_genrec.data.prepared import PreparedData
from hf_genrec.method import load_model
from hf_genrec.training.run_folder import RunFolder

KIND = "second_requests"
USERS, ROUNDS = 256, 5
BATCHES = (1, 64)
SINGLE = 64  # users that are asked for one by one
logger = logging.getLogger(__name__)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of finished runs of one data set")
    parser.add_argument("--data", default="amazon2014_beauty", help="name of the data set")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    measure(options.runs, options.data)


def measure(runs: list[Path], data: str) -> None:
    models = {path: load_model(RunFolder(path).require_model()) for path in runs}
    histories = {path: some_histories(PreparedData.load(RunFolder(path).data), "test", USERS) for path in runs}
    times: dict[tuple[Path, int, str], list[float]] = {}
    caches = {}
    for _ in range(ROUNDS):
        for path, model in models.items():
            whole = getattr(model, "reads_whole_histories", False)
            known = histories[path] if whole else [history[:-1] for history in histories[path]]
            for batch in BATCHES:
                asked = histories[path][: SINGLE if batch == 1 else USERS]
                cache = caches[path] = model.user_cache(2**40)
                model.recommend_rows(known, 10, user_cache=cache)
                for name, given in (("first", None), ("second", cache)):
                    start = time.process_time()
                    for begin in range(0, len(asked), batch):
                        model.recommend_rows(asked[begin : begin + batch], 10, user_cache=given)
                    seconds = (time.process_time() - start) / len(asked)
                    times.setdefault((path, batch, name), []).append(1000 * seconds)
    for path in runs:
        names = ["/".join(run.parts[-2:]) for run in runs]
        row: dict[str, Any] = {"cell": "/".join(path.parts[-2:]), "date": environment()["date"]}
        row |= {"command": f"python -m benchmarks.second_requests {' '.join(names)}"}
        row["bytes_per_user"] = caches[path].num_bytes / len(caches[path])
        for batch in BATCHES:
            row[f"ms_by_{batch}"] = [statistics.median(times[path, batch, name]) for name in ("first", "second")]
        write_row(KIND, data, row)
        logger.info("%s: finished", row["cell"])


if __name__ == "__main__":
    main()
