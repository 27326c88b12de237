"""ReaRec by the same commands as CARE: from somebody's own CSV to a recommendation; and a training that is killed."""

import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import ITEMS, USERS, run_command, run_pipeline
from finished_runs import check_a_strangers_list
from killed_trainings import check_a_killed_training
from safetensors.torch import load_file

from hf_genrec import cli
from hf_genrec.data.prepared import PreparedData
from hf_genrec.hub import recommend_as_stranger
from hf_genrec.method import load_model
from hf_genrec.trainers import train
from hf_genrec.training import text_vectors
from hf_genrec.training.config import parse_config

pytestmark = pytest.mark.libraries


@pytest.fixture(scope="module")
def trained(rearec_config, own_data):
    run_pipeline(rearec_config)
    return own_data / "rearec-run"


def test_the_run_folder(trained):
    assert {path.name for path in trained.iterdir()} == {"data", "checkpoints", "model", "results"}
    assert {path.suffix for path in (trained / "model").rglob("*")} == {".json", ".py", ".safetensors", ".md"}
    record = json.loads((trained / "results/training.json").read_text())
    # Of 8 items two are held out and the first has none before it; four of the others share a row, one has its own.
    assert record["num_targets"] == USERS * 5
    assert record["steps"] == 6 * 2 * USERS / 8
    noised = [line["epoch"] for line in record["log"] if "loss_contrastive" in line]
    assert noised
    assert min(noised) > 2


def test_nothing_is_tokenized(rearec_config, trained, monkeypatch, capsys, caplog):
    with caplog.at_level("INFO"):
        run_command(monkeypatch, capsys, "tokenize", "--config", rearec_config)
    assert [record.getMessage() for record in caplog.records] == [
        "method: rearec has no semantic IDs, so there is nothing to tokenize: go on with `hf-genrec train`"
    ]
    assert not (trained / "semantic_ids").exists()


def test_evaluate_and_card(trained, monkeypatch, capsys):
    run_command(monkeypatch, capsys, "evaluate", trained, "--split", "validation")
    records = json.loads((trained / "results/validation.json").read_text())
    assert list(records) == ["ReaRec", "most popular", "item-kNN"]
    training = json.loads((trained / "results/training.json").read_text())
    ndcg = records["ReaRec"]["metrics"]["ndcg@10"]["value"]
    assert ndcg == pytest.approx(training["seen_items"]["ndcg@10"]["history_left_out"])
    assert records["ReaRec"]["num_items"] == ITEMS
    assert records["ReaRec"]["token_bias_amplification"] is None
    card = (trained / "model/README.md").read_text()
    assert f"{ndcg:.4f}" in card
    assert "semantic" not in card
    assert 'model = AutoModelForSequenceClassification.from_pretrained("rearec-run", trust_remote_code=True)' in card

    monkeypatch.setattr(sys, "argv", ["hf-genrec", "evaluate", str(trained), "--num-beams", "5"])
    with pytest.raises(SystemExit) as finished:
        cli.main()
    assert finished.value.code == 2
    assert "scores every item and searches no beams" in capsys.readouterr().err


def test_recommend_as_a_stranger(trained, monkeypatch, capsys):
    check_a_strangers_list(monkeypatch, capsys, trained, "AutoModelForSequenceClassification", "score")


def test_a_killed_training_ends_with_the_same_weights(trained, rearec_config, own_data):
    """Killed before PRL's noise begins, or in its first epochs: the rest draws the noise the whole run drew."""
    check_a_killed_training(rearec_config, trained, own_data / "rearec-killed")


def test_a_text_backbone_trains_on_embeddings(trained, rearec_config, own_data, monkeypatch):
    vectors = np.random.default_rng(0).normal(size=(ITEMS, 7)).astype(np.float32)
    monkeypatch.setattr(text_vectors, "embed_texts", lambda texts, model, cache_folder: vectors)
    folder = own_data / "rearec-text"
    folder.mkdir()
    subprocess.run(["cp", "-r", trained / "data", folder / "data"], check=True)
    options = ["--backbone", "unisrec", "--text_dim", "5", "--output_dir", str(folder), "--num_train_epochs", "1"]
    train.main(parse_config(str(rearec_config), options))
    model = load_model(folder / "model")
    assert (model.config.backbone, model.config.item_vector_size) == ("unisrec", 5)
    saved = load_file(folder / "model/model.safetensors")["model.items.vectors"]
    centred = torch.from_numpy(vectors - vectors.mean(0))
    # The Gram matrix of five of seven components: nearest of its rank.
    left, singular, _ = torch.linalg.svd(centred, full_matrices=False)
    expected = (left[:, :5] * singular[:5] ** 2) @ left[:, :5].T
    torch.testing.assert_close(saved @ saved.T, expected, rtol=1e-3, atol=1e-3)
    assert len(model.recommend(["f01"], k=ITEMS, exclude_seen=False)[0]) == ITEMS


def test_ready_made_embeddings_take_the_place_of_the_text(trained, rearec_config, own_data, capsys):
    """Trained on embeddings of images, say; a new item enters by its own, and a stranger recommends it."""
    prepared = PreparedData.load(trained / "data")
    vectors = np.random.default_rng(0).normal(size=(ITEMS + 1, 7)).astype(np.float32)
    table = pa.table({"film": [*prepared.item_ids, "f99"], "vector": list(vectors)})
    pq.write_table(table, own_data / "vectors.parquet")
    folder = own_data / "rearec-images"
    folder.mkdir()
    subprocess.run(["cp", "-r", trained / "data", folder / "data"], check=True)
    options = ["--embeddings_path", str(own_data / "vectors.parquet"), "--embeddings_id_column", "film"]
    options += ["--output_dir", str(folder), "--num_train_epochs", "1"]
    with pytest.raises(ValueError, match="embeddings_path is not read by backbone: sasrec; use unisrec or morec"):
        train.main(parse_config(str(rearec_config), options))
    config = parse_config(str(rearec_config), [*options, "--backbone", "morec", "--text_dim", "5"])
    train.main(config)
    model = load_model(folder / "model")
    before = dict(zip(*model.recommend(["f01", "f03"], k=ITEMS), strict=True))

    new = pa.table({"item_id": ["f99"]})
    tokenizer = parse_config(str(rearec_config), options).tokenizer
    known = text_vectors.text_vectors(prepared.items, tokenizer, 5)
    torch.testing.assert_close(torch.from_numpy(known), model.base_model.items.vectors)
    model.add_items(["f99"], text_vectors.text_vectors(prepared.items, tokenizer, 5, new_items=new), ["New film"])
    after = dict(zip(*model.recommend(["f01", "f03"], k=ITEMS + 1), strict=True))
    assert after.pop("f99") == pytest.approx(model.score_items(["f01", "f03"], ["f99"]).item(), rel=1e-5)
    assert after == pytest.approx(before, rel=1e-5)
    model.save_pretrained(folder / "grown")
    expected = model.recommend(["f99", "f01"], k=ITEMS + 1)
    loaded = load_model(folder / "grown")
    item_ids, scores = loaded.recommend(["f99", "f01"], k=ITEMS + 1)
    assert (item_ids, scores) == (expected[0], pytest.approx(expected[1], rel=1e-5))
    assert loaded.processor.title("f99") == "New film"
    item_ids, scores = recommend_as_stranger(folder / "grown", ["f99", "f01"], ITEMS + 1)
    assert item_ids == expected[0]
    assert scores == pytest.approx(expected[1], rel=1e-5)


def test_a_training_without_evaluations(trained, rearec_config, own_data, caplog):
    """The newest weights are the model; patience has no evaluations to count."""
    folder = own_data / "rearec-unseen"
    folder.mkdir()
    subprocess.run(["cp", "-r", trained / "data", folder / "data"], check=True)
    options = ["--output_dir", str(folder), "--eval_strategy", "no", "--save_strategy", "no", "--max_steps", "2"]
    with caplog.at_level("INFO"):
        train.main(parse_config(str(rearec_config), [*options, "--early_stopping_patience", "1"]))
    assert f"never evaluated, saved to {folder / 'model'}" in caplog.text
    record = json.loads((folder / "results/training.json").read_text())
    assert (record["steps"], record["best_validation_ndcg@10"]) == (2, None)
    assert len(load_model(folder / "model").recommend(["f01"], k=5)[0]) == 5
