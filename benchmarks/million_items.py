"""A catalogue of a million items from end to end, each command a process of its own:

    OMP_NUM_THREADS=1 python -m benchmarks.million_items                   # some minutes, and 6 GB of disk
    OMP_NUM_THREADS=1 python -m benchmarks.million_items --items 20000 --rows 200000 --steps 20

The log is that of benchmarks.synthetic_log over `--items` items, of which some never occur (of the default's 1.7
million about a million do), and nothing is filtered; items have random vectors around a thousand random centres as
their text. Wall clock, CPU time and peak memory of `prepare`, `tokenize` (residual k-means), `train` (`--steps` steps
of ReaRec with sampled softmax, and of CARE), `index`, `evaluate` of a sample of users, most popular and item-kNN among
them; and users per second of `recommend_rows` after a first call, of CARE beside a catalogue of 12,000 items, of ReaRec
compared with all items and by its index. Weights are those of a few steps: what is measured does not depend on what
they say. Writes benchmarks/results/million_items.json.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from benchmarks.generation import build
from benchmarks.measure import alternate, write_result
from benchmarks.synthetic_log import write_log
from hf_genrec.data.prepared import PreparedData
from hf_genrec.method import load_model
from hf_genrec.serving.item_index import ItemIndex
from hf_genrec.training.run_folder import RunFolder

TEXT_SIZE, CENTRES, USERS, SAMPLE = 64, 1000, 256, 2000
COMMON = {
    "source": "tabular",
    "max_history": 20,
    "logging_steps": 10,
    "eval_strategy": "no",
    "eval_users": 2000,  # what lists with and without the history are compared on at the end of a training
    "save_strategy": "no",
    "load_best_model_at_end": False,
    "exclude_seen": False,
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
}
REAREC = {
    "method": "rearec",
    "hidden_size": 64,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "loss_type": "sampled_softmax",
    "num_negatives": 1000,
    "per_device_train_batch_size": 64,
}
CARE = {
    "method": "care",
    "codebook_sizes": [256, 256, 256],
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_queries": [1],
    "per_device_train_batch_size": 8,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_700_000)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_log(folder / "log.parquet", options.rows, num_items=options.items)
        fields = COMMON | {"source_path": str(folder / "log.parquet"), "max_steps": options.steps}
        runs = {"ReaRec": folder / "rearec", "CARE": folder / "care"}
        for name, own in (("ReaRec", REAREC), ("CARE", CARE | {"embeddings_path": str(folder / "vectors.npy")})):
            config = folder / f"{name}.yaml"
            config.write_text(yaml.safe_dump(fields | own | {"output_dir": str(runs[name])}), encoding="utf-8")
            if name == "ReaRec":
                results["prepare"] = step("prepare", "--config", config)
                results["prepare"] |= counts(runs[name])
            else:
                step("prepare", "--config", config)
                write_vectors(RunFolder(runs[name]), folder / "vectors.npy")
                results["tokenize"] = step("tokenize", "--config", config)
            results[f"train {name}"] = step("train", "--config", config)
            results[f"train {name}"] |= per_step(runs[name])
        results["index"] = step("index", runs["ReaRec"])
        facts = ItemIndex.load(RunFolder(runs["ReaRec"])).facts
        results["index"] |= {name: value for name, value in facts.items() if name != "vectors"}
        for name, run in runs.items():
            results[f"evaluate {name}"] = step("evaluate", run, "--split", "validation", "--max-users", SAMPLE)
        results |= lists(runs, options.repeats)
    for name, row in results.items():
        print(f"{name:<28}" + ", ".join(f"{key} {shown(value)}" for key, value in row.items()))
    write_result("million_items", "python -m benchmarks.million_items", vars(options), results)


def shown(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def step(*words: Any) -> dict[str, float]:
    """One command as a process: wall clock and CPU seconds, and its peak memory."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "hf_genrec.cli", *map(str, words)], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"hf-genrec {' '.join(map(str, words))} ended with {status}")
    seconds, cpu = time.perf_counter() - start, usage.ru_utime + usage.ru_stime
    return {"seconds": seconds, "cpu_seconds": cpu, "peak_memory_mib": usage.ru_maxrss / 1024}


def counts(run: Path) -> dict[str, int]:
    kept = json.loads((run / "data/prepare.json").read_text(encoding="utf-8"))["kept"]
    return {name: kept[name] for name in ("users", "items", "interactions")}


def per_step(run: Path) -> dict[str, float]:
    """CPU milliseconds of a step, from the log of the training."""
    record = json.loads((run / "results/training.json").read_text(encoding="utf-8"))
    lines = [line for line in record["log"] if "loss" in line]
    first, last = lines[0], lines[-1]
    steps = (last["step"] - first["step"]) or 1
    return {"cpu_ms_a_step": 1000 * (last["cpu_seconds"] - first["cpu_seconds"]) / steps}


def write_vectors(run: RunFolder, path: Path) -> None:
    generator, item_ids = np.random.default_rng(0), PreparedData.load(run.data).item_ids
    centres = generator.normal(size=(CENTRES, TEXT_SIZE)).astype(np.float32)
    vectors = centres[generator.integers(CENTRES, size=len(item_ids))]
    vectors += 0.5 * generator.standard_normal(vectors.shape, dtype=np.float32)
    np.save(path, vectors)
    path.with_suffix(".ids.txt").write_text("\n".join(item_ids) + "\n", encoding="utf-8")


def lists(runs: dict[str, Path], repeats: int) -> dict[str, dict[str, float]]:
    """Users per second of each way, and for the index how much of the exact lists it finds."""
    torch.set_num_threads(1)
    rearec, care = (load_model(RunFolder(runs[name]).model) for name in ("ReaRec", "CARE"))
    small = build(12_000, CARE["num_hidden_layers"], CARE["hidden_size"], COMMON["max_history"], levels=3)
    index = ItemIndex.load(RunFolder(runs["ReaRec"]))
    histories = PreparedData.load(RunFolder(runs["ReaRec"]).data).split("test").histories[:USERS]
    few = [history[-COMMON["max_history"] :] % 12_000 for history in histories]

    def by_index():
        index.attach(rearec)
        try:
            return rearec.recommend_rows(histories, 10)
        finally:
            rearec.item_index = None

    ways = {
        "ReaRec, all items": lambda: rearec.recommend_rows(histories, 10),
        "ReaRec, index": by_index,
        "CARE": lambda: care.recommend_rows(histories, 10),
        "CARE, 12,000 items": lambda: small.recommend_rows(few, 10),
    }
    exact, found = ways["ReaRec, all items"]()[0], by_index()[0]
    measured = alternate(ways, repeats)
    rows = {name: {"users_per_second": len(histories) / row["seconds"]} for name, row in measured.items()}
    shares = [np.isin(ours, best).mean() for ours, best in zip(found, exact, strict=True)]
    rows["ReaRec, index"]["recall@10 of exact lists"] = float(np.mean(shares))
    return rows


if __name__ == "__main__":
    main()
