"""What post-training does to accuracy: cells that differ in a field or two, from one trained run of CARE.

    export OMP_NUM_THREADS=1
    python -m benchmarks.grpo_quality --run runs/care-ml-100k --cells default beta-0.1
    python -m benchmarks.grpo_quality --run runs/care-ml-100k --cells default fp8 --steps 50
    python -m benchmarks.grpo_quality --table

Each cell trains from the run's model and compares both the last and the best checkpoint with that model, user by user
on the whole validation split: difference of Recall@1, @10, @50 and NDCG@10 with its 95 % bootstrap interval. The best
checkpoint was chosen on the same users, the last one was not. Finished cells are skipped. CPU seconds are those of the
training without evaluations.
"""

import argparse
import functools
import itertools
import json
import logging
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cells import read_rows, write_row
from benchmarks.measure import environment
from hf_genrec.data.prepared import PreparedData
from hf_genrec.evaluation.metrics import ndcg_at_k, paired_bootstrap_difference, recall_at_k
from hf_genrec.method import load_model
from hf_genrec.post_training.grpo_arguments import parse_grpo_config
from hf_genrec.trainers import train_grpo
from hf_genrec.training.run_folder import RunFolder

# What the cells change; not the shipped configuration, whose learning rate was chosen by them.
BASE = {
    "rewards": "hit prefix", "reward_weights": "1.0 1.0", "horizon": 1, "num_generations": 16, "temperature": 1.0,
    "beta": 0.01, "per_device_train_batch_size": 512, "learning_rate": 1e-4,
}  # fmt: skip
CELLS: dict[str, dict[str, Any]] = {
    "default": {},
    "hit-only": {"rewards": "hit", "reward_weights": 1.0},
    "hit-rank": {"rewards": "hit rank", "reward_weights": "1.0 1.0"},
    "unscaled": {"scale_rewards": "none", "learning_rate": 1e-3},
    "entropy-0.05": {"entropy_coef": 0.05},
    "horizon-3": {"horizon": 3},
    "temperature-0.7": {"temperature": 0.7},
    "temperature-1.5": {"temperature": 1.5},
    "beta-0": {"beta": 0.0},
    "beta-0.1": {"beta": 0.1},
    "beta-1": {"beta": 1.0},
    "batch-4096": {"per_device_train_batch_size": 4096},
    "group-8": {"num_generations": 8},
    "group-64": {"num_generations": 64},
    "rate-3e-5": {"learning_rate": 3e-5},
    "rate-3e-4": {"learning_rate": 3e-4},
    "rate-1e-3": {"learning_rate": 1e-3},
    "lora": {"lora_r": 8, "learning_rate": 1e-3},
    "bf16": {"layer_precision": "bf16"},
    "fp8": {"layer_precision": "fp8"},
    "adaptive": {"layer_precision": "adaptive", "layer_precision_steps": 25},
}
KIND, DATA = "grpo_quality", "ml-100k"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="run folder of the model to start from")
    parser.add_argument("--cells", nargs="+", default=["default"], choices=CELLS, metavar="CELL")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--work", type=Path, default=Path("runs/grpo-quality"), help="folder of the runs")
    parser.add_argument("--table", action="store_true", help="print the finished cells and stop")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if not options.table and options.run is None:
        parser.error("--run: name the run to start from")
    finished = {(row["name"], row["steps"], row["seed"]) for row in read_rows(KIND, DATA)}
    for cell in [] if options.table else options.cells:
        if (cell, options.steps, options.seed) not in finished:
            write_row(
                KIND, DATA, run_cell(cell, options) | {name: environment()[name] for name in ("date", "versions")}
            )
    print(table())


def run_cell(cell: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train a cell and compare it with the model it started from."""
    folder = options.work / f"{cell}-{options.steps}-{options.seed}"
    changes = {
        "pretrained": options.run, "output_dir": folder, "max_steps": options.steps, "seed": options.seed,
        "eval_steps": max(options.steps // 4, 1), "save_steps": max(options.steps // 4, 1),
        "logging_steps": max(options.steps // 40, 1),
        "eval_on_start": False, "report_to": "none", "disable_tqdm": True, "resume_from_checkpoint": "last",
    } | BASE | CELLS[cell]  # fmt: skip
    overrides = [part for name, value in changes.items() for part in (f"--{name}", *str(value).split())]
    train_grpo.main(parse_grpo_config("grpo/ml-100k", overrides))

    data = options.run / "data"
    before = per_user(options.run / "model", data)
    run = RunFolder(folder)
    checkpoints = {"last": run.checkpoints / f"checkpoint-{options.steps}", "best": run.model}
    if not (checkpoints["last"] / "config.json").is_file():
        del checkpoints["last"]  # of adapters only
    differences = {}
    for name, place in checkpoints.items():
        after = per_user(place, data)
        differences[name] = {
            metric: dict(
                zip(("difference", "low", "high"), paired_bootstrap_difference(after[metric], values), strict=True)
            )
            | {"before": float(values.mean()), "after": float(after[metric].mean())}
            for metric, values in before.items()
        }
    log = json.loads((run.results / "training.json").read_text(encoding="utf-8"))["log"]
    kept = ("reward", "rewards/hit/mean", "kl", "entropy", "frac_reward_zero_std")
    return {
        "cell": f"{cell}, {options.steps} steps, seed {options.seed}",
        "name": cell,
        "steps": options.steps,
        "seed": options.seed,
        "settings": {name: str(value) for name, value in (BASE | CELLS[cell]).items()},
        "cpu_seconds_per_step": float(np.median(training_cost(log))),
        **course(log, kept),
        "precisions": [Counter(line["layer_precision"].values()) for line in log if "layer_precision" in line],
        "differences": differences,
    }


def course(log: list[dict[str, Any]], names: Iterable[str]) -> dict[str, dict[str, float]]:
    """What a post-training logged of its steps, by name: means of the first (`start`) and the last tenth (`end`)."""
    lines = [line for line in log if "reward" in line]
    tenth = max(len(lines) // 10, 1)
    ends = {"start": lines[:tenth], "end": lines[-tenth:]}
    return {
        end: {name: float(np.mean([line[name] for line in of_end if name in line] or [0])) for name in names}
        for end, of_end in ends.items()
    }


def training_cost(log: list[dict[str, Any]]) -> list[float]:
    """CPU seconds of a step, between lines of the log with no evaluation or decision between them."""
    costs = []
    for first, second in itertools.pairwise(log):
        if "reward" in first and "reward" in second:
            costs.append((second["cpu_seconds"] - first["cpu_seconds"]) / (second["step"] - first["step"]))
    return costs


@functools.cache
def per_user(folder: Path, data: Path) -> dict[str, np.ndarray]:
    """Metrics of every validation user, (users,) each; lists of 50 by 100 beams."""
    split = PreparedData.load(data).split("validation")
    rows, _ = load_model(folder).recommend_rows(split.histories, 50)
    return {
        "recall@1": recall_at_k(rows, split.targets, 1),
        "recall@10": recall_at_k(rows, split.targets, 10),
        "ndcg@10": ndcg_at_k(rows, split.targets, 10),
        "recall@50": recall_at_k(rows, split.targets, 50),
    }


def table() -> str:
    lines = []
    for record in read_rows(KIND, DATA):
        start, end = record["start"], record["end"]
        lines.append(
            f"{record['name']} ({record['steps']} steps, {record['cpu_seconds_per_step']:.2f} CPU s each): reward "
            f"{start['reward']:.3f} -> {end['reward']:.3f}, hit {start['rewards/hit/mean']:.4f} -> "
            f"{end['rewards/hit/mean']:.4f}, entropy {start['entropy']:.2f} -> {end['entropy']:.2f}, kl {end['kl']:.3f}"
        )
        for name, metrics in record["differences"].items():
            shown = (
                f"{metric} {value['before']:.4f} {value['difference']:+.4f} [{value['low']:+.4f}, {value['high']:+.4f}]"
                for metric, value in metrics.items()
            )
            lines.append(f"    {name}: " + "; ".join(shown))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
