"""Training and recommendations of every method on a GPU, in each precision, and compiled.

    python -m benchmarks.gpu                                                  # all of it, some minutes
    python -m benchmarks.gpu --methods care rearec --precisions float32 bf16 --steps 50
    python -m benchmarks.gpu --device cpu --rows 200000 --steps 4 --users 64  # without one: tries the program

The log is that of benchmarks.synthetic_log, of `--rows` interactions, and items have random vectors as their text;
sizes and batches are those of `configs/<method>/beauty.yaml`. A training is the library's own, data loader and all, of
`--steps` steps, the first fifth of which are not timed. `waits` are the times in a step that Python waited for the GPU
inside this library, by torch's own warnings; what Trainer does is not counted. Users per second are those of
`recommend_rows`, lists of ten, after a first call. Where a way fails, the row says why. Writes
benchmarks/results/gpu.json.
"""

import argparse
import json
import logging
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from transformers import PrinterCallback, TrainerCallback

from benchmarks.measure import peak_memory_mib, write_result
from benchmarks.quality import without_teachers
from benchmarks.synthetic_log import write_log
from hf_genrec.data.prepared import PreparedData
from hf_genrec.method import load_method, methods
from hf_genrec.trainers import prepare_data, tokenize_items
from hf_genrec.training.config import RunConfig, find_config, parse_config

LIBRARY = str(Path(__file__).parents[1] / "hf_genrec")
PRECISIONS = {
    "float32": {"tf32": False},
    "tf32": {"tf32": True},
    "bf16": {"bf16": True},
    "bf16 compiled": {"bf16": True, "torch_compile": True},
}
TEXT_SIZE = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--rows", type=int, default=1_000_000, help="interactions of the log")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--users", type=int, default=4096, help="histories that are recommended to")
    parser.add_argument("--methods", nargs="+", choices=trained(), default=trained())
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU that torch can use: --device cpu tries the program without one")
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_log(folder / "log.csv", options.rows)
        print(f"{'':<28}{'targets/s':>12}{'waits':>7}{'MiB':>8}{'users/s':>10}")
        for method in options.methods:
            config_file = prepared(method, folder, options)
            for precision in options.precisions:
                try:
                    row = measured(config_file, PRECISIONS[precision], options)
                except Exception as error:  # a way that does not work is a result, too
                    row = {"failed": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"}
                results[f"{method}, {precision}"] = row
                print(f"{method + ', ' + precision:<28}" + shown(row), flush=True)
    if options.device == "cuda":
        write_result("gpu", "python -m benchmarks.gpu", vars(options), results)


def trained() -> list[str]:
    """The methods whose models are trained, and not put together from others."""
    return [name for name in methods() if load_method(name).join is None]


def shown(row: dict[str, Any]) -> str:
    if "failed" in row:
        return row["failed"]
    users = "" if row["users_per_second"] is None else f"{row['users_per_second']:10.0f}"
    return f"{row['targets_per_second']:12.0f}{row['waits_per_step']:7.1f}{row['peak_memory_mib']:8.0f}{users}"


def prepared(method: str, folder: Path, options: argparse.Namespace) -> Path:
    """The configuration of a method's run, its data prepared and tokenized."""
    fields = without_teachers(yaml.safe_load(find_config(f"{method}/beauty").read_text(encoding="utf-8")))
    of_data = ("source", "vectors", "text_columns", "projection_dim", "collaborative_", "tokenizer_", "category_")
    fields = {key: value for key, value in fields.items() if not key.startswith(of_data)}
    fields |= {"source": "tabular", "source_path": str(folder / "log.csv"), "user_core": 5, "item_core": 5}
    fields |= {"output_dir": str(folder / method), "max_steps": options.steps, "logging_steps": options.steps}
    fields |= {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False, "report_to": "none"}
    fields |= {"disable_tqdm": True, "use_cpu": options.device == "cpu", "early_stopping_patience": None}
    config_file = folder / f"{method}.yaml"
    if load_method(method).codes is not None:
        fields |= {"embeddings_path": str(folder / "vectors.npy")}
    config_file.write_text(yaml.safe_dump(fields), encoding="utf-8")
    config = parse_config(str(config_file))
    prepare_data.main(config)
    if load_method(method).codes is not None:
        item_ids = PreparedData.load(config.run.data).item_ids
        vectors = np.random.default_rng(0).normal(size=(len(item_ids), TEXT_SIZE)).astype(np.float32)
        np.save(folder / "vectors.npy", vectors)
        (folder / "vectors.ids.txt").write_text("\n".join(item_ids) + "\n", encoding="utf-8")
        tokenize_items.main(config)
    return config_file


class Timer(TrainerCallback):
    """The time of the steps behind the first ones, and how often Python waited for the GPU inside the library."""

    def __init__(self, first: int):
        self.first = first
        self.waits = 0

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step not in (self.first, state.max_steps):
            return
        synchronize()
        if state.global_step == self.first:
            self.start = time.perf_counter()
            self.shown, warnings.showwarning = warnings.showwarning, self._warned
            warnings.simplefilter("always")
            if torch.cuda.is_available():
                torch.cuda.set_sync_debug_mode("warn")
            return
        self.seconds = time.perf_counter() - self.start
        if torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode("default")
        warnings.showwarning = self.shown

    def _warned(self, message, category, filename, *details):
        if "synchroniz" in str(message) and filename.startswith(LIBRARY):
            self.waits += 1


def measured(config_file: Path, precision: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    on_gpu = options.device == "cuda"
    given = {key: value for key, value in precision.items() if on_gpu or key == "bf16"}
    config: RunConfig = parse_config(
        str(config_file), [part for key, value in given.items() for part in (f"--{key}", json.dumps(value))]
    )
    with warnings.catch_warnings():
        trainer = load_method(config.model.method).build_trainer(config)
        timer = Timer(max(1, options.steps // 5))
        trainer.remove_callback(PrinterCallback)  # its lines would stand between those of the table
        trainer.add_callback(timer)
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        trainer.train()
    steps = options.steps - timer.first
    targets = trainer.train_dataset.num_targets / len(trainer.train_dataset) * trainer.args.train_batch_size * steps
    row = {"targets_per_second": targets / timer.seconds, "waits_per_step": timer.waits / steps}
    memory = torch.cuda.max_memory_allocated() / 2**20 if on_gpu else peak_memory_mib()
    row |= {"peak_memory_mib": memory, "users_per_second": None}
    if "torch_compile" not in precision:  # a search calls parts of the model, which nobody compiles
        model, histories = trainer.accelerator.unwrap_model(trainer.model).eval(), trainer.eval_dataset.histories
        histories = histories[: options.users]
        with torch.autocast(options.device, torch.bfloat16, enabled=trainer.args.bf16):
            model.recommend_rows(histories[:256], 10)
            synchronize()
            start = time.perf_counter()
            model.recommend_rows(histories, 10)
            synchronize()
        row["users_per_second"] = len(histories) / (time.perf_counter() - start)
    return row


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
