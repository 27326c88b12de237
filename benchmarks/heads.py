"""What the codes and the dense vector of one trained model give, each by itself and together.

    OMP_NUM_THREADS=1 python -m benchmarks.heads RUN ...       # folders of finished cells of benchmarks.quality

Recall@10 and NDCG@10 of all test users and users per second, by each way in which the model makes lists (`retrieval`).
The model is one and the same: what differs is what its lists are made by. A row per run and way goes to
benchmarks/results/heads-<data>.jsonl; `python -m benchmarks.tables` makes a table of them.
"""

import argparse
import time
from pathlib import Path

from benchmarks.cells import write_row
from benchmarks.measure import environment
from hf_genrec.data.prepared import PreparedData
from hf_genrec.evaluation.metrics import ndcg_at_k, recall_at_k
from hf_genrec.method import load_model
from hf_genrec.training.run_folder import RunFolder

WAYS = {"cobra": ("sparse", "dense", "fusion"), "liger": ("sparse", "dense", "hybrid")}
K = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--data", default="amazon2014_beauty", help="name of the data set")
    options = parser.parse_args()
    for path in options.runs:
        model = load_model(RunFolder(path).require_model())
        test = PreparedData.load(RunFolder(path).data).split("test")
        for way in WAYS[model.config.model_type]:
            start = time.process_time()
            rows, _ = model.recommend_rows(test.histories, K, retrieval=way, exclude_seen=False)
            seconds = time.process_time() - start
            row = {
                "cell": f"{path.name} {way}",
                "command": f"python -m benchmarks.heads runs/quality/{path.name}",
                "date": environment()["date"],
                "recall@10": float(recall_at_k(rows, test.targets, K).mean()),
                "ndcg@10": float(ndcg_at_k(rows, test.targets, K).mean()),
                "users_per_cpu_second": len(rows) / seconds,
            }
            write_row("heads", options.data, row)
            print(row, flush=True)


if __name__ == "__main__":
    main()
