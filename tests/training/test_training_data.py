import numpy as np
import pytest
import torch
from conftest import make_processor

from hf_genrec.data.collator import NextItemCollator
from hf_genrec.data.examples import NextItemExamples
from hf_genrec.training.trainer import EpochSampler

SEQUENCES = [np.array([3, 1, 4, 1, 5]), np.array([], dtype=np.int64), np.array([9, 2])]


def test_every_prefix_is_an_example():
    examples = NextItemExamples(SEQUENCES, "all", max_history=3)
    assert [(e["history"].tolist(), int(e["target"])) for e in (examples[i] for i in range(len(examples)))] == [
        ([], 3),
        ([3], 1),
        ([3, 1], 4),
        ([3, 1, 4], 1),
        ([1, 4, 1], 5),
        ([], 9),
        ([9], 2),
    ]
    assert examples.lengths.tolist() == [len(examples[i]["history"]) for i in range(len(examples))]


def test_only_the_last_targets():
    examples = NextItemExamples(SEQUENCES, "last", max_history=3)
    assert [int(examples[i]["target"]) for i in range(len(examples))] == [5, 2]


def test_examples_that_make_no_sense():
    with pytest.raises(ValueError, match="'all' \\(every prefix\\) or 'last'"):
        NextItemExamples(SEQUENCES, "first")
    with pytest.raises(ValueError, match="are empty"):
        NextItemExamples([np.array([], dtype=np.int64)])


def test_batches():
    processor = make_processor()
    batch = NextItemCollator(processor)(
        [{"history": np.array([3]), "target": 5}, {"history": np.array([]), "target": 6}]
    )
    codes = torch.from_numpy(processor.token_ids)
    answer = processor.answer_token_id
    assert batch["input_ids"][0].tolist() == [*codes[3].tolist(), answer, *codes[5].tolist()]
    assert batch["attention_mask"].tolist() == [[1] * 7, [0] * 3 + [1] * 4]
    assert batch["labels"].tolist() == [[-100] * 4 + codes[target].tolist() for target in (5, 6)]
    assert batch["logits_to_keep"] == 4


@pytest.mark.parametrize("lengths", [None, list(range(50)) * 2])
def test_the_order_of_an_epoch_depends_on_seed_and_epoch_alone(lengths):
    sampler = EpochSampler(100, 1, lengths, batch_size=4)
    first = list(sampler)
    torch.rand(7)
    assert list(sampler) == first
    sampler.set_epoch(1)
    assert list(sampler) != first
    assert sorted(first) == list(range(100))
    if lengths is None:
        return
    spread = [
        max(lengths[i] for i in first[s : s + 4]) - min(lengths[i] for i in first[s : s + 4]) for s in range(0, 96, 4)
    ]
    assert np.mean(spread) < 10  # 30 in a random order
