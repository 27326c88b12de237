"""CodeTree by the same commands as the others, with a recommender's soft targets, and killed in between."""

import json

import numpy as np
import pytest
from conftest import (
    USERS,
    check_accumulated_batches,
    config_beside,
    make_processor,
    run_command,
    run_pipeline,
)
from finished_runs import check_a_strangers_list, check_evaluated
from killed_trainings import check_a_killed_training
from tiny_codetree import make_codetree

from hf_genrec.data.windows import ItemWindows
from hf_genrec.methods.codetree.training_codetree import CodeTreeTrainer, WindowCollator
from hf_genrec.training.arguments import GenRecTrainingArguments

pytestmark = pytest.mark.libraries


@pytest.fixture(scope="module")
def config(own_data):
    """The configuration of the same log with CodeTree's keys in the place of CARE's."""
    return config_beside(
        own_data,
        "codetree.yaml",
        f"""
method: codetree
codebook_sizes: [4, 4, 4]
max_history: 8
hidden_size: 16
intermediate_size: 32
output_dir: {own_data}/codetree-run
num_train_epochs: 4
per_device_train_batch_size: 8
learning_rate: 0.003
logging_steps: 1
use_cpu: true
""",
    )


@pytest.fixture(scope="module")
def trained(config, own_data):
    run_pipeline(config)
    return own_data / "codetree-run"


def test_the_report(trained):
    record = json.loads((trained / "results/training.json").read_text())
    assert record["num_targets"] == USERS * 6
    lines = [line for line in record["log"] if "loss" in line]
    for line in lines:
        total = sum(line[f"loss_code_{level}"] for level in (1, 2, 3))
        assert line["loss"] == pytest.approx(total, rel=1e-3)
    assert sum(line["loss"] for line in lines[-5:]) < sum(line["loss"] for line in lines[:5])


def test_evaluate_and_card(trained, monkeypatch, capsys):
    check_evaluated(monkeypatch, capsys, trained, "CodeTree", "AutoModelForSeq2SeqLM")
    run_command(monkeypatch, capsys, "evaluate", trained, "--split", "validation", "--num-beams", "25")
    run_command(monkeypatch, capsys, "refresh", trained)


def test_recommend_as_a_stranger(trained, monkeypatch, capsys):
    check_a_strangers_list(monkeypatch, capsys, trained, "AutoModelForSeq2SeqLM")


def test_a_killed_training_ends_with_the_same_weights(trained, config, own_data):
    check_a_killed_training(config, trained, own_data / "codetree-killed")


def test_accumulated_batches(tmp_path):
    processor = make_processor(num_items=30)
    sequences = [np.arange(start, start + size) for start, size in ((0, 5), (3, 12), (8, 2), (20, 9), (1, 1), (11, 7))]

    def trainer(**settings):
        arguments = GenRecTrainingArguments(
            output_dir=str(tmp_path), eval_strategy="no", save_strategy="no", load_best_model_at_end=False,
            use_cpu=True, report_to="none", logging_steps=1, **settings,
        )  # fmt: skip
        rows = ItemWindows(sequences, "all", 8)
        model = make_codetree(processor, hidden_dropout=0.0, attention_dropout=0.0)
        return CodeTreeTrainer(model, arguments, train_dataset=rows, data_collator=WindowCollator(processor))

    check_accumulated_batches(trainer, batch_size=2)
