"""TIGER by the same commands as the others: from somebody's own CSV to a recommendation; and a training that is
killed."""

import json

import pytest
import torch
from conftest import (
    USERS,
    check_accumulated_batches,
    config_beside,
    make_processor,
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
from tiny_tiger import make_tiger

from hf_genrec.data.collator import Seq2SeqCollator
from hf_genrec.data.examples import NextItemExamples
from hf_genrec.item_tokenizers import load_item_tokenizer
from hf_genrec.methods.tiger.arguments import TigerArguments
from hf_genrec.methods.tiger.method import build_trainer
from hf_genrec.methods.tiger.modeling_tiger import TigerForConditionalGeneration
from hf_genrec.training.arguments import GenRecTrainingArguments
from hf_genrec.training.code_t5_training import build_code_t5
from hf_genrec.training.config import parse_config
from hf_genrec.training.shared_pools import HardenGates
from hf_genrec.training.trainer import GenRecTrainer

pytestmark = pytest.mark.libraries


@pytest.fixture(scope="module")
def config(own_data):
    """The configuration of the same log with TIGER's keys in the place of CARE's."""
    return config_beside(
        own_data,
        "tiger.yaml",
        f"""
method: tiger
codebook_sizes: [4, 4, 4]
max_history: 8
hidden_size: 16
intermediate_size: 32
num_encoder_layers: 1
num_hidden_layers: 2
num_attention_heads: 2
head_dim: 8
code_embeddings: centroids
output_dir: {own_data}/tiger-run
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
    return own_data / "tiger-run"


def test_the_run_folder(trained):
    assert {path.name for path in trained.iterdir()} == {"data", "semantic_ids", "checkpoints", "model", "results"}
    assert {path.suffix for path in (trained / "model").rglob("*") if path.is_file()} == {
        ".json", ".py", ".safetensors", ".md"
    }  # fmt: skip
    record = json.loads((trained / "results/training.json").read_text())
    assert record["num_targets"] == USERS * 6
    assert record["steps"] == 4 * 8
    losses = [line["loss"] for line in record["log"] if "loss" in line]
    assert sum(losses[-5:]) < sum(losses[:5])
    saved = json.loads((trained / "model/config.json").read_text())
    assert (saved["num_layers"], saved["num_decoder_layers"], saved["d_ff"]) == (1, 2, 32)


def test_evaluate_and_card(trained, monkeypatch, capsys):
    card = check_evaluated(monkeypatch, capsys, trained, "TIGER", "AutoModelForSeq2SeqLM")
    assert "| decoder layers | 2 |" in card
    run_command(monkeypatch, capsys, "evaluate", trained, "--split", "validation", "--num-beams", "25")
    run_command(monkeypatch, capsys, "refresh", trained)


def test_recommend_as_a_stranger(trained, monkeypatch, capsys):
    check_a_strangers_list(monkeypatch, capsys, trained, "AutoModelForSeq2SeqLM")


def test_a_killed_training_ends_with_the_same_weights(trained, config, own_data):
    check_a_killed_training(config, trained, own_data / "tiger-killed")


def test_a_pool_starts_from_the_data_and_is_served(config, own_data, monkeypatch, capsys):
    run = own_data / "tiger-pool"
    options = prepared_for_a_pool(monkeypatch, capsys, config, run)
    trainer = build_trainer(parse_config(str(config), options))
    for attention in trainer.model.decoder.cross_attentions:
        rows = attention.k.pool.weight
        assert (rows[:, None] != rows).any(-1).sum() == 8 * 7  # centroids: no two alike
        assert (attention.k.router.bias != 0).all()  # without data they start at 0
    assert any(isinstance(callback, HardenGates) for callback in trainer.callback_handler.callbacks)
    check_a_pool_is_trained_and_served(
        monkeypatch, capsys, config, run, options, {"loss_code", "loss_peak", "loss_balance"}
    )


def test_code_embeddings_start_from_the_centroids(trained, monkeypatch):
    """Distances between the codes of a level are the centroids' up to one factor."""
    from hf_genrec.training import code_t5_training

    starts = {}
    stop = RuntimeError("built")

    def keep(model, *args, **kwargs):
        starts["model"] = model
        raise stop

    config = parse_config(str(trained.parent / "tiger.yaml"))
    with pytest.raises(RuntimeError, match="built"):
        code_t5_training.build_code_t5_trainer(config, TigerForConditionalGeneration, keep)
    table, processor = starts["model"].shared.weight, starts["model"].processor
    codebooks = load_item_tokenizer(trained / "semantic_ids/item_tokenizer").codebooks
    for tokens, codebook in zip(processor.code_token_ids, codebooks, strict=False):
        vectors = table[torch.from_numpy(tokens)]
        assert vectors.std().item() == pytest.approx(1.0, rel=1e-4)
        ratio = torch.pdist(vectors) / torch.pdist(codebook)
        torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=1e-4, atol=0)
    assert starts["model"].encoder.embed_tokens.weight is table


def test_batches_that_are_accumulated(tmp_path):
    processor = make_processor()
    sequences = [processor.rows([f"item-{row}" for row in range(start, start + 4)]) for start in range(6)]

    def trainer(**settings):
        arguments = GenRecTrainingArguments(
            output_dir=str(tmp_path), use_cpu=True, eval_strategy="no", save_strategy="no",
            load_best_model_at_end=False, logging_steps=1, report_to=[], **settings,
        )  # fmt: skip
        model = make_tiger(processor, dropout_rate=0.0)
        examples = NextItemExamples(sequences, "all", 8)
        return GenRecTrainer(model, arguments, train_dataset=examples, data_collator=Seq2SeqCollator(processor))

    check_accumulated_batches(trainer, batch_size=5)


def test_arguments():
    processor = make_processor()
    arguments = TigerArguments(num_encoder_layers=1, num_hidden_layers=3, head_dim=5, dropout=0.2, level_heads=True)
    model = build_code_t5(TigerForConditionalGeneration, processor, **arguments.config_fields())
    assert len(model.encoder.block) == 1
    assert len(model.decoder.block) == 3
    assert model.decoder.block[0].layer[0].SelfAttention.q.weight.shape == (20, 128)
    assert model.config.dropout_rate == 0.2
    assert model.shared.num_embeddings == len(processor.tokenizer)
    for wrong in ({"dropout": 2}, {"num_attention_heads": 0}, {"code_embeddings": "nice"}, {"mlp_layers": 0}):
        with pytest.raises(ValueError, match=r"dropout_rate|num_heads|code_embeddings|mlp_layers"):
            TigerArguments(**wrong)
    with pytest.raises(ValueError, match="--packing belongs to method: care"):
        parse_config(None, ["--method", "tiger", "--output_dir", "x", "--packing", "false"])
