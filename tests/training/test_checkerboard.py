"""Even users like even items, odd users odd ones: learned from the log, recommended exactly."""

import numpy as np
import pytest
import torch

from hf_genrec.data.collator import NextItemCollator
from hf_genrec.data.examples import NextItemExamples
from hf_genrec.data.prepared import EvaluationSplit
from hf_genrec.decoding.processing_sequences import GenRecProcessor
from hf_genrec.methods.care.arguments import CareArguments
from hf_genrec.methods.care.training_care import build_care
from hf_genrec.semantic_ids.tokens import code_tokenizer
from hf_genrec.training.arguments import GenRecTrainingArguments
from hf_genrec.training.trainer import GenRecTrainer

pytestmark = pytest.mark.libraries

ITEMS, USERS = 12, 40


@pytest.fixture(scope="module")
def sequences():
    rng = np.random.default_rng(0)
    return [rng.permutation(np.arange(user % 2, ITEMS, 2)) for user in range(USERS)]


@pytest.fixture(scope="module")
def trained(sequences, tmp_path_factory):
    # Parity is in none of the codes alone: items of one parity share no code that the others lack.
    codes = np.stack([np.arange(ITEMS) // 4, np.arange(ITEMS) % 4], axis=1)
    processor = GenRecProcessor(code_tokenizer([3, 4]), [3, 4], max_history=6).set_catalogue(
        [f"item-{row}" for row in range(ITEMS)], codes
    )
    torch.manual_seed(0)
    model = build_care(CareArguments(hidden_size=32, intermediate_size=64, num_hidden_layers=2), processor)
    validation = EvaluationSplit(
        "validation", [str(user) for user in range(USERS)], [s[:-1] for s in sequences], [s[-1:] for s in sequences]
    )
    arguments = GenRecTrainingArguments(
        output_dir=str(tmp_path_factory.mktemp("checkerboard")),
        num_train_epochs=25,
        per_device_train_batch_size=40,
        learning_rate=5e-3,
        save_strategy="no",
        load_best_model_at_end=False,
        eval_strategy="no",
        use_cpu=True,
        seed=0,
    )
    trainer = GenRecTrainer(
        model,
        arguments,
        train_dataset=NextItemExamples([s[:-1] for s in sequences], max_history=6),
        eval_dataset=validation,
        data_collator=NextItemCollator(processor),
        eval_k=ITEMS // 2,
    )
    trainer.train()
    return trainer


def test_every_user_gets_exactly_the_items_of_its_parity(trained, sequences):
    model = trained.model
    item_ids, _ = model.recommend([[f"item-{row}" for row in s[:3]] for s in sequences], k=ITEMS // 2)
    for user, line in enumerate(item_ids):
        assert {int(item_id.removeprefix("item-")) % 2 for item_id in line} == {user % 2}


def test_unseen_items_of_the_parity_come_first(trained, sequences):
    item_ids, _ = trained.model.recommend([[f"item-{row}" for row in s[:5]] for s in sequences], k=1, exclude_seen=True)
    assert [line[0] for line in item_ids] == [f"item-{s[5]}" for s in sequences]


def test_evaluation_counts_hits(trained, sequences):
    metrics = trained.evaluate()
    assert metrics["eval_recall@6"] == 1.0
    assert 0 < metrics["eval_ndcg@6"] <= 1.0
