"""What must hold of a run that the commands have finished, whatever its method."""

import json
from pathlib import Path

import pytest
from conftest import run_command

from hf_genrec.data.prepared import PreparedData
from hf_genrec.method import load_model


def check_evaluated(monkeypatch, capsys, run: Path, title: str, auto_class: str) -> str:
    """The validation split of a finished run by `hf-genrec evaluate`: its record, and its card, which is returned."""
    run_command(monkeypatch, capsys, "evaluate", run, "--split", "validation")
    records = json.loads((run / "results/validation.json").read_text())
    assert list(records) == [title, "most popular", "item-kNN"]
    metrics = records[title]["metrics"]
    # by the trainer's own evaluations of the best checkpoint: nobody in these data has a film twice
    figures = json.loads((run / "results/training.json").read_text())["seen_items"]["ndcg@10"]
    assert metrics["ndcg@10"]["value"] == pytest.approx(figures["history_left_out"])
    assert metrics["invalid_share"]["value"] == 0
    assert records[title]["token_bias_amplification"] is not None
    card = (run / "model/README.md").read_text()
    assert f"{metrics['ndcg@10']['value']:.4f}" in card
    assert f'model = {auto_class}.from_pretrained("{run.name}", trust_remote_code=True)' in card
    return card


def check_a_strangers_list(monkeypatch, capsys, run: Path, auto_class: str, score_name="log-probability") -> None:
    """`hf-genrec recommend --stranger` prints the list of the model, titles and scores."""
    out = run_command(monkeypatch, capsys, "recommend", run, "--user", "u00", "-k", "5", "--stranger")
    assert f"opened through {auto_class} in a process that cannot import hf_genrec" in out
    prepared = PreparedData.load(run / "data")
    history = [prepared.item_ids[row] for row in prepared.sequences[prepared.user_ids.index("u00")]]
    item_ids, scores = load_model(run / "model").recommend(history, k=5)
    for rank, (item_id, score) in enumerate(zip(item_ids, scores, strict=True), start=1):
        assert f"  {rank}. Film number {int(item_id[1:])}  (item {item_id}, {score_name} {score:.2f})" in out


def prepared_for_a_pool(monkeypatch, capsys, config: Path, run: Path) -> list[str]:
    """The options of a training with a shared pool into the folder `run`, whose data and codes are then there."""
    options = ["--output_dir", str(run), "--shared_kv_pool_size", "8", "--shared_kv_user_dim", "1"]
    for command in ("prepare", "tokenize"):
        run_command(monkeypatch, capsys, command, "--config", config, *options)
    return options


def check_a_pool_is_trained_and_served(monkeypatch, capsys, config: Path, run: Path, options, losses: set[str]) -> None:
    """`losses` are in every line of the log, and the user cache of the saved model gives the lists it gives without."""
    run_command(monkeypatch, capsys, "train", "--config", config, *options)
    record = json.loads((run / "results/training.json").read_text())
    assert all(losses <= line.keys() for line in record["log"] if "loss" in line)
    history = PreparedData.load(run / "data").item_ids[:3]
    model = load_model(run / "model")
    cache = model.user_cache()
    for _ in range(2):
        assert model.recommend(history, k=5, user_cache=cache)[0] == model.recommend(history, k=5)[0]
    assert cache.hits == 1
