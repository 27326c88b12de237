"""Every target weighs the same in an epoch, however many stand in its row."""

import numpy as np
import pytest
import torch
from conftest import make_model, make_processor

from hf_genrec.data.collator import NextItemCollator, PackedCollator
from hf_genrec.data.examples import NextItemExamples
from hf_genrec.data.packing import PackedExamples
from hf_genrec.training.arguments import GenRecTrainingArguments
from hf_genrec.training.trainer import GenRecTrainer

pytestmark = pytest.mark.libraries


@pytest.mark.parametrize("strategy", ["group_by_length", "random"])
def test_the_steps_of_an_epoch_average_to_the_mean_over_targets(tmp_path, strategy):
    processor = make_processor(max_history=4)
    model = make_model(processor, query_diversity_weight=0.0)
    rng = np.random.default_rng(0)
    # Long histories: most of their targets have a row of their own, the others share theirs with many.
    users = [rng.integers(0, 40, size) for size in (30, 25, 4, 3, 3, 2, 2, 2, 1, 1, 1, 5, 5)]
    packed = PackedExamples(users, "all", 4, processor.num_levels, row_tokens=30)
    arguments = GenRecTrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=4, train_sampling_strategy=strategy, use_cpu=True
    )
    trainer = GenRecTrainer(
        model, arguments, train_dataset=packed, eval_dataset=packed, data_collator=PackedCollator(processor)
    )
    parts, targets = [], []
    with torch.no_grad():
        for batch in trainer.get_train_dataloader():
            count = trainer._get_num_items_in_batch([batch], model.device)
            parts.append(model(**batch, num_items_in_batch=count).loss.item() * len(batch["input_ids"]) / len(packed))
            targets.append((batch["labels"] >= 0).sum().item())
    assert max(targets) > 2 * min(targets)

    examples = NextItemExamples(users, "all", 4)
    rows = NextItemCollator(processor)([examples[i] for i in range(len(examples))])
    with torch.no_grad():
        assert sum(parts) == pytest.approx(model(**rows).loss.item(), abs=1e-5)
