import json
import logging
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

# One thread here and in the processes that tests start: sums in another order differ in their last bits.
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pytest
import torch
from even_and_odd import ITEMS as ITEMS
from even_and_odd import USERS as USERS
from even_and_odd import even_and_odd_log
from transformers import TrainerCallback

from hf_genrec import cli
from hf_genrec.decoding.processing_sequences import GenRecProcessor
from hf_genrec.methods.care.modeling_care import CareConfig, CareForCausalLM
from hf_genrec.semantic_ids.tokens import code_tokenizer
from hf_genrec.training.shared_pools import HardenGates

torch.set_num_threads(1)


def pytest_report_header(config):
    names = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "huggingface_hub")
    return ", ".join(f"{name} {version(name)}" for name in names)


class _Deprecations(logging.Handler):
    """Keeps what transformers says to whoever uses a name that it will drop: it logs some of that and warns of some."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record):
        if "deprecated" in record.getMessage():
            self.messages.append(record.getMessage())


@pytest.fixture(autouse=True)
def no_deprecated_names():
    """As a warning (see setup.cfg), a log line about a deprecated name fails the test that causes it."""
    handler = _Deprecations()
    logging.getLogger("transformers").addHandler(handler)
    yield
    logging.getLogger("transformers").removeHandler(handler)
    assert not handler.messages


def make_processor(num_items=40, sizes=(5, 6, 7), max_history=8, unique=True, seed=0) -> GenRecProcessor:
    rng = np.random.default_rng(seed)
    if unique:
        flat = rng.choice(int(np.prod(sizes)), num_items, replace=False)
        codes = np.stack(np.unravel_index(flat, sizes), axis=1)
    else:
        codes = np.stack([rng.integers(0, max(size // 2, 1), num_items) for size in sizes], axis=1)
    return GenRecProcessor(code_tokenizer(sizes), list(sizes), max_history).set_catalogue(
        [f"item-{row}" for row in range(num_items)],
        codes,
        [f"Title {row}" for row in range(num_items)],
        rng.integers(0, 30, num_items),
    )


def make_model(processor: GenRecProcessor, seed=0, **fields) -> CareForCausalLM:
    torch.manual_seed(seed)
    settings = {
        "num_queries": [1, 2, 1][: processor.num_levels],
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "tie_word_embeddings": True,
        "initializer_range": 0.3,  # far from uniform, so that rankings differ
        "max_history": processor.max_history,
        "codebook_sizes": processor.codebook_sizes,
        "answer_token_id": processor.answer_token_id,
        "pad_token_id": processor.tokenizer.pad_token_id,
        "vocab_size": len(processor.tokenizer),
    } | fields
    model = CareForCausalLM(CareConfig(**settings)).eval()
    model.processor = processor
    return model


@pytest.fixture
def processor() -> GenRecProcessor:
    return make_processor()


@pytest.fixture
def model(processor) -> CareForCausalLM:
    return make_model(processor)


@pytest.fixture
def histories() -> list[list[str]]:
    return [["item-3", "item-9", "item-1"], [], ["item-5"], [f"item-{row}" for row in range(8)]]


@pytest.fixture(scope="session")
def own_data(tmp_path_factory):
    """A log and its items as a user would have them: even users like even items."""
    folder = tmp_path_factory.mktemp("mine")
    (folder / "log.csv").write_text(even_and_odd_log(np.random.default_rng(0)))
    films = [f"f{item:02d},Film number {item}" for item in range(ITEMS)]
    (folder / "films.csv").write_text("\n".join(["film,name", *films]) + "\n")
    (folder / "mine.yaml").write_text(
        f"""# my films
source: tabular
source_path: {folder}/log.csv
item_path: {folder}/films.csv
user_column: member
item_column: film
time_column: seen_at
title_column: name
vectors: collaborative
collaborative_dim: 8
codebook_sizes: [4, 4, 4]
max_history: 8
hidden_size: 32
intermediate_size: 48
attention_dropout: 0.1
output_dir: {folder}/run
num_train_epochs: 4
per_device_train_batch_size: 16
learning_rate: 0.003
use_cpu: true
method: care
"""
    )
    return folder


# What a log is read with, and its codes made of.
CODED_DATA = ("source", "item_path", "user_column", "item_column", "time_column", "title_column", "vectors", "collab")


def config_beside(own_data: Path, name: str, keys: str, kept: tuple[str, ...] = CODED_DATA) -> Path:
    """A configuration of the log of `mine.yaml`: its lines that begin with what is `kept`, and then `keys`."""
    data = [line for line in (own_data / "mine.yaml").read_text().splitlines() if line.startswith(kept)]
    (own_data / name).write_text("\n".join(data) + keys)
    return own_data / name


@pytest.fixture(scope="session")
def rearec_config(own_data) -> Path:
    """The configuration of the same log with ReaRec's keys in the place of CARE's."""
    data_keys = ("source", "item_path", "user_column", "item_column", "time_column", "title_column")
    return config_beside(
        own_data,
        "rearec.yaml",
        f"""
method: rearec
max_history: 4
hidden_size: 16
intermediate_size: 32
hidden_dropout: 0.1
attention_dropout: 0.1
output_dir: {own_data}/rearec-run
num_train_epochs: 6
per_device_train_batch_size: 8
train_sampling_strategy: random
learning_rate: 0.003
weight_decay: 0.0
logging_steps: 1
use_cpu: true
""",
        data_keys,
    )


def run_command(monkeypatch, capsys, *arguments) -> str:
    """What `hf-genrec` with these arguments prints; it must succeed."""
    monkeypatch.setattr(sys, "argv", ["hf-genrec", *map(str, arguments)])
    with pytest.raises(SystemExit) as finished:
        cli.main()
    captured = capsys.readouterr()
    assert finished.value.code == 0, captured.err
    return captured.out


# Runs commands one after the other and prints, per command, its exit code and which of some modules are imported.
COMMANDS_PROGRAM = """
import json, sys
from hf_genrec import cli
for command in json.loads(sys.argv[1]):
    sys.argv = ["hf-genrec", *command]
    try:
        cli.main()
    except SystemExit as finished:
        print(json.dumps([finished.code, sorted(sys.modules)]))
"""


def outcomes(commands) -> tuple[list, list[str]]:
    """Exit code and imported modules of each command in one new process, and its lines of errors."""
    command = [sys.executable, "-c", COMMANDS_PROGRAM, json.dumps([list(map(str, command)) for command in commands])]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    found = [json.loads(line) for line in finished.stdout.splitlines() if line.startswith("[")]
    return found, [line for line in finished.stderr.splitlines() if line.startswith("error: ")]


def exit_code(*arguments) -> int:
    """What `hf-genrec` with these arguments ends with."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["hf-genrec", *map(str, arguments)])
        with pytest.raises(SystemExit) as finished:
            cli.main()
    return finished.value.code


def run_pipeline(config: Path) -> None:
    """`hf-genrec prepare`, `tokenize` and `train` with this configuration; all must succeed."""
    for command in ("prepare", "tokenize", "train"):
        assert exit_code(command, "--config", config) == 0


def check_accumulated_batches(make_trainer, batch_size: int) -> None:
    """An epoch of small batches in one step has the loss and the gradient of one batch that holds all rows."""
    gradients, losses = [], []

    class Keep(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            gradients.append({name: tensor.grad.clone() for name, tensor in model.named_parameters()})

    for size, batches in ((1000, 1), (batch_size, 1000)):
        trainer = make_trainer(
            per_device_train_batch_size=size,
            gradient_accumulation_steps=batches,
            num_train_epochs=1,
            max_grad_norm=0.0,
        )
        trainer.add_callback(Keep())
        trainer.train()
        losses.append(next(line["loss"] for line in trainer.state.log_history if "loss" in line))
    assert len(gradients) == 2
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)


def check_hard_gates(model, batch: dict, least: float) -> None:
    """At the end of a training the loss is that of what is served, from which soft gates are at least so far away."""
    model.config.shared_kv_peak_weight = model.config.shared_kv_balance_weight = 0.0
    served = model(**batch).loss.item()
    model.train()
    assert abs(model(**batch).loss.item() - served) > least
    state = type("State", (), {"global_step": 8, "max_steps": 10})
    HardenGates().on_step_begin(None, state, None, model=model)
    assert model(**batch).loss.item() == pytest.approx(served, abs=1e-9)
