"""Accuracy of STREAM against the number of thinking tokens, and what random traces of the same length do.

    export OMP_NUM_THREADS=1
    python -m benchmarks.thinking_tokens --data data/ml-100k
    python -m benchmarks.thinking_tokens --data data/ml-100k --table

All cells start from one TIGER, the first stage, and are trained for equally many epochs at the shipped configuration.
Without thinking tokens that is TIGER trained on. With them the targets are those whose residual traces are kept, of
random traces too. Finished cells are skipped, a training that was interrupted goes on. The best epoch is chosen on the
validation split, the test split is read once.
"""

import argparse
import json
import logging
import time
from pathlib import Path
from typing import Any

from benchmarks.cells import read_rows, write_row
from benchmarks.measure import environment
from benchmarks.trained_runs import trained_run
from hf_genrec.data.prepared import PreparedData
from hf_genrec.evaluation.evaluator import evaluate_recommender
from hf_genrec.method import load_model
from hf_genrec.training.config import RunConfig, parse_config

logger = logging.getLogger(__name__)

KIND = "thinking_tokens"
SPLITS, METRICS = ("validation", "test"), ("recall@10", "ndcg@10")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of MovieLens 100K")
    parser.add_argument("--lengths", nargs="+", type=int, default=[0, 2, 4, 6], help="thinking tokens")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--epochs", type=int, default=4, help="of the first stage, and again of each cell")
    parser.add_argument("--work", type=Path, default=Path("runs/thinking_tokens"), help="folder of the runs")
    parser.add_argument("--table", action="store_true", help="print the finished cells and stop")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for seed in [] if options.table else options.seeds:
        for length in options.lengths:
            for traces in ("residual", "random") if length else ("none",):
                run_cell(traces, length, seed, options)
    print(table(options.data.name))


def run_cell(traces: str, length: int, seed: int, options: argparse.Namespace) -> None:
    """Bring one cell to its row."""
    cell, data = f"{options.epochs} epochs, {length} {traces}, seed {seed}", options.data.name
    if any(row["cell"] == cell for row in read_rows(KIND, data)):
        return
    stage1 = options.work / f"stage1-{options.epochs}-{seed}"
    trained_run(configuration("tiger/ml-100k", stage1, seed, options))
    kept = ["--traces", traces] if length else []
    place = options.work / f"{options.epochs}-{length}-{traces}-{seed}"
    own = ["--num_thinking_tokens", str(length), "--stage1_run", str(stage1), *kept]
    folder = trained_run(configuration("stream/ml-100k", place, seed, options, *own))
    training = json.loads((folder.results / "training.json").read_text(encoding="utf-8"))
    row: dict[str, Any] = {
        "cell": cell,
        "traces": traces,
        "length": length,
        "epochs": options.epochs,
        "seed": seed,
        "command": f"python -m benchmarks.thinking_tokens --data {data} --seeds {seed} --epochs {options.epochs}",
        **{name: environment()[name] for name in ("date", "versions")},
        "cpu_minutes": training["cpu_seconds"] / 60,
        "targets": training["num_targets"],
    }
    model, prepared = load_model(folder.model), PreparedData.load(folder.data)
    for split in SPLITS:
        start = time.process_time()
        result = evaluate_recommender(
            lambda histories, k: model.recommend_rows(histories, k)[0],
            prepared.split(split),
            len(prepared.item_ids),
            ks=(10,),
        )
        row[split] = {name: [result.metrics[name], *result.intervals[name]] for name in METRICS}
        row[split]["cpu_ms_per_user"] = 1000 * (time.process_time() - start) / result.num_users
    write_row(KIND, data, row)
    logger.info("%s: finished", cell)


def configuration(name: str, run: Path, seed: int, options: argparse.Namespace, *own: str) -> RunConfig:
    settings = {
        "source_path": options.data, "output_dir": run, "seed": seed, "num_train_epochs": options.epochs,
        "resume_from_checkpoint": "last", "report_to": "none", "disable_tqdm": True,
    }  # fmt: skip
    overrides = [part for key, value in settings.items() for part in (f"--{key}", str(value))]
    return parse_config(name, [*overrides, *(["--teachers", "{}"] if name.startswith("stream") else []), *own])


def table(data: str) -> str:
    """The finished cells of a data set, as a Markdown table."""
    lines = [
        "| thinking tokens | traces | epochs | seed | validation Recall@10, NDCG@10 | test | CPU min | ms a user |",
        "|---|---|---|---|---|---|---:|---:|",
    ]
    rows = sorted(read_rows(KIND, data), key=lambda row: (row["epochs"], row["seed"], row["length"], row["traces"]))
    for row in rows:
        figures = [", ".join(f"{row[split][name][0]:.4f}" for name in METRICS) for split in SPLITS]
        lines.append(
            f"| {row['length']} | {row['traces']} | {row['epochs']} | {row['seed']} | {' | '.join(figures)} | "
            f"{row['cpu_minutes']:.1f} | {row['test']['cpu_ms_per_user']:.1f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
