"""S2GR by the same commands as the others, and what its trainer reports."""

import itertools
import json
import shutil

import numpy as np
import pytest
import torch
from conftest import USERS, config_beside, run_command, run_pipeline
from finished_runs import check_a_strangers_list, check_evaluated
from killed_trainings import check_a_killed_training

from hf_genrec.catalogue.item_trie import ItemTrie
from hf_genrec.decoding.trie_logits_processor import TrieLogitsProcessor
from hf_genrec.item_tokenizers import load_item_tokenizer
from hf_genrec.method import load_model
from hf_genrec.methods.s2gr.arguments import S2grArguments
from hf_genrec.methods.s2gr.training_s2gr import build_trainer, codebook_clusters
from hf_genrec.training.config import parse_config

pytestmark = pytest.mark.libraries


@pytest.fixture(scope="module")
def config(own_data):
    """The configuration of the same log with S2GR's keys in the place of CARE's."""
    return config_beside(
        own_data,
        "s2gr.yaml",
        f"""
method: s2gr
codebook_sizes: [4, 4, 4]
max_history: 8
hidden_size: 16
intermediate_size: 32
num_encoder_layers: 1
num_hidden_layers: 2
num_attention_heads: 2
head_dim: 8
num_clusters: 2
output_dir: {own_data}/s2gr-run
num_train_epochs: 4
per_device_train_batch_size: 32
learning_rate: 0.003
logging_steps: 1
use_cpu: true
""",
    )


@pytest.fixture(scope="module")
def trained(config, own_data):
    run_pipeline(config)
    return own_data / "s2gr-run"


def test_the_report(trained):
    record = json.loads((trained / "results/training.json").read_text())
    assert record["num_targets"] == USERS * 6
    lines = [line for line in record["log"] if "loss" in line]
    for line in lines:
        total = line["loss_code"] + line["loss_cluster"] + line["loss_item"] + 0.1 * line["loss_thought"]
        assert line["loss"] == pytest.approx(total, rel=1e-4)
    for name in ("loss_code", "loss_cluster"):
        assert sum(line[name] for line in lines[-5:]) < sum(line[name] for line in lines[:5])
    rates = [line for line in record["log"] if "eval_code_1" in line]
    assert len(rates) == 4
    for line in rates:
        assert line["eval_prefix_1"] == line["eval_code_1"]
        assert line["eval_prefix_3"] <= line["eval_prefix_2"] <= line["eval_prefix_1"]
        assert all(0 <= line[f"eval_{name}_{level}"] <= 1 for name in ("code", "cluster") for level in (1, 2, 3))


def test_the_reported_rates_are_those_of_the_lists(trained, config):
    """Greedy decoding with all codes of a level legal writes as many of the first codes right."""
    trainer = build_trainer(parse_config(str(config)))
    trainer.model = model = load_model(trained / "model")
    split = trainer.eval_dataset
    rates = trainer.rates(split)
    processor, hits = model.processor, []
    every = torch.tensor(list(itertools.product(*(tokens.tolist() for tokens in processor.code_token_ids))))
    legal = TrieLogitsProcessor(ItemTrie.from_token_ids(every), processor.answer_token_id)
    for history, target in zip(split.histories, split.targets, strict=True):
        inputs = processor.prompts([history])
        codes = model.generate(**inputs, logits_processor=[legal])[0, 1:]
        hits.append((codes.numpy() == processor.token_ids[target[0]]).cumprod())
    found = np.mean(hits, axis=0)
    assert [rates[f"prefix_{level}"] for level in (1, 2, 3)] == pytest.approx(found.tolist())


def test_clusters_are_those_of_the_codebooks(trained):
    model = load_model(trained / "model")
    codebooks = load_item_tokenizer(trained / "semantic_ids/item_tokenizer").codebooks
    assert model.taught_levels == [0, 1, 2]
    for level, codebook in enumerate(codebooks):
        centres, clusters = getattr(model, f"centres_{level}"), getattr(model, f"clusters_{level}")
        assert torch.equal(clusters, torch.cdist(codebook, centres).argmin(1))
        for number in range(2):
            torch.testing.assert_close(centres[number], codebook[clusters == number].mean(0))


def test_evaluate_card_and_stranger(trained, monkeypatch, capsys):
    card = check_evaluated(monkeypatch, capsys, trained, "S2GR", "AutoModelForSeq2SeqLM")
    assert "| thinking vector before each code | [True, True, True] |" in card
    run_command(monkeypatch, capsys, "refresh", trained)
    check_a_strangers_list(monkeypatch, capsys, trained, "AutoModelForSeq2SeqLM")


def test_a_killed_training_ends_with_the_same_weights(trained, config, own_data):
    check_a_killed_training(config, trained, own_data / "s2gr-killed")


def test_thinking_off_trains_tiger(trained, config, tmp_path):
    """The same weights after the same training, by either name."""
    found = []
    for method in ("s2gr", "tiger"):
        folder = tmp_path / method
        for part in ("data", "semantic_ids"):
            shutil.copytree(trained / part, folder / part)
        own = tmp_path / f"{method}.yaml"
        text = config.read_text().replace("num_clusters: 2\n", "").replace("method: s2gr", f"method: {method}")
        own.write_text(text + ("thinking: [false]\n" if method == "s2gr" else ""))
        run_command_of_train(own, folder)
        found.append(load_model(folder / "model").state_dict())
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def run_command_of_train(config, folder):
    from conftest import exit_code

    assert exit_code("train", "--config", config, "--output_dir", folder, "--num_train_epochs", "1") == 0


def test_codes_without_codebooks_are_refused(trained, config, tmp_path):
    for part in ("data", "semantic_ids"):
        shutil.copytree(trained / part, tmp_path / part)
    shutil.rmtree(tmp_path / "semantic_ids/item_tokenizer")
    with pytest.raises(ValueError, match=r"item_tokenizer is not there, .*num_clusters: 0"):
        build_trainer(parse_config(str(config), ["--output_dir", str(tmp_path)]))
    trainer = build_trainer(parse_config(str(config), ["--output_dir", str(tmp_path), "--num_clusters", "0"]))
    assert trainer.model.taught_levels == []
    with pytest.raises(ValueError, match="thinking has 2 entries for items of 3 codes"):
        build_trainer(parse_config(str(config), ["--thinking", "true", "false"]))


def test_clusters_of_a_codebook():
    codebook = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 1.0], [10.0, 1.0]])
    centres, clusters = codebook_clusters(codebook, 2, seed=0)
    assert clusters[0] == clusters[2] != clusters[1] == clusters[3]
    torch.testing.assert_close(centres[clusters[0]], torch.tensor([0.0, 0.5]))


def test_arguments():
    for wrong in ({"thinking": []}, {"num_clusters": -1}, {"temperature": 0}, {"item_weight": -1}, {"dropout": 3}):
        with pytest.raises(ValueError, match=r"thinking|num_clusters|temperature|item_weight|dropout_rate"):
            S2grArguments(**wrong)
