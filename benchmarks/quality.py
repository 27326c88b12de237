"""Quality at an equal budget: one command and one JSON per cell (method, data set, seed, CPU minutes).

    export OMP_NUM_THREADS=1
    python -m benchmarks.quality --data data/amazon2014_beauty --methods care care-dropout --plan   # on an idle machine
    python -m benchmarks.quality --data data/amazon2014_beauty --methods care care-dropout
    python -m benchmarks.quality --table
    python -m benchmarks.quality --data data/amazon2014_beauty --seeds 1 2 3 --methods rearec-erl --against rearec-none

A cell is one configuration of `configs/` with a few fields changed. Its epochs are planned so that training, with the
evaluations that choose the checkpoint, takes the budget of CPU time on this machine; the plan is kept, in the folder of
the run and in the row, so that a cell that was interrupted or is run again goes on to the same end, and holds for all
seeds. Finished cells are skipped. The checkpoint is chosen on validation users; the result holds the whole validation
and test splits, with the items of the history and without them, and `results/ranks` the rank of every user's item.
Evaluations of a model that scores all items by one product are cheap: one an epoch, and a training ends before the
budget when five of them bring nothing. What a training begins with, such as a pretraining, is a part of the budget.
ReaRec's reasoning models are calibrated for adaptive depth, too.

`--against` compares finished cells user by user, by these ranks: the mean over seeds of each user's figures, their
difference and its 95 % bootstrap interval over users; of the test split by groups of users, too.
"""

import argparse
import json
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks import comparisons
from benchmarks.cells import metrics_of_users, ranks_of, read_rows, write_ranks, write_row
from benchmarks.comparisons import prepared_data
from benchmarks.measure import environment
from benchmarks.quality_methods import AS_PUBLISHED, CELLS_OF, CHEAPLY_EVALUATED, CODES_OF, DATA_SETS, METHODS
from benchmarks.trained_runs import trained_run
from benchmarks.user_groups import RARE, user_groups
from hf_genrec.data.prepared import PreparedData
from hf_genrec.files import whole_file
from hf_genrec.method import load_method
from hf_genrec.methods.rearec import calibrate_depth_run
from hf_genrec.methods.rearec.arguments import ReaRecArguments
from hf_genrec.trainers import evaluate_run, prepare_data, tokenize_items
from hf_genrec.training.config import RunConfig, find_config, parse_config
from hf_genrec.training.run_folder import RunFolder

logger = logging.getLogger(__name__)

KIND = "quality"
METRICS = (
    "recall@5",
    "ndcg@5",
    "recall@10",
    "ndcg@10",
    "recall@20",
    "ndcg@20",
    "mrr@10",
    "div_ratio@10",
    "or_ratio@10",
)
METRICS += ("coverage@10", "gini@10", "invalid_share")
EVALUATED = ("validation", "test", "validation-unseen", "test-unseen")  # unseen: items of the history left out
EVALUATIONS, EVAL_USERS = 6, 5000  # during a training of a model that decodes
MINUTES = 30  # the usual budget
ROUNDS = 3  # of measurements that plan a cell, of which the quickest counts: what else the machine does only adds
SEEDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help=f"folder of a data set, one of {', '.join(DATA_SETS)}")
    parser.add_argument("--methods", nargs="+", default=["care"], choices=METHODS, metavar="METHOD")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--minutes", type=float, default=MINUTES, help="CPU minutes of training")
    parser.add_argument("--work", type=Path, default=Path("runs/quality"), help="folder of the runs")
    parser.add_argument("--plan", action="store_true", help="only prepare the cells and plan their epochs")
    parser.add_argument("--against", choices=METHODS, metavar="METHOD", help="compare finished cells and stop")
    parser.add_argument("--against-minutes", type=float, default=MINUTES, help="the other cells' CPU minutes")
    parser.add_argument("--table", action="store_true", help="print the finished cells and stop")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if options.table:
        print(table())
        return
    if options.data is None or options.data.name not in DATA_SETS:
        parser.error(f"--data: name a folder called {' or '.join(DATA_SETS)}")
    if options.against is not None:
        print(compare(options))
        return
    for seed in options.seeds:
        for method in options.methods:
            config_file = plan_cell(method, options.data, seed, options.minutes, options.work)
            if not options.plan:
                run_cell(config_file, method, options.data.name, seed, options.minutes)


def plan_cell(method: str, data: Path, seed: int, minutes: float, work: Path) -> Path:
    """The configuration of a cell, in its run folder; its data, codes and number of epochs are made once."""
    folder = work / cell_name(method, data, seed, minutes)
    config_file = folder / "config.yaml"
    if not config_file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        kind = method.split("-")[0]
        base = find_config(f"{kind}/{DATA_SETS[data.name]}" + ("-published" if kind in AS_PUBLISHED else ""))
        fields = without_teachers(yaml.safe_load(base.read_text(encoding="utf-8"))) | METHODS[method]
        fields |= {"source_path": str(data), "output_dir": str(folder), "seed": seed, "disable_tqdm": True}
        fields |= {"report_to": "none", "early_stopping_patience": 5}
        if kind not in CHEAPLY_EVALUATED:
            fields |= {"eval_strategy": "steps", "save_strategy": "steps", "eval_users": EVAL_USERS}
            fields |= {"eval_steps": 1 / EVALUATIONS, "save_steps": 1 / EVALUATIONS}
        if "codes_path" in fields:
            fields["codes_path"] = str(data / fields["codes_path"])
        for key in set(CELLS_OF) & fields.keys():
            cells = [named_cell(name, data, seed, work) for name in in_list(fields[key])]
            fields[key] = cells[0] if isinstance(fields[key], str) else cells
        config = parse_config(str(_write_yaml(fields, folder / "unplanned.yaml")))
        prepare_data.main(config)
        if "members_runs" in fields:  # trained already
            return _write_yaml(fields, config_file)
        tokenize_items.main(config)
        planned = planned_epochs(method, data, minutes, work)
        fields["num_train_epochs"] = plan_epochs(config, minutes) if planned is None else planned
        _write_yaml(fields, config_file)
    return config_file


def planned_epochs(method: str, data: Path, minutes: float, work: Path) -> float | None:
    """Of the same cell with any seed, where it has been planned: in its folder, or else in its row."""
    folders = sorted(work.glob(f"{cell_name(method, data, '*', minutes)}/config.yaml"))
    epochs = [yaml.safe_load(path.read_text(encoding="utf-8"))["num_train_epochs"] for path in folders]
    rows = [row for row in read_rows(KIND, data.name) if row["method"] == method and row.get("minutes") == minutes]
    epochs += [row["training"]["planned_epochs"] for row in rows if "planned_epochs" in row["training"]]
    return next(iter(epochs), None)


def without_teachers(fields: dict[str, Any]) -> dict[str, Any]:
    """A configuration's own keys: what a cell learns from are other cells, which it names itself."""
    of_teachers = {key for key in fields if key in CELLS_OF and fields[key] in list(fields.get("teachers", {}))}
    of_teachers |= {key for key in fields if key == "teachers" or key.startswith("soft_targets_")}
    return {key: value for key, value in fields.items() if key not in of_teachers}


def run_cell(config_file: Path, method: str, data: str, seed: int, minutes: float) -> None:
    """Bring one cell to its row, from wherever an earlier attempt ended."""
    cell = config_file.parent.name
    if any(row["cell"] == cell for row in read_rows(KIND, data)):
        logger.info("%s is finished", cell)
        return
    config, run = parse_config(str(config_file)), train_cell(config_file)
    prepared = PreparedData.load(run.data)
    training = json.loads((run.results / "training.json").read_text(encoding="utf-8"))
    baselines: dict[str, dict[str, Any]] = {}
    row: dict[str, Any] = {"cell": cell, "method": method, "seed": seed, "minutes": minutes}
    row |= {"command": f"python -m benchmarks.quality --data {data} --methods {method} --seeds {seed} "}
    row["command"] += f"--minutes {minutes:g}"
    row |= {name: environment()[name] for name in ("date", "versions")}
    row["training"] = {
        name: training.get(name) for name in ("epochs", "steps", "best_step", "num_weights", "num_targets")
    }
    row["training"]["planned_epochs"] = config.training.num_train_epochs
    costs = cpu_seconds_of(config_file)
    row["training"] |= {"cpu_minutes": costs.pop(cell) / 60, "peak_memory_mib": training["peak_memory_mib"]}
    row["training"]["parts_cpu_minutes"] = {part: seconds / 60 for part, seconds in costs.items()}
    row["curve"] = [  # CPU minutes, epochs, validation NDCG@10
        [line["cpu_seconds"] / 60, line["epoch"], line["eval_ndcg@10"]]
        for line in training.get("log", [])
        if "eval_ndcg@10" in line
    ]
    ranks_of_splits = {}
    for evaluated in EVALUATED:
        users_file = run.results / f"{evaluated}-users.npz"
        split, _, unseen = evaluated.partition("-")
        if not users_file.is_file():  # written last: an earlier attempt may have evaluated some
            results = evaluate_run.main(str(run.path), split=split, exclude_seen=bool(unseen))
            ranks = ranks_of(next(iter(results.values())).per_user, 20)
            with whole_file(users_file) as temporary, temporary.open("wb") as file:
                np.savez(file, ranks=ranks)
        systems = evaluation(run.results, split, bool(unseen))
        model, *others = systems
        rare = user_groups(prepared, prepared.split(split))[RARE]
        row[evaluated] = figures(systems[model])
        ranks_of_splits[evaluated] = np.load(users_file)["ranks"]
        found = metrics_of_users(ranks_of_splits[evaluated])["recall@10"]
        row[evaluated]["recall@10 of rare items"] = float(found[rare].mean())
        for name in others:
            baselines.setdefault(name, {})[evaluated] = figures(systems[name])
    if isinstance(config.model, ReaRecArguments) and config.model.reasoning != "none":
        depths = calibrate_depth_run.main(str(run.path))
        row["adaptive_depth"] = {
            split: {name: depth_figures(system) for name, system in systems.items()}
            for split, systems in depths["splits"].items()
        }
    for name, of_splits in baselines.items():
        write_row(KIND, data, {"cell": name, "method": name, **of_splits})
    write_ranks(cell, ranks_of_splits)
    write_row(KIND, data, row)
    logger.info("%s", table())


def cpu_seconds_of(config_file: Path) -> dict[str, float]:
    """What the training of a cell took, and that of every cell that it is made of, each by itself."""
    fields = yaml.safe_load(config_file.read_text(encoding="utf-8"))
    parts: dict[str, float] = {}
    within: set[str] = set()  # a run that joins others counts what they took as its own
    for key in CELLS_OF:
        for folder in in_list(fields.get(key, [])):
            found = cpu_seconds_of(Path(folder) / config_file.name)
            parts |= found
            if key in ("members_runs", "dense_run"):
                within |= {name for name in found if not name.startswith(CODES_OF)}
    folder = RunFolder(config_file.parent)
    health = folder.semantic_ids / "health.json"
    if health.is_file():
        of_codes = json.loads(health.read_text(encoding="utf-8")).get("training")
        if of_codes is not None:
            parts[CODES_OF + folder.path.name] = of_codes["cpu_seconds"]
    training = json.loads((folder.results / "training.json").read_text(encoding="utf-8"))
    return parts | {folder.path.name: training["cpu_seconds"] - sum(parts[name] for name in within)}


def in_list(named: str | list[str]) -> list[str]:
    return [named] if isinstance(named, str) else named


def evaluation(results: Path, split: str, unseen: bool) -> dict[str, Any]:
    """The systems of an evaluation; which file it is in depends on what the model's lists leave out by default."""
    for name in (split, f"{split}-unseen", f"{split}-seen"):
        path = results / f"{name}.json"
        systems = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if systems and next(iter(systems.values()))["seen_items_removed"] == unseen:
            return systems
    raise FileNotFoundError(f"{results} holds no evaluation of {split}: delete its *-users.npz and measure again")


def figures(record: dict[str, Any]) -> dict[str, Any]:
    """Of a result's record: metrics as `[value, low, high]` or a value, bias by code position, users a second."""
    metrics = {name: record["metrics"][name] for name in METRICS}
    row: dict[str, Any] = {
        name: [metric[part] for part in ("value", "low", "high")] if "low" in metric else metric["value"]
        for name, metric in metrics.items()
    }
    if record["token_bias_amplification"] is not None:
        row["bias"] = record["token_bias_amplification"]
    return row | {"users_per_second": record["cost"]["users_per_second"]}


def depth_figures(system: dict[str, Any]) -> dict[str, Any]:
    kept = ("ndcg@10", "recall@10", "mean_steps", "headroom_kept", "cpu_seconds_per_user")
    less = system["less_best_fixed"]
    return {name: system.get(name) for name in kept} | {"less_best_fixed": [less[part] for part in less]}


def train_cell(config_file: Path) -> RunFolder:
    """A cell's run, its training finished, from wherever an earlier attempt ended."""
    return trained_run(parse_config(str(config_file), ["--resume_from_checkpoint", "last"]))


def plan_epochs(config: RunConfig, minutes: float) -> float:
    """Epochs that fit the budget, from the CPU time of some steps and of some recommendations."""
    trainer = load_method(config.model.method).build_trainer(config)
    before = 0.0
    pretraining = getattr(trainer, "pretraining", None)
    if pretraining is not None:
        first = pretraining.trainer()
        before = first.args.num_train_epochs * seconds_of_epoch(first)
        logger.info("the pretraining takes %.0f s of CPU time", before)
    validation, evaluations = trainer.eval_dataset, []
    for _ in range(ROUNDS):
        start = time.process_time()
        trainer.model.eval().recommend_rows(validation.histories[:256], 10)
        evaluations.append((time.process_time() - start) / 256)
    epoch, evaluation = seconds_of_epoch(trainer), min(evaluations) * len(validation.histories)
    if config.training.eval_strategy == "epoch":
        epochs = float(int((minutes * 60 - before) / (epoch + evaluation)))
    else:
        epochs = round((minutes * 60 - before - EVALUATIONS * evaluation) / epoch, 2)
    logger.info("an epoch takes %.0f s of CPU time, an evaluation %.0f s: %.2f epochs", epoch, evaluation, epochs)
    if epochs <= 0:
        raise ValueError(f"{minutes:g} minutes are not enough for an epoch and its evaluations: give more")
    return epochs


def seconds_of_epoch(trainer: Any) -> float:
    """CPU seconds of an epoch, from some steps of it, which change the trainer's model."""
    model, rows, collator = trainer.model, trainer.train_dataset, trainer.data_collator
    order, size = list(trainer._get_train_sampler()), trainer.args.train_batch_size
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    sample = [batches[int(place)] for place in np.random.default_rng(0).choice(len(batches) - 1, 40, replace=False)]
    optimizer = trainer.create_optimizer()
    trainer.state.epoch = 10.0  # past PRL's epochs without noise
    model.train()
    steps = []
    for _ in range(ROUNDS):
        start = time.process_time()
        for batch in sample:
            trainer.compute_loss(model, collator([rows[int(row)] for row in batch])).backward()
            optimizer.step()
            optimizer.zero_grad()
        steps.append((time.process_time() - start) / len(sample))
    return min(steps) * len(batches)


def compare(options: argparse.Namespace) -> str:
    """Each method against another, over the seeds."""
    prepared = prepared_data(options.data, options.work)
    facts = {"seeds": options.seeds, "minutes": options.minutes}
    other = [cell_name(options.against, options.data, seed, options.against_minutes) for seed in options.seeds]
    lines = [f"differences from {options.against}, mean of seeds {', '.join(map(str, options.seeds))}"]
    for method in options.methods:
        mine = [cell_name(method, options.data, seed, options.minutes) for seed in options.seeds]
        named = f"{method} against {options.against}"
        lines.append(comparisons.compare(options.data.name, named, facts, mine, other, prepared))
    return "\n".join(lines)


def cell_name(method: str, data: Path, seed: int | str, minutes: float) -> str:
    return f"{method}-{data.name}-seed{seed}-{minutes:g}min"


def named_cell(name: str, data: Path, seed: int, work: Path) -> str:
    """The folder of a cell that another one names, as [`CELLS_OF`] says."""
    name, _, minutes = name.partition("@")
    method, _, further = name.partition("+")
    return str(work / cell_name(method, data, (seed - 1 + int(further or 0)) % SEEDS + 1, float(minutes or MINUTES)))


def table() -> str:
    """The finished cells, best validation NDCG@10 first."""
    lines = [f"{'cell':<56}CPU min  epochs   validation        test            test, unseen"]
    rows = [row for row in read_rows(KIND) if "training" in row]
    for row in sorted(rows, key=lambda row: -row["validation"]["ndcg@10"][0]):
        minutes, epochs = row["training"]["cpu_minutes"], row["training"]["epochs"]
        names = ("recall@10", "ndcg@10")
        shown = [row[split][name][0] for split in ("validation", "test", "test-unseen") for name in names]
        lines.append(f"{row['cell']:<55} {minutes:7.1f} {epochs:7.1f}  " + "  ".join(f"{f:.4f}" for f in shown))
    return "\n".join(lines)


def _write_yaml(fields: dict, path: Path) -> Path:
    path.write_text(yaml.safe_dump(fields, sort_keys=False), encoding="utf-8")
    return path


if __name__ == "__main__":
    main()
