"""
Two processes on one machine train what one process trains: each method, with each loss that looks at the whole batch.

A pair of processes trains all runs, one after the other, by `train_several.py`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import CODED_DATA, ITEMS, config_beside, exit_code
from safetensors.torch import load_file

pytestmark = [pytest.mark.slow, pytest.mark.libraries]

ACCELERATE = Path(__file__).parents[2] / "configs/accelerate"
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
ITSELF = ["source", "item_path", "user_column", "item_column", "time_column", "title_column"]

# By configuration: what its data are beside the log, and keys of a small model without dropout.
CODES = {"codebook_sizes": [4, 4, 4], "max_history": 8}
SMALL = {"hidden_size": 16, "intermediate_size": 32}
T5 = {"num_encoder_layers": 1, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 8, "dropout": 0}
KEYS = {
    "care": CODES | SMALL | {"query_diversity_weight": 0.5},
    "rearec": {"max_history": 8, "embedding_dropout": 0, "hidden_dropout": 0, "attention_dropout": 0} | SMALL,
    "reg4rec": CODES | SMALL | {"dropout": 0},
    "tiger": CODES | SMALL | T5,
    "s2gr": CODES | SMALL | T5 | {"num_clusters": 2},
    "cobra": CODES | SMALL | {"dropout": 0, "projection_dim": 4, "item_embeddings": True},
    "liger": CODES | SMALL | T5 | {"projection_dim": 4, "projector_sizes": [8], "projector_dropout": 0}
    | {"input_dropout": 0},
    "codetree": CODES | SMALL | {"hidden_dropout": 0, "attention_dropout": 0},
}  # fmt: skip

# By name: the configuration, further keys, and the rows of a step, of 40 users with 6 targets each. 14, 6 and 46 leave
# some for the last step.
UNPACKED = {"packing": "false"}
SAMPLED = {"reasoning": "none", "loss_type": "sampled_softmax", "num_negatives": 8}
RUNS = {
    "care": ("care", {"packed_row_tokens": 28}, 14),
    "care, a row per target": ("care", UNPACKED, 48),
    "codetree": ("codetree", {}, 6),
    "codetree, a row per target": ("codetree", UNPACKED, 48),
    "tiger": ("tiger", {}, 46),
    "s2gr": ("s2gr", {}, 48),
    "liger": ("liger", {}, 48),
    "reg4rec, random and own orders": ("reg4rec", {"confidence_order_from": 0.5}, 48),
    "cobra": ("cobra", {}, 8),
    "cobra, a row per target": ("cobra", UNPACKED, 48),
    "cobra, negatives of the batch": ("cobra", {"negatives": "batch"}, 8),
    "cobra, negatives of other users": ("cobra", {"negatives": "other_users"}, 8),
    "rearec, erl": ("rearec", {"reasoning": "erl"}, 8),
    "rearec, prl with noise": ("rearec", {"reasoning": "prl", "noise_start_epoch": 0}, 8),
    "rearec, a row per target": ("rearec", UNPACKED | {"reasoning": "prl", "noise_start_epoch": 0}, 48),
    "rearec, uniform negatives": ("rearec", SAMPLED, 8),
    "rearec, popular negatives": ("rearec", SAMPLED | {"negative_sampling": "popularity"}, 8),
    "rearec, binary cross-entropy": ("rearec", SAMPLED | {"loss_type": "bce"}, 8),
}
OPTIONS = {
    "num_train_epochs": 1, "learning_rate": 0.003, "logging_steps": 1, "use_cpu": "true", "eval_users": 37,
    "eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": "false", "max_grad_norm": 1.0,
}  # fmt: skip

POST_TRAINED = {"care": "hit prefix rank", "reg4rec": "hit step_hit"}  # and with which rewards
GRPO = {
    "num_generations": 4, "max_steps": 5, "eval_steps": 5, "save_steps": 5, "logging_steps": 1, "learning_rate": 0.003,
    "use_cpu": "true", "eval_users": 37, "load_best_model_at_end": "false", "eval_on_start": "false", "beta": 0.1,
}  # fmt: skip
GRPO_RUNS = [f"grpo of {method}" for method in POST_TRAINED]


def as_options(keys):
    return [part for name, value in keys.items() for part in (f"--{name}", *str(value).split())]


@pytest.fixture(scope="module")
def prepared(own_data):
    """Per method a configuration whose data are prepared and tokenized."""
    rng = np.random.default_rng(0)
    np.save(own_data / "texts.npy", rng.normal(size=(ITEMS, 6)).astype(np.float32))
    (own_data / "texts.ids.txt").write_text("\n".join(f"f{item:02d}" for item in range(ITEMS)) + "\n")
    texts = {"embeddings_path": own_data / "texts.npy"}
    configs = {}
    for method, keys in KEYS.items():
        keys = {"method": method, "output_dir": own_data / f"{method}-several"} | keys
        keys |= texts if method in ("cobra", "liger") else {}
        lines = "".join(f"\n{name}: {str(value).lower()}" for name, value in keys.items())
        kept = tuple(ITSELF) if method in ("cobra", "liger", "rearec") else CODED_DATA
        configs[method] = config_beside(own_data, f"{method}-several.yaml", lines + "\n", kept)
        for command in ("prepare", "tokenize"):
            assert exit_code(command, "--config", configs[method]) == 0
    once = as_options({"num_train_epochs": 1, "report_to": "none", "use_cpu": "true"})
    for method in POST_TRAINED:
        assert exit_code("train", "--config", configs[method], *once) == 0
    return configs


def train_all(launcher, configs, folder):
    """What each run of `RUNS` comes to: its record and weights by name."""
    runs = [
        {"name": name, "config": str(configs[method]), "options": as_options(OPTIONS | keys), "rows": rows}
        for name, (method, keys, rows) in RUNS.items()
    ]
    for name, (method, rewards) in zip(GRPO_RUNS, POST_TRAINED.items(), strict=True):
        source = configs[method].parent / f"{method}-several"
        options = as_options(GRPO | {"pretrained": source, "rewards": rewards})
        runs.append({"name": name, "options": options, "rows": 32})
    (folder / "runs.json").write_text(json.dumps(runs))
    finished = subprocess.run(
        [sys.executable, *launcher, str(Path(__file__).with_name("train_several.py")), folder / "runs.json", folder],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert finished.returncode == 0, finished.stderr[-5000:]
    return {
        name: (json.loads((folder / f"{name}.json").read_text()), load_file(folder / f"{name}.safetensors"))
        for name in [*RUNS, *GRPO_RUNS]
    }


@pytest.fixture(scope="module")
def alone(prepared, tmp_path_factory):
    return train_all([], prepared, tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="module")
def together(prepared, tmp_path_factory):
    return train_all(TORCHRUN, prepared, tmp_path_factory.mktemp("together"))


def check_same(alone, several, tolerance=1e-4):
    (one, weights), (two, shared) = alone, several
    assert (one["processes"], two["processes"]) == (1, 2)
    assert one["steps"] == two["steps"] == len(one["log"]) >= 5
    for ours, theirs in zip(one["log"], two["log"], strict=True):
        for name in ours:
            if name.startswith("loss") or name in ("reward", "kl"):
                assert theirs[name] == pytest.approx(ours[name], abs=tolerance), name
    assert weights.keys() == shared.keys()
    for name in weights:
        gap = (shared[name] - weights[name]).abs().max()
        assert gap <= tolerance, name
    assert two["evaluation"] == pytest.approx(one["evaluation"])


@pytest.mark.parametrize("name", [*RUNS, *GRPO_RUNS])
def test_two_processes_train_what_one_trains(alone, together, name):
    check_same(alone[name], together[name])
