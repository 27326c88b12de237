"""Trains several runs one after the other, in as many processes as start it; for tests/training/test_distributed.py.

python tests/training/train_several.py RUNS.json FOLDER

RUNS.json has per run its name, configuration (of post-training none), options, and the rows of a step of all processes
together. Into FOLDER go, by name, the losses of every logged step, what the last evaluation found, and the final
weights.
"""

import gc
import json
import logging
import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from hf_genrec.method import load_method
from hf_genrec.post_training.grpo_arguments import parse_grpo_config
from hf_genrec.trainers import train_grpo
from hf_genrec.training.config import parse_config
from hf_genrec.training.soft_targets import set_soft_targets
from hf_genrec.training.whole_weights import whole_model


def options_of(rows: int) -> list[str]:
    own = rows // int(os.environ.get("WORLD_SIZE", "1"))
    return ["--per_device_train_batch_size", str(own), "--report_to", "none", "--disable_tqdm", "true"]


def evenly_spread(probabilities: torch.Tensor, draws: int, replacement: bool) -> torch.Tensor:
    """Of every row (n, V) the same quantiles (n, draws): samples that do not depend on the rows beside it."""
    places = (torch.arange(draws) + 0.381966) / draws  # at no edge of uniform ones
    return torch.searchsorted(probabilities.cumsum(1), places.expand(len(probabilities), -1).contiguous()).clamp(
        max=probabilities.shape[1] - 1
    )


def post_train(name: str, options: list[str], rows: int, folder: Path) -> None:
    """As the program does it, but for the samples."""
    sampled, torch.multinomial = torch.multinomial, evenly_spread
    ended, torch.distributed.destroy_process_group = torch.distributed.destroy_process_group, lambda: None
    run = folder / name
    train_grpo.main(parse_grpo_config(None, [*options, *options_of(rows), "--output_dir", str(run)]))
    torch.multinomial, torch.distributed.destroy_process_group = sampled, ended
    if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
        found = json.loads((run / "results/training.json").read_text())
        evaluations = [line for line in found["log"] if "eval_ndcg@10" in line]
        record = {
            "processes": found["num_processes"],
            "steps": found["steps"],
            "log": [line for line in found["log"] if "loss" in line],
            "evaluation": {key: value for key, value in evaluations[-1].items() if "@" in key},
        }
        (folder / f"{name}.json").write_text(json.dumps(record))
        last = run / f"checkpoints/checkpoint-{found['steps']}/model.safetensors"
        (folder / f"{name}.safetensors").write_bytes(last.read_bytes())


def train(name: str, config: str, options: list[str], rows: int, folder: Path) -> None:
    configuration = parse_config(config, [*options, *options_of(rows)])
    trainer = load_method(configuration.model.method).build_trainer(configuration)
    set_soft_targets(trainer)
    trainer.train()
    figures = trainer.evaluate()
    with whole_model(trainer) as model:
        if trainer.is_world_process_zero():
            weights = {key: tensor.detach().clone().contiguous() for key, tensor in model.state_dict().items()}
            save_file(weights, folder / f"{name}.safetensors")
            record = {
                "processes": trainer.args.world_size,
                "steps": trainer.state.global_step,
                "log": [line for line in trainer.state.log_history if "loss" in line],
                "evaluation": {key: value for key, value in figures.items() if "@" in key},
            }
            (folder / f"{name}.json").write_text(json.dumps(record))
    trainer.accelerator.free_memory()
    gc.collect()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(1)
    for run in json.loads(Path(sys.argv[1]).read_text()):
        (train if "config" in run else post_train)(**run, folder=Path(sys.argv[2]))
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
