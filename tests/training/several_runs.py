"""Small runs of every method, for what must hold for all of them.

Those of test_distributed.py, test_zero.py and benchmarks/distributed.py are trained one after the other by
`train_several.py`, in as many processes as start it.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from even_and_odd import ITEMS, even_and_odd_log
from safetensors.torch import load_file

from hf_genrec.trainers import prepare_data, tokenize_items, train
from hf_genrec.training.config import parse_config

ROOT = Path(__file__).parents[2]
ACCELERATE = ROOT / "configs/accelerate"
LAUNCHERS = {
    "alone": [],
    "DDP": ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"],
    "ZeRO-2": ["-m", "accelerate.commands.launch", "--config_file", str(ACCELERATE / "zero2.yaml")],
    "ZeRO-3": ["-m", "accelerate.commands.launch", "--config_file", str(ACCELERATE / "zero3.yaml")],
}

# By method, the keys of a small model without dropout.
CODES = {"codebook_sizes": [4, 4, 4], "max_history": 8, "vectors": "collaborative", "collaborative_dim": 8}
TEXTS = {"codebook_sizes": [4, 4, 4], "max_history": 8, "projection_dim": 4, "embeddings_path": "texts.npy"}
SMALL = {"hidden_size": 16, "intermediate_size": 32}
T5 = {"num_encoder_layers": 1, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 8, "dropout": 0}
KEYS: dict[str, dict[str, Any]] = {
    "care": CODES | SMALL | {"query_diversity_weight": 0.5},
    "rearec": {"max_history": 8, "embedding_dropout": 0, "hidden_dropout": 0, "attention_dropout": 0} | SMALL,
    "reg4rec": CODES | SMALL | {"dropout": 0},
    "mdgr": CODES | SMALL | {"num_hidden_layers": 2, "dropout": 0},
    "tiger": CODES | SMALL | T5,
    "s2gr": CODES | SMALL | T5 | {"num_clusters": 2},
    "stream": CODES | SMALL | T5 | {"traces": "random", "num_thinking_tokens": 4},
    "cobra": TEXTS | SMALL | {"dropout": 0, "item_embeddings": True},
    "liger": TEXTS | SMALL | T5 | {"projector_sizes": [8], "projector_dropout": 0, "input_dropout": 0},
    "codetree": CODES | SMALL | {"hidden_dropout": 0, "attention_dropout": 0},
    # Its pretraining is not sharded.
    "s3rec": {"max_history": 8, "hidden_dropout": 0, "attention_dropout": 0, "pretrain_epochs": 0} | SMALL,
}

# By name: the method, further keys, and the rows of a step, of 40 users with 6 targets each. 14, 6 and 46 leave some
# for the last step.
UNPACKED = {"packing": "false"}
SAMPLED = {"reasoning": "none", "loss_type": "sampled_softmax", "num_negatives": 8}
RUNS: dict[str, tuple[str, dict[str, Any], int]] = {
    "care": ("care", {"packed_row_tokens": 28}, 14),
    "care, a row per target": ("care", UNPACKED, 48),
    "codetree": ("codetree", {}, 6),
    "codetree, a row per target": ("codetree", UNPACKED, 48),
    "tiger": ("tiger", {}, 46),
    "s2gr": ("s2gr", {}, 48),
    "stream": ("stream", {}, 48),
    "liger": ("liger", {}, 48),
    "reg4rec, random and own orders": ("reg4rec", {"confidence_order_from": 0.5}, 48),
    "mdgr": ("mdgr", {}, 48),
    "mdgr, guided views": ("mdgr", {"views": "guided", "guided_refresh": "true"}, 48),
    "cobra": ("cobra", {}, 8),
    "cobra, a row per target": ("cobra", UNPACKED, 48),
    "cobra, negatives of the batch": ("cobra", {"negatives": "batch"}, 8),
    "cobra, negatives of other users": ("cobra", {"negatives": "other_users"}, 8),
    "rearec, erl": ("rearec", {"reasoning": "erl"}, 8),
    "rearec, prl with noise": ("rearec", {"reasoning": "prl", "noise_start_epoch": 0}, 8),
    "rearec, a row per target": ("rearec", UNPACKED | {"reasoning": "prl", "noise_start_epoch": 0}, 48),
    "rearec, uniform negatives": ("rearec", SAMPLED, 8),
    "rearec, popular negatives": ("rearec", SAMPLED | {"negative_sampling": "popularity"}, 8),
    "s3rec": ("s3rec", {}, 8),
    "s3rec, a row per target": ("s3rec", UNPACKED, 48),
    "s3rec, over all items": ("s3rec", {"loss_type": "softmax"}, 8),
    "rearec, binary cross-entropy": ("rearec", SAMPLED | {"loss_type": "bce"}, 8),
}
OPTIONS = {
    "num_train_epochs": 1, "learning_rate": 0.003, "logging_steps": 1, "use_cpu": "true", "eval_users": 37,
    "eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": "false",
}  # fmt: skip
# Post-training by name: the method and its rewards, 32 answers a step.
POST_TRAINED = {"grpo of care": ("care", "hit prefix rank"), "grpo of reg4rec": ("reg4rec", "hit step_hit")}
GRPO = {
    "num_generations": 4, "max_steps": 5, "eval_steps": 5, "save_steps": 5, "logging_steps": 1, "learning_rate": 0.003,
    "use_cpu": "true", "eval_users": 37, "load_best_model_at_end": "false", "eval_on_start": "false", "beta": 0.1,
}  # fmt: skip


def as_options(keys: dict[str, Any]) -> list[str]:
    return [part for name, value in keys.items() for part in (f"--{name}", *str(value).split())]


def prepare_all(folder: Path) -> dict[str, Path]:
    """By method, a configuration whose data are prepared and tokenized."""
    rng = np.random.default_rng(0)
    (folder / "log.csv").write_text(even_and_odd_log(rng))
    names = [f"f{item:02d}" for item in range(ITEMS)]
    (folder / "films.csv").write_text("\n".join(["film,name", *(f"{name},Film {name}" for name in names)]) + "\n")
    np.save(folder / "texts.npy", rng.normal(size=(ITEMS, 6)).astype(np.float32))
    (folder / "texts.ids.txt").write_text("\n".join(names) + "\n")
    data: dict[str, Any] = {"source": "tabular", "source_path": folder / "log.csv", "item_path": folder / "films.csv"}
    data |= {"user_column": "member", "item_column": "film", "time_column": "seen_at", "title_column": "name"}
    configs = {}
    for method, keys in KEYS.items():
        keys = data | {"method": method, "output_dir": folder / method} | keys
        if "embeddings_path" in keys:
            keys["embeddings_path"] = folder / keys["embeddings_path"]
        lines = [f"{name}: {str(value).lower() if isinstance(value, bool) else value}" for name, value in keys.items()]
        configs[method] = folder / f"{method}.yaml"
        configs[method].write_text("\n".join(lines) + "\n")
        config = parse_config(str(configs[method]))
        prepare_data.main(config)
        tokenize_items.main(config)
    return configs


def pretrain(configs: dict[str, Path]) -> None:
    """Trains the models that are to be post-trained."""
    for method, _ in POST_TRAINED.values():
        once = as_options({"num_train_epochs": 1, "report_to": "none", "use_cpu": "true", "disable_tqdm": "true"})
        train.main(parse_config(str(configs[method]), once))


def names_for(way: str) -> list[str]:
    """The runs that can be trained this way: post-training is refused under ZeRO-3."""
    return [*RUNS, *([] if way == "ZeRO-3" else POST_TRAINED)]


def train_all(way: str, configs: dict[str, Path], folder: Path) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """By name, what each run comes to when it is launched this way: its record and its weights."""
    runs: list[dict[str, Any]] = [
        {"name": name, "config": str(configs[method]), "options": as_options(OPTIONS | keys), "rows": rows}
        for name, (method, keys, rows) in RUNS.items()
    ]
    for name, (method, rewards) in POST_TRAINED.items():
        options = as_options(GRPO | {"pretrained": configs[method].with_suffix(""), "rewards": rewards})
        runs += [{"name": name, "options": options, "rows": 32}] if name in names_for(way) else []
    folder.mkdir(exist_ok=True)
    (folder / "runs.json").write_text(json.dumps(runs))
    program = str(Path(__file__).with_name("train_several.py"))
    finished = subprocess.run(
        [sys.executable, *LAUNCHERS[way], program, folder / "runs.json", folder],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    if finished.returncode:
        raise RuntimeError(f"{way}: {finished.stderr[-5000:]}")
    return {
        name: (json.loads((folder / f"{name}.json").read_text()), load_file(folder / f"{name}.safetensors"))
        for name in names_for(way)
    }


def gaps(alone, several) -> dict[str, float]:
    """The largest differences: of what is logged with the loss in a step, of a weight, and of what evaluation finds."""
    (one, weights), (two, shared) = alone, several
    if (one["steps"], weights.keys()) != (two["steps"], shared.keys()):
        raise ValueError("other steps or weights")
    logged = [
        abs(ours[name] - theirs[name])
        for ours, theirs in zip(one["log"], two["log"], strict=True)
        for name in ours
        if name.startswith("loss") or name in ("reward", "kl")
    ]
    return {
        "loss": max(logged),
        "weight": max(float((weights[name] - shared[name]).abs().max()) for name in weights),
        "evaluation": max(abs(one["evaluation"][name] - two["evaluation"][name]) for name in one["evaluation"]),
    }
