"""REG4Rec learns from the log, and what it trains on, logs and draws is what it says."""

from functools import partial

import numpy as np
import pyarrow as pa
import pytest
import torch
from conftest import check_accumulated_batches

from hf_genrec.data.prepared import PreparedData
from hf_genrec.methods.reg4rec import reg4rec_trainer
from hf_genrec.methods.reg4rec.arguments import Reg4RecArguments
from hf_genrec.methods.reg4rec.configuration_reg4rec import Reg4RecConfig
from hf_genrec.methods.reg4rec.modeling_reg4rec import Reg4RecForConditionalGeneration
from hf_genrec.methods.reg4rec.reg4rec_search import confidence_orders
from hf_genrec.methods.reg4rec.reg4rec_trainer import Reg4RecTrainer
from hf_genrec.methods.reg4rec.training_reg4rec import (
    build_reg4rec,
    build_set_examples,
    build_set_processor,
    category_report,
)
from hf_genrec.semantic_ids.ids import SemanticIds
from hf_genrec.training.arguments import GenRecTrainingArguments

pytestmark = pytest.mark.libraries

ITEMS, USERS = 12, 40
# Codebook a tells even from odd items, b and c tell them apart.
CODES = np.array([[row % 2, row // 2 % 3, row // 6] for row in range(ITEMS)])


@pytest.fixture(scope="module")
def prepared():
    """Even users like even items, and these are of one category."""
    rng = np.random.default_rng(0)
    item_ids = [f"item-{row}" for row in range(ITEMS)]
    kinds = ["even, low", "odd", *["even", "odd"] * (ITEMS // 2 - 1)]
    sequences = [rng.permutation(np.arange(user % 2, ITEMS, 2)) for user in range(USERS)]
    items = pa.table({"item_id": item_ids, "categories": kinds})
    ones = np.ones(USERS, dtype=np.int64)
    return PreparedData([f"u{user}" for user in range(USERS)], item_ids, items, sequences, ones * 0, ones, {})


def make_trainer(prepared, folder, fields=None, confidence_order_from=0.3, **settings) -> Reg4RecTrainer:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "dropout": 0.0}
    arguments = Reg4RecArguments(**sizes | (fields or {}))
    semantic_ids = SemanticIds(prepared.item_ids, CODES, [2, 3, 2])
    processor = build_set_processor(prepared, semantic_ids, 6, arguments)
    training = GenRecTrainingArguments(
        **{
            "output_dir": str(folder),
            "per_device_train_batch_size": 16,
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
    horizon = arguments.horizon, arguments.horizon_decay
    examples, collator = build_set_examples(training, prepared.train_sequences(), processor, *horizon)
    return Reg4RecTrainer(
        build_reg4rec(arguments, processor),
        training,
        train_dataset=examples,
        eval_dataset=prepared.split("test"),
        data_collator=collator,
        eval_k=ITEMS // 2,
        confidence_order_from=confidence_order_from,
    )


@pytest.mark.parametrize("fields", [{}, {"horizon": 2, "code_reading": "set"}], ids=["as it comes", "horizon and sets"])
def test_every_user_gets_exactly_the_items_of_its_parity(prepared, tmp_path, fields):
    trainer = make_trainer(prepared, tmp_path, fields, num_train_epochs=10, logging_steps=60)
    before = {name: tensor.detach().clone() for name, tensor in trainer.model.named_parameters()}
    trainer.train()
    assert [name for name, tensor in trainer.model.named_parameters() if torch.equal(tensor, before[name])] == []
    histories = [[f"item-{row}" for row in sequence[:3]] for sequence in prepared.sequences]
    lists, _ = trainer.model.recommend(histories, k=ITEMS // 2)
    for user, line in enumerate(lists):
        assert {int(item_id.removeprefix("item-")) % 2 for item_id in line} == {user % 2}
    assert trainer.evaluate()["eval_recall@6"] == 1.0
    # The category, too: at the first step, of the histories.
    model, processor = trainer.model, trainer.model.processor
    with torch.no_grad():
        inputs = processor(histories=histories, return_tensors="pt")
        categories = model(**inputs).category_logits[:, 0].argmax(-1).tolist()
    assert [processor.category_names[c] for c in categories] == ["even", "odd"] * (USERS // 2)


def lines(trainer) -> list[dict]:
    return [line for line in trainer.state.log_history if "loss" in line]


def test_the_terms_in_the_log_add_up_to_the_loss(prepared, tmp_path):
    trainer = make_trainer(prepared, tmp_path, {"category_weight": 0.7}, num_train_epochs=2)
    trainer.train()
    assert trainer.train_dataset.num_targets == 5 * USERS
    assert len(lines(trainer)) == 2 * 13
    for line in lines(trainer):
        assert line["loss"] == pytest.approx(line["loss_token"] + 0.7 * line["loss_category"], rel=1e-5)


def test_the_terms_in_the_log_are_means_over_targets(prepared, tmp_path):
    """At a learning rate of 0, in the model's own order: one line after six steps of two batches."""
    settings = {"gradient_accumulation_steps": 2, "logging_steps": 6, "learning_rate": 0.0}
    trainer = make_trainer(
        prepared, tmp_path, confidence_order_from=0.0, num_train_epochs=1, per_device_train_batch_size=17, **settings
    )
    trainer.train()
    (line,) = lines(trainer)
    rows, model = trainer.train_dataset, trainer.model.eval()
    batch = trainer.data_collator([rows[row] for row in range(len(rows))])
    orders = confidence_orders(model, batch["input_ids"], batch["attention_mask"], batch["labels"])
    with torch.no_grad():
        expected = model(**batch, orders=orders).losses
    assert {name: line[f"loss_{name}"] for name in expected} == pytest.approx(
        {name: value.item() for name, value in expected.items()}, rel=1e-4
    )


@pytest.mark.parametrize(("share", "own"), [(0.3, 8), (0.0, 12), (1.0, 0)])
def test_when_the_models_own_order_is_taught(prepared, tmp_path, monkeypatch, share, own):
    """Of twelve steps; before, every step draws another order."""
    given, taught = [], []

    def watched(model, *arguments):
        given.append(confidence_orders(model, *arguments))
        return given[-1]

    monkeypatch.setattr(reg4rec_trainer, "confidence_orders", watched)
    trainer = make_trainer(prepared, tmp_path, confidence_order_from=share, max_steps=12)
    trainer.model.register_forward_pre_hook(
        lambda module, args, kwargs: taught.append(kwargs.get("orders")), with_kwargs=True
    )
    trainer.train()
    assert len(taught) == 12
    assert taught[: 12 - own] == [None] * (12 - own)
    assert all(a is b for a, b in zip(taught[12 - own :], given, strict=True))


def test_the_literal_loss_of_the_own_order(prepared, tmp_path):
    """Equation (6): at each step the code that is chosen there, alone."""
    trainer = make_trainer(prepared, tmp_path, {"category_weight": 0.0}, confidence_order_from=0.0)
    trainer.own_order_loss = "next"
    batch = trainer.data_collator([trainer.train_dataset[row] for row in range(9)])
    model = trainer.model.eval()
    orders = confidence_orders(model, batch["input_ids"], batch["attention_mask"], batch["labels"])
    with torch.no_grad():
        found = trainer.compute_loss(model, batch)
        logits = model(**batch, orders=orders).logits
    chosen = batch["labels"].gather(1, orders)
    assert found.item() == pytest.approx(-logits.gather(2, chosen[..., None]).sum().item() / 9, rel=1e-5)
    trainer.own_order_loss = "all"
    with torch.no_grad():
        assert abs(trainer.compute_loss(model, batch) - found) > 1e-3


def test_several_next_items_are_targets(prepared, tmp_path):
    """The loss of a history is the weighted mean of those of its targets, each by itself: 1, w, w^2, normalised."""
    trainer = make_trainer(prepared, tmp_path, {"horizon": 3, "horizon_decay": 0.5})
    examples = [trainer.train_dataset[row] for row in (0, 2, 4, 7)]  # of five targets a user
    assert [len(example["targets"]) for example in examples] == [3, 3, 1, 3]
    batch, model = trainer.data_collator(examples), trainer.model.eval()
    assert batch["input_ids"].shape[0] == 4
    assert batch["labels"].shape[0] == batch["category_labels"].shape[0] == 12
    weights = [[4 / 7, 2 / 7, 1 / 7]] * 2 + [[1, 0, 0]] + [[4 / 7, 2 / 7, 1 / 7]]
    torch.testing.assert_close(batch["target_weights"].view(4, 3), torch.tensor(weights))
    orders = confidence_orders(model, batch["input_ids"], batch["attention_mask"], batch["labels"])
    with torch.no_grad():
        together = model(**batch, orders=orders).losses
        apart = {"token": 0.0, "category": 0.0}
        for example, own in zip(examples, weights, strict=True):
            for target, weight in zip(example["targets"], own, strict=False):
                one = trainer.data_collator([{"history": example["history"], "target": target}])
                order = confidence_orders(model, one["input_ids"], one["attention_mask"], one["labels"])
                for name, loss in model(**one, orders=order).losses.items():
                    apart[name] += weight * loss.item() / 4
    assert {name: loss.item() for name, loss in together.items()} == pytest.approx(apart, rel=1e-5)
    assert trainer._get_num_items_in_batch([batch, batch], "cpu") == 8


def test_accumulated_batches_have_the_gradient_of_one(prepared, tmp_path):
    check_accumulated_batches(partial(make_trainer, prepared, tmp_path, confidence_order_from=0.0), 27)


def test_a_saved_model_is_evaluated_alike(prepared, tmp_path):
    trainer = make_trainer(prepared, tmp_path / "run", num_train_epochs=1)
    trainer.train()
    metrics = trainer.evaluate()
    trainer.save_model(tmp_path / "saved")
    trainer.model = Reg4RecForConditionalGeneration.from_pretrained(tmp_path / "saved")
    again = trainer.evaluate()
    for name in ("eval_ndcg@6", "eval_recall@6"):
        assert again[name] == pytest.approx(metrics[name])


# ---- arguments and catalogue ----


def test_the_arguments_are_the_configuration_with_its_defaults():
    arguments = Reg4RecArguments().config_fields()
    config = Reg4RecConfig()
    assert {name: getattr(config, name) for name in arguments} == arguments
    # What is left comes from the data, or is fixed.
    assert set(Reg4RecConfig.__annotations__) - set(arguments) == {
        "codebook_sizes", "num_categories", "max_history", "hidden_act", "layer_norm_eps", "initializer_range",
        "vocab_size", "decoder_start_token_id", "pad_token_id", "is_encoder_decoder", "tie_word_embeddings",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"category_rule": "last"}, "category_rule: 'last' is not one of first, frequent"),
        ({"confidence_order_from": 1.5}, "confidence_order_from must be from 0 to 1, not 1.5"),
        ({"hidden_size": 9}, "hidden_size=9 does not divide into 4 heads"),
    ],
)
def test_arguments_that_make_no_sense(fields, message):
    with pytest.raises(ValueError, match=message):
        Reg4RecArguments(**fields)


def test_the_processor_has_the_items_categories(prepared):
    arguments = Reg4RecArguments()
    processor = build_set_processor(prepared, SemanticIds(prepared.item_ids, CODES, [2, 3, 2]), 6, arguments)
    report = category_report(processor)
    assert report == {"num_categories": 2, "majority_share": 0.5, "items": {"even": 6, "odd": 6}}
    assert processor.codes.tolist() == CODES.tolist()
    other = SemanticIds(prepared.item_ids[:-1], CODES[:-1], [2, 3, 2])
    with pytest.raises(ValueError, match="of another catalogue"):
        build_set_processor(prepared, other, 6, arguments)
