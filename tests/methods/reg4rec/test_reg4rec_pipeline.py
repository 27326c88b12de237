"""REG4Rec by the same commands as the others: from somebody's own CSV to a recommendation; and a training that is
killed."""

import json
import shutil

import pytest
from conftest import ITEMS, USERS, config_beside, run_command, run_pipeline
from finished_runs import check_a_strangers_list, check_evaluated
from killed_trainings import check_a_killed_training
from safetensors.torch import load_file

from hf_genrec.trainers import train
from hf_genrec.training.config import parse_config

pytestmark = pytest.mark.libraries


@pytest.fixture(scope="module")
def config(own_data):
    """The configuration of the same log with REG4Rec's keys in the place of CARE's; every third film is a comedy."""
    films = [f"f{item:02d},Film number {item},{'Comedy' if item % 3 == 0 else 'Drama'}" for item in range(ITEMS)]
    (own_data / "films-with-genres.csv").write_text("\n".join(["film,name,genre", *films]) + "\n")
    data_keys = ("source:", "source_path", "user_column", "item_column", "time_column", "title_column")
    return config_beside(
        own_data,
        "reg4rec.yaml",
        f"""
method: reg4rec
item_path: {own_data}/films-with-genres.csv
categories_column: genre
vectors: collaborative
collaborative_dim: 8
codebook_sizes: [4, 4, 4]
max_history: 8
hidden_size: 16
intermediate_size: 32
output_dir: {own_data}/reg4rec-run
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
    return own_data / "reg4rec-run"


def test_the_run_folder(trained):
    assert {path.name for path in trained.iterdir()} == {"data", "semantic_ids", "checkpoints", "model", "results"}
    assert {path.suffix for path in (trained / "model").rglob("*") if path.is_file()} == {
        ".json", ".py", ".safetensors", ".md"
    }  # fmt: skip
    record = json.loads((trained / "results/training.json").read_text())
    assert record["num_targets"] == USERS * 6
    assert record["steps"] == 4 * 8
    assert all({"loss_token", "loss_category"} <= line.keys() for line in record["log"] if "loss" in line)
    categories = json.loads((trained / "results/categories.json").read_text())
    assert categories == {"num_categories": 2, "majority_share": 2 / 3, "items": {"Drama": 16, "Comedy": 8}}
    assert json.loads((trained / "model/config.json").read_text())["num_categories"] == 2


def test_evaluate_and_card(trained, monkeypatch, capsys):
    card = check_evaluated(monkeypatch, capsys, trained, "REG4Rec", "AutoModelForSeq2SeqLM")
    assert "| codes per codebook | [4, 4, 4] |" in card
    assert "| reflection (CORP) | off |" in card
    run_command(monkeypatch, capsys, "evaluate", trained, "--split", "validation", "--num-beams", "25")


def test_the_item_tokenizer_travels_along(trained):
    own, exported = (load_file(folder / "item_tokenizer/model.safetensors") for folder in (
        trained / "semantic_ids", trained / "model"
    ))  # fmt: skip
    assert own.keys() == exported.keys()


def test_recommend_as_a_stranger(trained, monkeypatch, capsys):
    check_a_strangers_list(monkeypatch, capsys, trained, "AutoModelForSeq2SeqLM")


def test_a_killed_training_ends_with_the_same_weights(trained, config, own_data):
    """In random order or in the model's own: the rest draws what the whole run drew."""
    check_a_killed_training(config, trained, own_data / "reg4rec-killed")


def test_keys_of_other_methods_are_refused(config, trained, tmp_path):
    with pytest.raises(ValueError, match="--packing belongs to method: care"):
        parse_config(str(config), ["--packing", "false"])
    for part in ("data", "semantic_ids"):
        shutil.copytree(trained / part, tmp_path / part)
    with pytest.raises(ValueError, match="no column kind"):
        train.main(parse_config(str(config), ["--category_column", "kind", "--output_dir", str(tmp_path)]))
