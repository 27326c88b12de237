"""REG4Rec's ablation (arXiv 2508.15308, its table of variants) at the size of a processor.

    export OMP_NUM_THREADS=1
    python -m benchmarks.reg4rec_ablation --data data/amazon2014_beauty
    python -m benchmarks.reg4rec_ablation --data data/amazon2014_beauty --table
    python -m benchmarks.reg4rec_ablation --data data/amazon2014_beauty --variants full --against rearec-none

Every variant is a pretrained cell of `benchmarks.quality` and what is done with it: post-training by GRPO with the four
rewards (PARS) over the next three items (MSRA), and reflection when recommending (CORP). Four codebooks of 300 codes,
which half an hour on a processor teaches better than the published eight. All validation users choose among the model
that post-training starts from and its checkpoints, so it may end where it began: a JSON has their figures by step.

- full: parallel codebooks, the surest first, all of it;
- without MPQ: codes of an RQ-VAE of the same number and size, which are written in their order;
- without CRSS: parallel codebooks in a fixed order;
- fixed order when recommending: the full model, whose codes are asked for in a fixed order;
- without PARS: not post-trained;
- without MSRA: post-trained on the next item alone;
- without CORP: no code is taken back;
- without lookahead: paths are judged by their codes, not by the items they lead to (this library's addition);
- published search: without lookahead, and CORP takes a code back at a divergence of 0.06 instead of 0.45;
- 2, 8, 12 codebooks: not post-trained, to be read beside "without PARS", which has four.

One JSON per variant, data set and seed; finished ones are skipped, a training that was interrupted goes on. Ten items
are asked for, with the 20 beams that `recommend` then takes (`benchmarks.quality` asks a cell for 20, with 40 beams).
The rank of every user's item is kept, so that `--table` compares each variant with the full model user by user: the
mean over the seeds that both have, and its 95 % bootstrap interval over users. `--against` compares with a finished
cell of `benchmarks.quality` as that program does.
"""

import argparse
import json
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import comparisons, quality
from benchmarks.cells import metrics_of_users, ranks_of, read_ranks, read_rows, write_ranks, write_row
from benchmarks.grpo_quality import course
from benchmarks.measure import environment
from benchmarks.quality import plan_cell, train_cell
from benchmarks.quality_methods import DATA_SETS, METHODS
from hf_genrec.data.prepared import PreparedData
from hf_genrec.evaluation.evaluator import evaluate_recommender
from hf_genrec.evaluation.metrics import paired_bootstrap_difference
from hf_genrec.method import load_model
from hf_genrec.post_training.grpo_arguments import parse_grpo_config
from hf_genrec.trainers import train_grpo
from hf_genrec.training.run_folder import RunFolder

logger = logging.getLogger(__name__)

# CORP's theta was chosen on validation users: 0.06, as published, 0.15 and 0.3 take back codes that were right.
WITH_CORP, WITHOUT_CORP = {"reflection_threshold": 0.45}, {"reflection_threshold": float("inf")}
# The pretrained cell, the items that count as targets in post-training (0: none), and how it recommends.
VARIANTS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "full": ("reg4rec-4-codebooks", 3, WITH_CORP),
    "without MPQ": ("reg4rec-4-codebooks-residual", 3, WITH_CORP),
    "without CRSS": ("reg4rec-4-codebooks-fixed-order", 3, WITH_CORP),
    "fixed order when recommending": ("reg4rec-4-codebooks", 3, WITH_CORP | {"order": "fixed"}),
    "without PARS": ("reg4rec-4-codebooks", 0, WITH_CORP),
    "without MSRA": ("reg4rec-4-codebooks", 1, WITH_CORP),
    "without CORP": ("reg4rec-4-codebooks", 3, WITHOUT_CORP),
    "without lookahead": ("reg4rec-4-codebooks", 3, WITH_CORP | {"lookahead": False}),
    "published search": ("reg4rec-4-codebooks", 3, {"reflection_threshold": 0.06, "lookahead": False}),
    "2 codebooks": ("reg4rec-2-codebooks", 0, WITH_CORP),
    "8 codebooks": ("reg4rec", 0, WITH_CORP),
    "12 codebooks": ("reg4rec-12-codebooks", 0, WITH_CORP),
}
KIND = "reg4rec_ablation"
SPLITS, METRICS = ("validation", "test"), ("recall@10", "ndcg@10")
REWARDS = ("step_hit", "category_hit", "consistency", "path")
COURSE = (*(f"rewards/{name}/mean" for name in REWARDS), "kl", "entropy")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help=f"folder of a data set, one of {', '.join(DATA_SETS)}")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS, metavar="VARIANT")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--minutes", type=float, default=25, help="CPU minutes of pretraining")
    parser.add_argument("--steps", type=int, default=200, help="steps of post-training")
    parser.add_argument("--work", type=Path, default=Path("runs/quality"), help="folder of the runs")
    parser.add_argument("--table", action="store_true", help="print the finished variants and stop")
    parser.add_argument("--against", choices=METHODS, metavar="METHOD", help="compare finished variants and stop")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if options.data.name not in DATA_SETS:
        parser.error(f"--data: name a folder called {' or '.join(DATA_SETS)}")
    if options.against is not None:
        print(compare(options))
        return
    for seed in [] if options.table else options.seeds:
        for variant in options.variants:
            run_variant(variant, seed, options)
    print(table(options.data.name))


def compare(options: argparse.Namespace) -> str:
    """Each variant against a method of `benchmarks.quality` at its usual budget, over the seeds."""
    data, prepared = options.data.name, comparisons.prepared_data(options.data, options.work)
    other = [quality.cell_name(options.against, options.data, seed, quality.MINUTES) for seed in options.seeds]
    lines = []
    for variant in options.variants:
        mine = [cell_name(variant, data, seed) for seed in options.seeds]
        named = f"{KIND} {variant} against {options.against}"
        lines.append(comparisons.compare(data, named, {"seeds": options.seeds}, mine, other, prepared))
    return "\n".join(lines)


def run_variant(variant: str, seed: int, options: argparse.Namespace) -> None:
    """Bring one variant to its row."""
    cell, data = f"{variant}, seed {seed}", options.data.name
    if any(row["cell"] == cell for row in read_rows(KIND, data)):
        return
    method, horizon, search = VARIANTS[variant]
    pretrained = train_cell(plan_cell(method, options.data, seed, options.minutes, options.work))
    run = post_train(pretrained, horizon, seed, options.steps) if horizon else pretrained
    model, prepared = load_model(run.model), PreparedData.load(run.data)
    record: dict[str, Any] = {
        "cell": cell,
        "variant": variant,
        "seed": seed,
        "command": f"python -m benchmarks.reg4rec_ablation --data {options.data.name} --seeds {seed}",
        **{name: environment()[name] for name in ("date", "versions")},
    }
    for stage, folder in ({"pretraining": pretrained} | ({"post_training": run} if horizon else {})).items():
        training = json.loads((folder.results / "training.json").read_text(encoding="utf-8"))
        of_steps = {line["step"]: line["eval_ndcg@10"] for line in training["log"] if "eval_ndcg@10" in line}
        record[stage] = {"cpu_minutes": training["cpu_seconds"] / 60, "epochs": training["epochs"]}
        record[stage] |= {"validation_ndcg@10": of_steps, "best_step": training["best_step"]}
        if stage == "post_training":
            record[stage] |= course(training["log"], COURSE)
    ranks: dict[str, np.ndarray] = {}
    for split in SPLITS:
        record[split], ranks[split] = evaluate(model, prepared, split, search)
    write_ranks(cell_name(variant, data, seed), ranks)
    write_row(KIND, data, record)
    logger.info("%s, seed %d: finished", variant, seed)


def post_train(pretrained: RunFolder, horizon: int, seed: int, steps: int) -> RunFolder:
    """The run that GRPO makes of a pretrained one; what is finished is not done again."""
    run = RunFolder(pretrained.path.with_name(f"{pretrained.path.name}-grpo-horizon{horizon}"))
    if not (run.model / "config.json").is_file():
        changes = {
            "pretrained": pretrained.path, "output_dir": run.path, "horizon": horizon, "seed": seed, "max_steps": steps,
            "eval_strategy": "steps", "eval_steps": steps // 2, "save_steps": steps // 2,
            "report_to": "none", "disable_tqdm": True, "resume_from_checkpoint": "last",
        }  # fmt: skip
        overrides = [part for name, value in changes.items() for part in (f"--{name}", str(value))]
        train_grpo.main(parse_grpo_config("grpo/reg4rec-ml-100k", overrides))
    return run


def evaluate(
    model: Any, prepared: PreparedData, split: str, search: dict[str, Any]
) -> tuple[dict[str, Any], np.ndarray]:
    """Figures of a split, and of every user the rank of the item, 0 where it is not among ten."""
    rollbacks: list[np.ndarray] = []

    def recommend(histories: list[np.ndarray], k: int) -> np.ndarray:
        rows, _, lost = model.recommend_rows(histories, k, return_rollbacks=True, **search)
        rollbacks.append(lost)
        return rows

    start = time.process_time()
    result = evaluate_recommender(recommend, prepared.split(split), len(prepared.item_ids), ks=(10,))
    figures: dict[str, Any] = {name: [result.metrics[name], *result.intervals[name]] for name in METRICS}
    return figures | {
        "invalid_share": result.metrics["invalid_share"],
        "mean_rollbacks": float(np.concatenate(rollbacks).mean()),
        "cpu_ms_per_user": 1000 * (time.process_time() - start) / result.num_users,
    }, ranks_of(result.per_user, 10)


def cell_name(variant: str, data: str, seed: int) -> str:
    return f"{KIND}-{variant.replace(' ', '-')}-{data}-seed{seed}"


def table(data: str) -> str:
    """The finished variants of a data set, and how each differs from the full model."""
    lines = ["variant            seed   validation        test           rollbacks   ms/user"]
    finished = {(row["variant"], row["seed"]): row for row in read_rows(KIND, data)}
    for (variant, seed), record in sorted(
        finished.items(), key=lambda item: (item[0][1], [*VARIANTS].index(item[0][0]))
    ):
        figures = "  ".join(f"{record[split][name][0]:.4f}" for split in SPLITS for name in METRICS)
        test = record["test"]
        lines.append(
            f"{variant:<18} {seed:>4}   {figures}  {test['mean_rollbacks']:8.2f}  {test['cpu_ms_per_user']:8.1f}"
        )
    lines += ["", "less the full model, mean of the seeds that both have"]
    for variant in [*VARIANTS][1:]:
        seeds = [seed for name, seed in finished if name == variant and ("full", seed) in finished]
        ranks = [[read_ranks(cell_name(name, data, seed)) for seed in seeds] for name in (variant, "full")]
        for split in SPLITS if seeds else ():
            mine, full = ([metrics_of_users(of_seed[split]) for of_seed in of_model] for of_model in ranks)
            for metric in METRICS:
                means = [np.mean([of_seed[metric] for of_seed in of_model], axis=0) for of_model in (mine, full)]
                difference, low, high = paired_bootstrap_difference(*means)
                lines.append(
                    f"{variant:<18} {f'{split} {metric}':<21} {difference:+.4f} [{low:+.4f}, {high:+.4f}]"
                    f"  {len(seeds)} seed{'s' if len(seeds) > 1 else ''}"
                )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
