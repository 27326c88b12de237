"""Bytes and quality of a CARE's cached histories: keys and values from a shared pool beside other compressions.

    export OMP_NUM_THREADS=1
    python -m benchmarks.user_cache --run runs/quality/care-amazon2014_beauty-seed1-30min --epochs 4

The run is a finished one of `benchmarks.quality` without a pool. From it a plain model and one for each size of the
user's own part are trained for as many epochs more; the plain one is what all are compared with, and what int8, low
rank and product quantization compress. `not trained` is a pool as the training starts with it. Bytes a user follow from
what the user cache holds of 64 users and from the lengths of all test histories. Finished cells are skipped; figures of
quality are of all test users, with paired intervals. What requests take: `python -m benchmarks.second_requests`.
"""

import argparse
import logging
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.cells import metrics_of_users, ranks_of, read_rows, write_row
from benchmarks.compressed_cache import Codec, Int8, LowRank, ProductQuantizer, compressed
from benchmarks.measure import environment
from benchmarks.trained_runs import trained_run
from hf_genrec.data.prepared import EvaluationSplit, PreparedData
from hf_genrec.evaluation.evaluator import evaluate_recommender
from hf_genrec.evaluation.metrics import paired_bootstrap_difference
from hf_genrec.method import load_method, load_model
from hf_genrec.methods.care.modeling_care import CareForCausalLM
from hf_genrec.training.config import RunConfig, parse_config
from hf_genrec.training.run_folder import RunFolder

logger = logging.getLogger(__name__)

KIND = "user_cache"
BASE = "plain"
FITTED_USERS = 1000  # whose keys and values low rank and product quantization are fitted to


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="folder of a finished cell of benchmarks.quality")
    parser.add_argument("--epochs", type=float, default=4, help="that are trained on")
    parser.add_argument("--user-dims", nargs="+", type=int, default=[1, 3], help="numbers of a key that are own")
    parser.add_argument("--pool-size", type=int, default=1024)
    parser.add_argument("--work", type=Path, default=Path("runs/user_cache"), help="folder of the runs")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if options.run is None or not (options.run / "config.yaml").is_file():
        parser.error("--run: name the folder of a finished cell of benchmarks.quality, which holds its config.yaml")
    of_run = parse_config(str(options.run / "config.yaml"))
    options.data = Path(of_run.data.source_path).name
    plain_run = trained_run(continued(options, BASE))
    plain = load_model(plain_run.model)
    base = measure(BASE, plain, plain_run, options, None)
    for user_dim in options.user_dims:
        name = f"pool {options.pool_size}, own {user_dim}"
        settings = ["--shared_kv_pool_size", str(options.pool_size), "--shared_kv_user_dim", str(user_dim)]
        run = trained_run(continued(options, name, *settings))
        measure(name, load_model(run.model), run, options, base)
        start = load_method("care").build_trainer(continued(options, name, *settings)).model
        measure(f"{name}, not trained", start, run, options, base)
    heads, seed = plain.config.num_key_value_heads, of_run.training.seed
    codecs: dict[str, Callable[[torch.Tensor], Codec]] = {"int8": lambda vectors: Int8(heads)}
    for user_dim in options.user_dims:  # as many bytes: d_u numbers in float16, and a row of 16 bits
        size = 2 * (user_dim + 1)
        codecs[f"low rank {size // 2}"] = partial(LowRank, rank=size // 2)
        codecs[f"product quantization {size}"] = partial(ProductQuantizer, parts=size, seed=seed)
    prompts = plain.processor.prompts(some_histories(PreparedData.load(plain_run.data), "validation", FITTED_USERS))
    for name, codec in codecs.items():
        measure(name, compressed(plain, codec, [prompts | {"logits_to_keep": 1}]), plain_run, options, base)
    measure("as the run ended", load_model(RunFolder(options.run).model), plain_run, options, base)


def continued(options: argparse.Namespace, name: str, *own: str) -> RunConfig:
    """The configuration of a run that goes on from the finished one, with its codes."""
    folder = options.work / f"{options.run.name}-{options.epochs:g}" / name.replace(" ", "-").replace(",", "")
    settings = {
        "output_dir": folder, "base_model": options.run / "model", "code_embeddings": "random",
        "codes_run": options.run, "num_train_epochs": options.epochs, "resume_from_checkpoint": "last",
    }  # fmt: skip
    overrides = [part for key, value in settings.items() for part in (f"--{key}", str(value))]
    return parse_config(str(options.run / "config.yaml"), [*overrides, *own])


def measure(
    name: str, model: CareForCausalLM, run: RunFolder, options: argparse.Namespace, base: np.ndarray | None
) -> np.ndarray:
    """
    Bring one cell to its row.

    Args:
        run: whose folder keeps the ranks of the users.
        base: the users' ranks by what it is compared with, `None` for that one itself.

    Returns:
        its own ranks, (users,).
    """
    prepared = PreparedData.load(run.data)
    cell = f"{options.run.name}, {options.epochs:g} epochs: {name}"
    file = run.results / f"{name.replace(' ', '-')}-ranks.npy"
    if any(row["cell"] == cell for row in read_rows(KIND, options.data)) and file.is_file():
        return np.load(file)
    row: dict[str, Any] = {"cell": cell, "name": name}
    row |= {"command": f"python -m benchmarks.user_cache --run runs/quality/{options.run.name} "}
    row["command"] += f"--epochs {options.epochs:g} --pool-size {options.pool_size} --user-dims "
    row["command"] += " ".join(map(str, options.user_dims))
    row |= {part: environment()[part] for part in ("date", "versions")}
    test = prepared.split("test")
    found = evaluate_recommender(
        lambda histories, k: model.recommend_rows(histories, k)[0], test, len(prepared.item_ids), ks=(10, 20)
    )
    ranks = ranks_of(found.per_user, 20)
    mine = metrics_of_users(ranks)
    row |= {metric: float(values.mean()) for metric, values in mine.items()}
    if base is not None:
        other = metrics_of_users(base)["ndcg@10"]
        row["less_plain"] = [float(part) for part in paired_bootstrap_difference(mine["ndcg@10"], other)]
        row["relative"] = row["less_plain"][0] / float(other.mean())
    row |= {"bytes_per_user": bytes_per_user(model, test)}
    run.results.mkdir(exist_ok=True)
    np.save(file, ranks)
    write_row(KIND, options.data, row)
    logger.info("%s: finished", cell)
    return ranks


def some_histories(prepared: PreparedData, split: str, users: int) -> list[np.ndarray]:
    """Different ones of users drawn at random, the same ones for every cell."""
    histories = prepared.split(split).histories  # type: ignore[arg-type]
    drawn = (histories[int(row)] for row in np.random.default_rng(0).permutation(len(histories)))
    return list(islice({tuple(history): history for history in drawn}.values(), users))


def bytes_per_user(model: CareForCausalLM, split: EvaluationSplit) -> float:
    """Of the histories of a split, on average: what the cache says after some of them, by their codes."""
    cache = model.user_cache(2**40)
    prompts = [split.histories[row] for row in range(64)]
    model.recommend_rows(prompts, 10, user_cache=cache)
    kept = sum(min(len(history), model.config.max_history) for history in {tuple(history) for history in prompts})
    items = np.minimum([len(history) for history in split.histories], model.config.max_history)
    return cache.num_bytes / kept * float(items.mean())


if __name__ == "__main__":
    main()
