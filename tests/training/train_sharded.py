"""Three steps of each configuration, sharded by torch's `fully_shard` where there are several processes.

python tests/training/train_sharded.py CONFIG ...

A line per configuration: its losses, the sum of all weights without signs, and items that the whole model finds.
S2GR calls parts of a layer by themselves, which a sharded layer does not allow; it is left out.
"""

import os
import sys

import numpy as np
import torch
import torch.distributed
from torch.distributed.fsdp import fully_shard

from hf_genrec.method import load_method
from hf_genrec.training.config import parse_config
from hf_genrec.training.whole_weights import unsharded_copy

PROCESSES = int(os.environ.get("WORLD_SIZE", "1"))


def main(path: str) -> None:
    options = ["--per_device_train_batch_size", str(8 // PROCESSES), "--report_to", "none", "--use_cpu", "true"]
    config = parse_config(path, options)
    trainer = load_method(config.model.method).build_trainer(config)
    model = trainer.model.train()
    if PROCESSES > 1:
        layers = set(model._no_split_modules)
        for module in model.modules():
            if type(module).__name__ in layers:
                fully_shard(module)
        fully_shard(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _, batch in zip(range(3), trainer.get_train_dataloader(), strict=False):
        targets = trainer._get_num_items_in_batch([batch], torch.device("cpu"))
        loss = model(**batch, num_items_in_batch=targets).loss * PROCESSES
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(trainer.accelerator.reduce(loss.detach().clone(), "mean").item())
    whole = unsharded_copy(model) if PROCESSES > 1 else model.eval()
    items, _ = whole.recommend_rows([np.array([1, 2, 3])], 5)
    size = sum(weight.double().abs().sum().item() for weight in whole.parameters())
    if trainer.is_world_process_zero():
        print("sharded", config.model.method, *losses, size, *items[0], flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for path in sys.argv[1:]:
        if not path.endswith("s2gr.yaml"):
            main(path)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
