"""Packed rows give the loss and the gradients of one row per prefix."""

import numpy as np
import pytest
import torch
from conftest import make_model

from hf_genrec.data.collator import NextItemCollator, PackedCollator
from hf_genrec.data.examples import NextItemExamples
from hf_genrec.data.packing import PackedExamples

pytestmark = pytest.mark.libraries

# one user longer than the history limit of 8, one with a single item, one with none
USERS = [np.arange(5, 17), np.array([3]), np.array([30, 2, 2, 9]), np.array([], dtype=np.int64), np.array([8, 1])]
FIELDS = [
    {},
    {"num_queries": [0, 2, 0], "query_diversity_weight": 0.0},
    {"num_queries": [0, 0, 0]},
    {"progressive": [True, False, True], "code_sees_itself": True},
    {"num_key_value_heads": 4, "tie_word_embeddings": False, "progressive": [False] * 3},
]


def loss_and_gradients(model, batch):
    model.zero_grad()
    output = model(**batch)
    output.loss.backward()
    return output, {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def packed_batch(processor, row_tokens=60):
    packed = PackedExamples(USERS, "all", processor.max_history, processor.num_levels, row_tokens)
    assert 1 < len(packed) < 8  # several rows, and several users in one
    return PackedCollator(processor)([packed[row] for row in range(len(packed))])


@pytest.mark.parametrize("fields", FIELDS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_loss_and_gradients_equal_one_row_per_prefix(processor, fields, attention):
    model = make_model(processor, **fields)
    examples = NextItemExamples(USERS, "all", processor.max_history)
    rows = NextItemCollator(processor)([examples[i] for i in range(len(examples))])
    expected, expected_gradients = loss_and_gradients(model, rows)

    model.set_attn_implementation(attention)
    found, gradients = loss_and_gradients(model, packed_batch(processor))
    assert found.loss.item() == pytest.approx(expected.loss.item(), abs=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected_gradients[name], atol=1e-5, rtol=1e-4)


def test_packed_rows_read_only_what_the_rules_allow(processor, model):
    """The two-part attention equals the mask over all pairs, state by state."""
    batch = packed_batch(processor)
    del batch["logits_to_keep"]
    fast = model(**batch).logits
    model.set_attn_implementation("eager")
    slow = model(**batch).logits
    read = torch.nn.functional.pad(batch["labels"], (0, 1), value=-100)[:, 1:] >= 0
    torch.testing.assert_close(fast[read], slow[read], atol=2e-5, rtol=1e-4)


def test_half_a_block_is_refused(processor, model):
    batch = packed_batch(processor)
    cut = {name: tensor[:1, :3] for name, tensor in batch.items() if name != "kept_places"}
    with pytest.raises(ValueError, match="whole blocks"):
        model(**cut)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_mixed_precision(processor, model, attention):
    """Under bfloat16 autocast, `bf16: true`, the loss is that of float32 but for the rounding."""
    model.set_attn_implementation(attention)
    batch = packed_batch(processor)
    expected, _ = loss_and_gradients(model, batch)
    with torch.autocast("cpu", torch.bfloat16):
        found = model(**batch)
    found.loss.backward()
    assert found.loss.item() == pytest.approx(expected.loss.item(), rel=5e-3)
    assert found.loss.item() != expected.loss.item()
