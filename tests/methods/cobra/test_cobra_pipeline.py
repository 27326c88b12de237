"""COBRA by the same commands as the others: from somebody's own CSV to a recommendation; and a training that is
killed."""

import json

import numpy as np
import pytest
from conftest import (
    ITEMS,
    USERS,
    config_beside,
    exit_code,
    run_command,
    run_pipeline,
)
from finished_runs import (
    check_a_pool_is_trained_and_served,
    check_a_strangers_list,
    check_evaluated,
    prepared_for_a_pool,
)
from killed_trainings import check_a_killed_training
from safetensors.torch import load_file

from hf_genrec.methods.cobra.training_cobra import build_trainer
from hf_genrec.training.config import parse_config
from hf_genrec.training.shared_pools import HardenGates

pytestmark = pytest.mark.libraries


@pytest.fixture(scope="module")
def config(own_data):
    """The configuration of the same log with COBRA's keys in the place of CARE's, and ready-made embeddings."""
    rng = np.random.default_rng(0)
    np.save(own_data / "vectors.npy", rng.normal(size=(ITEMS, 6)).astype(np.float32))
    (own_data / "vectors.ids.txt").write_text("\n".join(f"f{item:02d}" for item in range(ITEMS)) + "\n")
    data_keys = ("source", "item_path", "user_column", "item_column", "time_column", "title_column")
    return config_beside(
        own_data,
        "cobra.yaml",
        f"""
method: cobra
embeddings_path: {own_data}/vectors.npy
codebook_sizes: [4, 4]
projection_dim: 4
collisions: keep
max_history: 6
hidden_size: 16
intermediate_size: 32
item_embeddings: true
output_dir: {own_data}/cobra-run
num_train_epochs: 4
per_device_train_batch_size: 16
learning_rate: 0.003
logging_steps: 1
use_cpu: true
""",
        data_keys,
    )


@pytest.fixture(scope="module")
def trained(config, own_data):
    run_pipeline(config)
    return own_data / "cobra-run"


def test_the_run_folder(trained):
    assert {path.name for path in trained.iterdir()} == {"data", "semantic_ids", "checkpoints", "model", "results"}
    assert {path.suffix for path in (trained / "model").rglob("*") if path.is_file()} == {
        ".json", ".py", ".safetensors", ".md"
    }  # fmt: skip
    record = json.loads((trained / "results/training.json").read_text())
    assert (record["num_targets"], record["steps"]) == (USERS * 6, 4 * 3)
    assert all({"loss_sparse", "loss_dense"} <= line.keys() for line in record["log"] if "loss" in line)
    text = load_file(trained / "model/model.safetensors")["model.items.text"]
    assert np.array_equal(text.numpy(), np.load(trained.parent / "vectors.npy"))


def test_evaluate_and_card(trained, monkeypatch, capsys):
    card = check_evaluated(monkeypatch, capsys, trained, "COBRA", "AutoModelForCausalLM")
    assert "| retrieval | fusion, dense weight 10 |" in card
    run_command(monkeypatch, capsys, "evaluate", trained, "--split", "validation", "--num-beams", "25")


def test_recommend_as_a_stranger_and_with_todays_code(trained, monkeypatch, capsys):
    check_a_strangers_list(monkeypatch, capsys, trained, "AutoModelForCausalLM", "score")
    assert "has the code of today" in run_command(monkeypatch, capsys, "refresh", trained)


def test_a_killed_training_ends_with_the_same_weights(trained, config, own_data):
    check_a_killed_training(config, trained, own_data / "cobra-killed")


def test_a_pool_starts_from_the_data_and_is_served(config, own_data, monkeypatch, capsys):
    run = own_data / "cobra-pool"
    options = prepared_for_a_pool(monkeypatch, capsys, config, run)
    trainer = build_trainer(parse_config(str(config), options))
    shared = [layer.shared for layer in trainer.model.model.layers]
    std = trainer.model.config.initializer_range
    assert all((part.pool.weight.std() - std).abs() > std / 4 for one in shared for part in (one.key, one.value))
    assert any(isinstance(callback, HardenGates) for callback in trainer.callback_handler.callbacks)
    check_a_pool_is_trained_and_served(monkeypatch, capsys, config, run, options, {"loss_peak", "loss_balance"})


def test_keys_of_other_methods_are_refused(config):
    with pytest.raises(ValueError, match="--num_queries belongs to method: care"):
        parse_config(str(config), ["--num_queries", "1"])
    assert exit_code("train", "--config", config, "--retrieval", "all") == 2
