"""What a long post-training of REG4Rec did: its rewards and figures from beginning to end, and its last checkpoint
against the model it started from.

    hf-genrec grpo --config grpo/reg4rec-ml-100k-published --pretrained RUN --output_dir runs/grpo-published \\
        --report_to none --logging_steps 50
    OMP_NUM_THREADS=1 python -m benchmarks.grpo_epochs runs/grpo-published ...

The run is finished and its first and last checkpoints are there. Both recommend to all validation users; the difference
is user by user, with its 95 % bootstrap interval. A row per run goes to benchmarks/results/grpo_epochs-ml-100k.jsonl.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cells import write_row
from benchmarks.grpo_quality import DATA, course, per_user
from benchmarks.measure import environment
from hf_genrec.evaluation.metrics import paired_bootstrap_difference
from hf_genrec.training.run_folder import RunFolder

KIND = "grpo_epochs"
REWARDS = ("step_hit", "category_hit", "consistency", "path")
KEPT = ("reward", *(f"rewards/{name}/mean" for name in REWARDS), "kl", "entropy")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of finished runs of hf-genrec grpo")
    for path in parser.parse_args().runs:
        write_row(KIND, DATA, row_of(RunFolder(path)) | {name: environment()[name] for name in ("date", "versions")})
        print(f"{path.name}: finished")


def row_of(run: RunFolder) -> dict[str, Any]:
    record = json.loads((run.results / "training.json").read_text(encoding="utf-8"))
    steps = [line for line in record["log"] if "reward" in line and "train_runtime" not in line]
    first, last = (per_user(run.checkpoints / f"checkpoint-{step}", run.data) for step in (0, record["steps"]))
    return {
        "cell": run.path.name,
        "epochs": record["epochs"],
        "steps": record["steps"],
        "cpu_minutes": record["cpu_seconds"] / 60,
        "clipped": float(np.mean([line.get("clip_ratio/region_mean", 0.0) for line in steps])),
        **course(steps, KEPT),
        "validation_ndcg@10": {line["step"]: line["eval_ndcg@10"] for line in record["log"] if "eval_ndcg@10" in line},
        "last": {
            metric: [values.mean(), last[metric].mean(), *paired_bootstrap_difference(last[metric], values)]
            for metric, values in first.items()
        },
    }


if __name__ == "__main__":
    main()
