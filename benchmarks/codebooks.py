"""REG4Rec with few and many codebooks after equal epochs: does one more add anything? And where experts start.

    OMP_NUM_THREADS=1 python -m benchmarks.codebooks --data data/ml-100k --codebooks 4 8 --starts parted shared
    OMP_NUM_THREADS=1 python -m benchmarks.codebooks --data data/ml-100k --codebooks 4 8 --epochs 12

Trains `reg4rec/ml-100k` with M codebooks of 64 codes, codes and model by one seed, and evaluates both splits: a row a
cell in `benchmarks/results/codebooks-ml-100k.jsonl`. `next_bits` are of each codebook, what the code of a user's newest
item says of the code of the next one, above what chance gives (the health report's); `common_bits` what two codebooks
say of the same item. `fixed order` is the same model, asked for its codes one after the other instead of the surest
first. Lists leave the history out. Finished cells are skipped, an interrupted training goes on.

`parted` is the library's start of the experts: each has principal directions of its own, expert r every M-th from the
r-th on. By `shared` all have the first ones, each with random lengths.
"""

import argparse
import json
import logging
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.cells import read_rows, write_row
from benchmarks.measure import environment
from benchmarks.trained_runs import trained_run
from hf_genrec.data.prepared import PreparedData
from hf_genrec.evaluation.evaluator import evaluate_recommender
from hf_genrec.item_tokenizers.modeling_mpq import MpqTokenizer
from hf_genrec.method import load_model
from hf_genrec.semantic_ids import learned
from hf_genrec.semantic_ids.health import information_above_chance
from hf_genrec.semantic_ids.ids import SemanticIds
from hf_genrec.semantic_ids.parts import principal_components
from hf_genrec.training.config import parse_config

KIND, CODES = "codebooks", 64
START_SPREAD = 0.5  # standard deviation of the logarithm of the directions' lengths
SPLITS, METRICS = ("validation", "test"), ("recall@10", "ndcg@10")
ORDERS: dict[str, dict[str, Any]] = {"": {}, ", fixed order": {"order": "fixed"}}
logger = logging.getLogger(__name__)


@torch.no_grad()
def shared_start(tokenizer: MpqTokenizer, parts: dict[str, np.ndarray]) -> None:
    latent_dim, experts = tokenizer.config.latent_dim, tokenizer.num_experts
    directions = min(latent_dim, tokenizer.config.vector_dim)
    components = torch.from_numpy(principal_components(tokenizer, parts, directions)).T
    weight = tokenizer.experts.projection.weight.view(experts, latent_dim, -1)
    weight *= learned.START_NOISE / weight.norm(dim=2, keepdim=True)
    weight[:, :directions] += torch.exp(START_SPREAD * torch.randn(experts, directions, 1)) * components


STARTS = {"parted": learned.start_experts, "shared": shared_start}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of MovieLens 100K")
    parser.add_argument("--codebooks", nargs="+", type=int, default=[4, 8])
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=["parted"])
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--work", type=Path, default=Path("runs/codebooks"), help="folder of the runs")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for seed in options.seeds:
        for count in options.codebooks:
            for start in options.starts:
                run_cell(count, start, seed, options)


def run_cell(count: int, start: str, seed: int, options: argparse.Namespace) -> None:
    """Bring one cell to its row."""
    cell, data = f"{count} codebooks, {start} start, {options.epochs} epochs, seed {seed}", options.data.name
    if any(row["cell"] == cell for row in read_rows(KIND, data)):
        return
    given: dict[str, Any] = {
        "source_path": options.data, "output_dir": options.work / f"{count}-{start}-{options.epochs}-{seed}",
        "seed": seed, "tokenizer_seed": seed, "num_train_epochs": options.epochs, "report_to": "none",
        "disable_tqdm": True, "resume_from_checkpoint": "last",
    }  # fmt: skip
    overrides = [part for name, value in given.items() for part in (f"--{name}", str(value))]
    learned.start_experts = STARTS[start]
    run = trained_run(parse_config("reg4rec/ml-100k", [*overrides, "--codebook_sizes", *[str(CODES)] * count]))
    model, prepared = load_model(run.model), PreparedData.load(run.data)
    training = json.loads((run.results / "training.json").read_text(encoding="utf-8"))
    health = json.loads((run.semantic_ids / "health.json").read_text(encoding="utf-8"))
    row: dict[str, Any] = {"cell": cell, "codebooks": count, "start": start, "seed": seed}
    row |= {"epochs": training["epochs"], "cpu_minutes": training["cpu_seconds"] / 60}
    row["best_epoch"] = training["best_step"] / training["steps"] * training["epochs"]
    row |= {"next_bits": [level["next_bits"] for level in health["levels"]], "date": environment()["date"]}
    row["common_bits"] = common_bits(SemanticIds.load(run.semantic_ids).codes)
    row["share_with_codes_of_others"] = health["collisions"]["before"]["items"] / len(prepared.item_ids)
    for split in SPLITS:
        for name, order in ORDERS.items():
            found = evaluate_recommender(
                lambda histories, k, order=order: model.recommend_rows(histories, k, exclude_seen=True, **order)[0],
                prepared.split(split),
                len(prepared.item_ids),
                ks=(10,),
            )
            row[split + name] = {metric: found.metrics[metric] for metric in METRICS}
    write_row(KIND, data, row)
    logger.info("%s: finished", cell)


def common_bits(codes: np.ndarray) -> float:
    """What two codebooks say of the same items, (N, M), on average of all pairs, above chance."""
    return float(np.mean([information_above_chance(*pair, CODES) for pair in combinations(codes.T, 2)]))


if __name__ == "__main__":
    main()
