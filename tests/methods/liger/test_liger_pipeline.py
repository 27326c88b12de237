"""LIGER by the same commands as the others: from somebody's own CSV to a recommendation; and a training that is
killed."""

import json

import numpy as np
import pytest
from conftest import ITEMS, USERS, config_beside, run_command, run_pipeline
from finished_runs import check_a_strangers_list, check_evaluated
from killed_trainings import check_a_killed_training

from hf_genrec.method import load_model
from hf_genrec.training.config import parse_config

pytestmark = pytest.mark.libraries


@pytest.fixture(scope="module")
def config(own_data):
    """The configuration of the same log with LIGER's keys in the place of CARE's, and ready-made embeddings."""
    rng = np.random.default_rng(0)
    np.save(own_data / "liger.npy", rng.normal(size=(ITEMS, 6)).astype(np.float32))
    (own_data / "liger.ids.txt").write_text("\n".join(f"f{item:02d}" for item in range(ITEMS)) + "\n")
    data_keys = ("source", "item_path", "user_column", "item_column", "time_column", "title_column")
    return config_beside(
        own_data,
        "liger.yaml",
        f"""
method: liger
embeddings_path: {own_data}/liger.npy
codebook_sizes: [4, 4, 4]
projection_dim: 4
max_history: 6
hidden_size: 16
intermediate_size: 32
num_encoder_layers: 1
num_hidden_layers: 1
num_attention_heads: 2
head_dim: 8
projector_sizes: [8]
code_embeddings: centroids
output_dir: {own_data}/liger-run
num_train_epochs: 3
per_device_train_batch_size: 32
learning_rate: 0.003
logging_steps: 1
use_cpu: true
""",
        data_keys,
    )


@pytest.fixture(scope="module")
def trained(config, own_data):
    run_pipeline(config)
    return own_data / "liger-run"


def test_the_run_its_figures_and_its_card(trained, monkeypatch, capsys):
    record = json.loads((trained / "results/training.json").read_text())
    assert (record["num_targets"], record["steps"]) == (USERS * 6, 3 * 8)
    assert all({"loss_sparse", "loss_dense"} <= line.keys() for line in record["log"] if "loss" in line)
    card = check_evaluated(monkeypatch, capsys, trained, "LIGER", "AutoModelForSeq2SeqLM")
    assert "| retrieval | hybrid |" in card


def test_recommend_as_a_stranger_and_with_todays_code(trained, monkeypatch, capsys):
    check_a_strangers_list(monkeypatch, capsys, trained, "AutoModelForSeq2SeqLM", "score")
    assert "has the code of today" in run_command(monkeypatch, capsys, "refresh", trained)
    assert len(load_model(trained / "model").recommend([], k=5)[0]) == 5


def test_a_killed_training_ends_with_the_same_weights(trained, config, own_data):
    check_a_killed_training(config, trained, own_data / "liger-killed")


def test_keys_of_other_methods_are_refused(config):
    with pytest.raises(ValueError, match="option --packing belongs to method"):
        parse_config(str(config), ["--packing", "false"])
