"""ReaRec learns from the log, and what it trains on, logs and draws is what it says."""

from functools import partial

import numpy as np
import pyarrow as pa
import pytest
import torch
from conftest import check_accumulated_batches

from hf_genrec.catalogue.processing_rows import ItemProcessor
from hf_genrec.data.prepared import EvaluationSplit
from hf_genrec.methods.rearec.arguments import ReaRecArguments
from hf_genrec.methods.rearec.configuration_rearec import ReaRecConfig
from hf_genrec.methods.rearec.modeling_rearec import ReaRecForNextItem
from hf_genrec.methods.rearec.rearec_trainer import ReaRecTrainer
from hf_genrec.methods.rearec.training_rearec import build_rearec, build_rows, text_vectors
from hf_genrec.semantic_ids.arguments import TokenizerArguments
from hf_genrec.training import text_vectors as vectors_of_text
from hf_genrec.training.arguments import GenRecTrainingArguments

pytestmark = pytest.mark.libraries

ITEMS, USERS = 12, 40
NO_DROPOUT = {"embedding_dropout": 0.0, "hidden_dropout": 0.0, "attention_dropout": 0.0, "adaptor_dropout": 0.0}


@pytest.fixture(scope="module")
def sequences():
    """Even users like even items."""
    rng = np.random.default_rng(0)
    return [rng.permutation(np.arange(user % 2, ITEMS, 2)) for user in range(USERS)]


def make_trainer(sequences, folder, fields=None, noise_start_epoch=2, **settings) -> ReaRecTrainer:
    torch.manual_seed(0)
    processor = ItemProcessor(max_history=6).set_catalogue([f"item-{row}" for row in range(ITEMS)])
    arguments = ReaRecArguments(**{"hidden_size": 16, "intermediate_size": 32} | NO_DROPOUT | (fields or {}))
    vectors = np.random.default_rng(0).normal(size=(ITEMS, 5)) if arguments.reads_text else None
    model = build_rearec(arguments, processor, vectors)
    training = GenRecTrainingArguments(
        **{
            "output_dir": str(folder),
            "per_device_train_batch_size": 8,
            "learning_rate": 5e-3,
            "weight_decay": 0.0,
            "save_strategy": "no",
            "load_best_model_at_end": False,
            "eval_strategy": "no",
            "train_sampling_strategy": "random",
            "logging_steps": 1,
            "use_cpu": True,
            "disable_tqdm": True,
            "report_to": "none",
            "seed": 0,
        }
        | settings
    )
    rows, collator = build_rows(training, [s[:-1] for s in sequences], model.config)
    validation = EvaluationSplit("validation", ["u"] * USERS, [s[:-1] for s in sequences], [s[-1:] for s in sequences])
    return ReaRecTrainer(
        model,
        training,
        train_dataset=rows,
        eval_dataset=validation,
        data_collator=collator,
        eval_k=ITEMS // 2,
        noise_start_epoch=noise_start_epoch,
    )


@pytest.mark.parametrize(
    ("settings", "backbone"), [({"packing": False}, "sasrec"), ({"targets": "last"}, "sasrec"), ({}, "bert4rec")]
)
def test_windows_where_targets_share_no_rows(sequences, tmp_path, settings, backbone):
    training = GenRecTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **settings)
    with pytest.raises(ValueError, match="windows: they are for packing: true, targets: all and a backbone"):
        build_rows(training, sequences, ReaRecConfig(num_items=ITEMS, backbone=backbone), windows=True)


@pytest.mark.parametrize(
    ("fields", "rows_per_step"),
    [({"reasoning": "prl"}, 8), ({"reasoning": "erl"}, 8), ({"backbone": "bert4rec"}, 32)],
    ids=["prl", "erl", "bert4rec"],
)
def test_every_user_gets_exactly_the_items_of_its_parity(sequences, tmp_path, fields, rows_per_step):
    trainer = make_trainer(
        sequences, tmp_path, fields, num_train_epochs=12, logging_steps=60, per_device_train_batch_size=rows_per_step
    )
    before = {name: tensor.detach().clone() for name, tensor in trainer.model.named_parameters()}
    trainer.train()
    assert [name for name, tensor in trainer.model.named_parameters() if torch.equal(tensor, before[name])] == []
    lists, _ = trainer.model.recommend([[f"item-{row}" for row in s[:3]] for s in sequences], k=ITEMS // 2)
    for user, line in enumerate(lists):
        assert {int(item_id.removeprefix("item-")) % 2 for item_id in line} == {user % 2}
    assert trainer.evaluate()["eval_recall@6"] == 1.0


def lines(trainer) -> list[dict]:
    return [line for line in trainer.state.log_history if "loss" in line]


@pytest.mark.parametrize(
    ("fields", "weights"),
    [
        ({"reasoning": "none"}, {"ce": 1.0}),
        ({"reasoning": "erl", "kl_weight": 0.3}, {"ce": 1.0, "kl": 0.3}),
        (
            {"reasoning": "prl", "progressive_weight": 0.7, "contrastive_weight": 0.2, "noise_scale": 0.5},
            {"ce": 1.0, "progressive": 0.7, "contrastive": 0.2},
        ),
    ],
    ids=lambda value: value.get("reasoning"),
)
def test_the_terms_in_the_log_add_up_to_the_loss(sequences, tmp_path, fields, weights):
    settings = {"num_train_epochs": 2, "per_device_train_batch_size": USERS}
    trainer = make_trainer(sequences, tmp_path, fields, noise_start_epoch=1, **settings)
    trainer.train()
    assert len(lines(trainer)) == 2
    for line in lines(trainer):
        terms = {name.removeprefix("loss_"): value for name, value in line.items() if name.startswith("loss_")}
        assert terms.keys() == weights.keys() - ({"contrastive"} if line["epoch"] <= 1 else set())
        assert line["loss"] == pytest.approx(sum(weights[name] * value for name, value in terms.items()), rel=1e-5)


def test_the_terms_in_the_log_are_means_over_targets(sequences, tmp_path):
    """At a learning rate of 0: one line after six steps of two batches, with unequal numbers of targets."""
    settings = {"gradient_accumulation_steps": 2, "logging_steps": 6, "learning_rate": 0.0}
    trainer = make_trainer(
        cut(sequences), tmp_path, {"reasoning": "erl"}, num_train_epochs=1, per_device_train_batch_size=3, **settings
    )
    trainer.train()
    (line,) = lines(trainer)
    rows = trainer.train_dataset
    with torch.no_grad():
        expected = trainer.model(**trainer.data_collator([rows[row] for row in range(len(rows))])).losses
    assert {name: line[f"loss_{name}"] for name in expected} == pytest.approx(
        {name: value.item() for name, value in expected.items()}, rel=1e-4
    )


def cut(sequences) -> list[np.ndarray]:
    """What is left without their newest items has zero to four targets."""
    return [sequence[: 2 + user % 5] for user, sequence in enumerate(sequences)]


@pytest.mark.parametrize("strategy", ["random", "group_by_length"])
def test_every_target_weighs_the_same_in_an_epoch(sequences, tmp_path, strategy):
    """However many stand in its row and its step: the steps of an epoch average to the mean over targets."""
    trainer = make_trainer(
        cut(sequences), tmp_path, {"reasoning": "erl"}, per_device_train_batch_size=6, train_sampling_strategy=strategy
    )
    rows, parts, targets = trainer.train_dataset, [], []
    with torch.no_grad():
        for batch in trainer.get_train_dataloader():
            count = trainer._get_num_items_in_batch([batch], trainer.model.device)
            loss = trainer.model(**batch, num_items_in_batch=count).loss.item()
            parts.append(loss * len(batch["input_ids"]) / len(rows))
            targets.append((batch["sequence_labels"] != -100).sum().item())
        whole = trainer.model(**trainer.data_collator([rows[row] for row in range(len(rows))])).loss.item()
    assert len(set(targets)) > 1
    assert sum(parts) == pytest.approx(whole, rel=1e-5)


def test_there_is_no_noise_in_the_first_epochs(sequences, tmp_path):
    trainer = make_trainer(sequences, tmp_path, num_train_epochs=3, noise_start_epoch=2)
    trainer.train()
    assert trainer.train_dataset.num_targets == 4 * USERS
    assert len(lines(trainer)) == 3 * USERS / 8
    for line in lines(trainer):
        assert ("loss_contrastive" in line) == (line["epoch"] > 2), line


@pytest.mark.parametrize("backbone", ["sasrec", "bert4rec"])
def test_accumulated_batches_have_the_gradient_of_one(sequences, tmp_path, backbone):
    """With unequal numbers of targets, too."""
    fields = {"backbone": backbone, "reasoning": "rpe"}
    check_accumulated_batches(partial(make_trainer, cut(sequences), tmp_path, fields), 7)


def test_a_saved_model_is_evaluated_alike(sequences, tmp_path):
    trainer = make_trainer(sequences, tmp_path / "run", num_train_epochs=1)
    trainer.train()
    metrics = trainer.evaluate()
    trainer.save_model(tmp_path / "saved")
    trainer.model = ReaRecForNextItem.from_pretrained(tmp_path / "saved")
    again = trainer.evaluate()
    assert [again[f"eval_{name}@6"] for name in ("ndcg", "recall")] == [
        pytest.approx(metrics[f"eval_{name}@6"]) for name in ("ndcg", "recall")
    ]


# ---- arguments and text ----


def test_the_arguments_are_the_configuration_with_its_defaults():
    arguments = ReaRecArguments().config_fields()
    config = ReaRecConfig()
    assert {name: getattr(config, name) for name in arguments} == arguments
    # What is left comes from the data, is fixed by the published architecture, or is calibrated after training.
    assert set(ReaRecConfig.__annotations__) - set(arguments) == {
        "num_items", "max_history", "item_vector_size", "hidden_act", "layer_norm_eps", "initializer_range",
        "depth_rule", "depth_threshold",
    }  # fmt: skip


@pytest.fixture
def embedded(monkeypatch):
    """Items with embeddings of our own: three directions of falling variance, about a mean far from 0."""
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(30, 3)) * [5.0, 2.0, 0.1]) @ np.linalg.qr(rng.normal(size=(6, 3)))[0].T + 7.0
    asked = []

    def embed_texts(texts, model, cache_folder):
        asked.append((texts, model))
        return vectors.astype(np.float32)

    monkeypatch.setattr(vectors_of_text, "embed_texts", embed_texts)
    return pa.table({"item_id": [str(row) for row in range(30)], "name": ["A film"] * 30}), vectors, asked


def test_text_embeddings_whole_and_their_principal_components(embedded):
    items, vectors, asked = embedded
    arguments = TokenizerArguments(text_model="some-model", text_columns=["name"])
    assert np.array_equal(text_vectors(items, arguments), vectors.astype(np.float32))
    assert asked == [(["A film."] * 30, "some-model")]
    reduced = text_vectors(items, arguments, text_dim=2)
    assert reduced.shape == (30, 2)
    # The best plane there is: all but the smallest singular value's part of the squared distances to the mean.
    singular = np.linalg.svd(vectors - vectors.mean(0), compute_uv=False)
    assert np.square(reduced).sum(0) == pytest.approx(np.square(singular[:2]), rel=1e-4)
    with pytest.raises(ValueError, match=r"text_dim=7: .* at most 6 principal components"):
        text_vectors(items, arguments, text_dim=7)
