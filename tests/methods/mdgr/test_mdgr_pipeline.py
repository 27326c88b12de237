"""MDGR by the same commands as the others, on codes of OPQ: from somebody's own CSV to a recommendation; a training
that is killed; new items."""

import json

import numpy as np
import pytest
import torch
from conftest import USERS, config_beside, run_command, run_pipeline
from finished_runs import check_a_strangers_list, check_evaluated
from killed_trainings import check_a_killed_training

from hf_genrec.item_tokenizers import load_item_tokenizer
from hf_genrec.method import load_method, load_model
from hf_genrec.methods.mdgr.arguments import MdgrArguments
from hf_genrec.training.config import parse_config

pytestmark = pytest.mark.libraries


@pytest.fixture(scope="module")
def config(own_data):
    """The configuration of the same log with MDGR's keys in the place of CARE's."""
    data_keys = ("source:", "source_path", "item_path", "user_column", "item_column", "time_column", "title_column")
    return config_beside(
        own_data,
        "mdgr.yaml",
        f"""
method: mdgr
item_tokenizer: opq
vectors: collaborative
collaborative_dim: 8
codebook_sizes: [4, 4, 4]
max_history: 8
hidden_size: 16
intermediate_size: 32
num_hidden_layers: 2
output_dir: {own_data}/mdgr-run
num_train_epochs: 4
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
    return own_data / "mdgr-run"


def test_the_run_folder(trained):
    assert {path.name for path in trained.iterdir()} == {"data", "semantic_ids", "checkpoints", "model", "results"}
    assert {path.suffix for path in (trained / "model").rglob("*") if path.is_file()} == {
        ".json", ".py", ".safetensors", ".md"
    }  # fmt: skip
    record = json.loads((trained / "results/training.json").read_text())
    assert (record["num_targets"], record["steps"]) == (USERS * 6, 4 * 8)
    losses = [line["loss"] for line in record["log"] if "loss" in line]
    assert np.mean(losses[-4:]) < np.mean(losses[:4])
    assert (trained / "model/item_tokenizer/modeling_opq.py").is_file()


def test_evaluate_and_card(trained, monkeypatch, capsys):
    card = check_evaluated(monkeypatch, capsys, trained, "MDGR", "AutoModelForMaskedLM")
    assert "fills in those of the next item in 2 steps" in card
    assert "| codes written one at a time, then at once | 1, 3 |" in card
    run_command(monkeypatch, capsys, "evaluate", trained, "--split", "validation", "--num-beams", "25")


def test_recommend_as_a_stranger(trained, monkeypatch, capsys):
    check_a_strangers_list(monkeypatch, capsys, trained, "AutoModelForMaskedLM")


def test_a_new_item_gets_its_codes_from_the_tokenizer_that_travels(trained):
    model = load_model(trained / "model")
    tokenizer = load_item_tokenizer(trained / "model/item_tokenizer")
    codes = tokenizer.encode_parts(collaborative=np.random.default_rng(0).normal(size=(1, 8)))
    model.processor.add_items(["new"], codes)
    found, scores = model.recommend(["f01"], k=25)
    assert found.count("new") == 1
    assert scores[found.index("new")] == pytest.approx(float(model.score_items(["f01"], ["new"])), abs=1e-5)


def test_a_killed_training_ends_with_the_same_weights(trained, config, own_data):
    """What is hidden depends on the time of the training and on draws: the rest draws what the whole run drew."""
    check_a_killed_training(config, trained, own_data / "mdgr-killed")


@pytest.mark.parametrize(("views", "count"), [("familiarity", 4), ("random", 4), ("sequential", 3), ("guided", 3)])
def test_views_of_a_batch(trained, config, views, count):
    """Drawn anew at each step from torch's generator, but for those that the model itself decides."""
    options = ["--views", views, "--use_cpu", "true", "--report_to", "none", "--dropout", "0.5"]
    trainer = load_method("mdgr").build_trainer(parse_config(str(config), options))
    batch = next(iter(trainer.get_train_dataloader()))
    torch.manual_seed(0)
    first, second = (trainer.views(trainer.model, batch) for _ in range(2))
    torch.manual_seed(0)
    again = trainer.views(trainer.model, batch)
    assert first.shape == (32, count, 3)
    assert first.any(-1).all()  # there is something to tell in every view
    assert torch.equal(first, again)
    assert torch.equal(first, second) == (views == "guided")  # asked without dropout
    if views == "familiarity":
        assert first.sum(-1).unique().tolist() == [1, 3]  # at the start one code, or all
        trainer.state.global_step = trainer.state.max_steps = 10
        assert trainer.views(trainer.model, batch).sum(-1).unique().tolist() == [1, 2, 3]
    assert trainer.model.training


def test_keys_that_make_no_sense():
    for keys, message in (
        ({"views": "best"}, "views: 'best' is not one of familiarity, guided, sequential, random"),
        ({"guided_first": "last"}, "guided_first: 'last' is not one of least, most"),
        ({"num_views": 0}, "num_views must be at least 1"),
        ({"full_view_share": 1.5}, "full_view_share must be from 0 to 1"),
        ({"parallel_width": 0}, "parallel_width=0"),
        ({"hidden_size": 10}, "does not divide into 4 heads"),
    ):
        with pytest.raises(ValueError, match=message):
            MdgrArguments(**keys)
    assert MdgrArguments(warmup_codes=6).config_fields()["warmup_codes"] == 6
