"""ReaRec's models against slower ways to compute the same."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from hf_genrec.catalogue.processing_rows import ItemProcessor
from hf_genrec.methods.rearec.modeling_rearec import ReaRecConfig, ReaRecForNextItem, ReaRecModel
from hf_genrec.methods.rearec.rearec_losses import (
    Negatives,
    class_logits,
    contrasts,
    divergences,
    draw_negatives,
    next_item_losses,
)

pytestmark = pytest.mark.libraries

ITEMS, WIDTH, VECTOR = 20, 9, 6
REASONING = ["none", "naive", "rpe", "erl", "prl"]
BACKBONES = ["sasrec", "bert4rec", "unisrec", "morec"]
HISTORIES = [[3], [5, 1, 3, 3, 7, 19, 0, 2, 11], [8, 4], [], [6, 6, 12, 13, 2]]


def make_rearec(seed=0, dropout=0.0, **fields) -> ReaRecForNextItem:
    torch.manual_seed(seed)
    text = fields.get("backbone") in ("unisrec", "morec")
    settings = {
        "num_items": ITEMS,
        "max_history": WIDTH,
        "hidden_size": 8,
        "intermediate_size": 12,
        "temperature": 0.5,
        "initializer_range": 0.4,  # far from uniform, so that states and rankings differ
        "embedding_dropout": dropout,
        "hidden_dropout": dropout,
        "attention_dropout": dropout,
        "adaptor_dropout": dropout,
        "item_vector_size": VECTOR if text else None,
        "num_experts": 3,
        "noise_scale": 0.3,
    } | fields
    model = ReaRecForNextItem(ReaRecConfig(**settings)).eval()
    if text:
        model.set_item_vectors(np.random.default_rng(seed).normal(size=(settings["num_items"], VECTOR)))
    return model


def padded(histories, width=None, side="left", pad=ITEMS) -> torch.Tensor:
    width = width or max(1, *map(len, histories))
    fill = [[pad] * (width - len(history)) for history in histories]
    lines = [f + h if side == "left" else h + f for f, h in zip(fill, histories, strict=True)]
    return torch.tensor(lines)


# ---- states ----


def reencoded(model: ReaRecForNextItem, history: list[int]) -> torch.Tensor:
    """r_0..r_K (K + 1, d) of one history, all positions encoded anew for every step with a mask over all pairs."""
    body, config = model.model, model.config
    rows = history or [config.num_items]
    places = torch.arange(len(rows)) if history else torch.tensor([config.max_history])
    fed = body.item_table()[rows] + body.position_embeddings.weight[places]
    for step in range(config.steps + 1):
        length = len(fed)
        mask = torch.ones(length, length).tril()
        if config.backbone == "bert4rec":
            mask[: len(rows), : len(rows)] = 1
        hidden = body.layer_norm(fed)
        for layer in body.layers:
            attention, forward = layer.attention, layer.feed_forward
            heads = [
                linear(hidden).view(length, config.num_attention_heads, -1).transpose(0, 1)
                for linear in (attention.query, attention.key, attention.value)
            ]
            scores = heads[0] @ heads[1].transpose(1, 2) / heads[0].shape[-1] ** 0.5
            weights = scores.masked_fill(mask == 0, -torch.inf).softmax(-1)
            read = (weights @ heads[2]).transpose(0, 1).reshape(length, -1)
            hidden = attention.layer_norm(hidden + attention.output(read))
            hidden = forward.layer_norm(hidden + forward.down(functional.gelu(forward.up(hidden))))
            if layer.adapter is not None:
                changed = layer.adapter.up(functional.gelu(layer.adapter.down(hidden[len(rows) :])))
                hidden = torch.cat([hidden[: len(rows)], hidden[len(rows) :] + changed])
        if step < config.steps:
            new = hidden[-1]
            if body.reasoning_embeddings is not None:
                new = new + body.reasoning_embeddings.weight[step]
            fed = torch.cat([fed, new[None]])
    return hidden[len(rows) - 1 :]


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("reasoning", REASONING)
def test_cached_steps_equal_encoding_everything_again(backbone, reasoning):
    model = make_rearec(backbone=backbone, reasoning=reasoning, num_reasoning_steps=3).double()
    states = model(padded(HISTORIES)).reasoning_states
    for history, found in zip(HISTORIES, states, strict=True):
        torch.testing.assert_close(found, reencoded(model, history), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("backbone", ["sasrec", "bert4rec"])
def test_adapters_are_for_reasoning_steps_alone(backbone):
    model = make_rearec(backbone=backbone, reasoning="erl", num_reasoning_steps=3, reasoning_adapter_size=5).double()
    states = model(padded(HISTORIES)).reasoning_states
    for history, found in zip(HISTORIES, states, strict=True):
        torch.testing.assert_close(found, reencoded(model, history), rtol=1e-9, atol=1e-9)
    shared = make_rearec(backbone=backbone, reasoning="erl", num_reasoning_steps=3).double()
    shared.load_state_dict(model.state_dict(), strict=False)
    without = shared(padded(HISTORIES)).reasoning_states
    torch.testing.assert_close(states[:, 0], without[:, 0])
    assert (states[:, 1:] - without[:, 1:]).abs().amin(dim=(1, 2)).min() > 0


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
@pytest.mark.parametrize("reasoning", ["naive", "rpe", "erl", "prl"])
def test_fewer_steps_are_a_prefix_of_the_states(reasoning, steps):
    model = make_rearec(reasoning=reasoning, num_reasoning_steps=steps)
    ids = padded(HISTORIES)
    states = model(ids).reasoning_states
    assert states.shape[1] == steps + 1
    for fewer in range(steps + 1):
        output = model(ids, num_steps=fewer)
        torch.testing.assert_close(output.reasoning_states, states[:, : fewer + 1])
        ranked = states[:, : fewer + 1].mean(1) if reasoning == "erl" else states[:, fewer]
        expected = ranked @ model.item_vectors()[:-1].T / model.config.temperature
        torch.testing.assert_close(output.logits, expected)
        model.num_steps = fewer
        assert torch.equal(model(ids).logits, output.logits)
        model.num_steps = None


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_padding_changes_nothing(data):
    model = make_rearec(backbone=data.draw(st.sampled_from(["sasrec", "bert4rec"])))
    histories = data.draw(st.lists(st.lists(st.integers(0, ITEMS - 1), max_size=WIDTH), min_size=1, max_size=4))
    width = data.draw(st.integers(max(1, *map(len, histories), 0), WIDTH))
    left = model(padded(histories, width)).reasoning_states
    right = model(padded(histories, width, "right")).reasoning_states
    torch.testing.assert_close(left, right, atol=1e-5, rtol=1e-5)
    for history, states in zip(histories, left, strict=True):
        torch.testing.assert_close(model(padded([history])).reasoning_states[0], states, atol=1e-5, rtol=1e-5)


def test_the_mask_leaves_items_out_as_padding_does():
    model = make_rearec()
    ids = torch.tensor([[4, 5, 6, 7]])
    masked = model(ids, attention_mask=torch.tensor([[0, 0, 1, 1]])).reasoning_states
    torch.testing.assert_close(masked, model(ids[:, 2:]).reasoning_states)


def test_only_the_last_position_goes_through_the_last_layer():
    model, shapes = make_rearec(num_hidden_layers=3), []
    for layer in model.model.layers:
        layer.feed_forward.register_forward_pre_hook(lambda module, args: shapes.append(tuple(args[0].shape)))
    model(padded(HISTORIES))
    rows = len(HISTORIES)
    assert shapes == [(rows, WIDTH, 8)] * 2 + [(rows, 1, 8)] * (1 + 3 * 2)  # every reasoning step is one position


# ---- losses ----


def packed_and_rows(side: str):
    """Sequences, the labels of packed rows (some positions have none), and one row per target in the same order."""
    generator = np.random.default_rng(1)
    sequences = [generator.integers(0, ITEMS, length).tolist() for length in (9, 1, 4, 6)]
    ids = padded(sequences, WIDTH, side)
    labels = torch.full_like(ids, -100)
    prefixes, targets = [], []
    for line, sequence in enumerate(sequences):
        start = WIDTH - len(sequence) if side == "left" else 0
        for position in range(len(sequence)):
            if line == 1 or generator.random() < 0.7:
                labels[line, start + position] = int(generator.integers(ITEMS))
                prefixes.append(sequence[: position + 1])
                targets.append(labels[line, start + position])
    return ids, labels, padded(prefixes), torch.stack(targets)


@pytest.mark.parametrize(
    ("reasoning", "fields"),
    [(reasoning, {}) for reasoning in REASONING]
    + [("prl", {"backbone": "unisrec"}), ("erl", {"backbone": "morec"}), ("prl", {"reasoning_adapter_size": 4})]
    + [("prl", {"loss_type": "sampled_softmax", "num_negatives": 7}), ("erl", {"loss_type": "bce"})],
    ids=str,
)
@pytest.mark.parametrize("side", ["left", "right"])
def test_packed_rows_equal_one_row_per_target(reasoning, fields, side):
    ids, sequence_labels, rows, targets = packed_and_rows(side)
    model = make_rearec(reasoning=reasoning, num_reasoning_steps=2, **fields).train()  # dropout is 0
    noise = torch.randn(2, len(targets), 8) if reasoning == "prl" else None
    results = []
    for arguments in ({"input_ids": ids, "sequence_labels": sequence_labels}, {"input_ids": rows, "labels": targets}):
        model.zero_grad()
        torch.manual_seed(5)  # the same negatives
        output = model(**arguments, noise=noise)
        output.loss.backward()
        results.append((output, {name: parameter.grad.clone() for name, parameter in model.named_parameters()}))
    (packed, packed_gradients), (one_by_one, gradients) = results
    close = {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(packed.reasoning_states, one_by_one.reasoning_states, **close)
    assert packed.losses.keys() == one_by_one.losses.keys()
    for name, value in one_by_one.losses.items():
        torch.testing.assert_close(packed.losses[name], value, **close)
    torch.testing.assert_close(packed.loss, one_by_one.loss, **close)
    assert packed.logits is one_by_one.logits is None  # training is spared them
    for name, gradient in gradients.items():
        torch.testing.assert_close(packed_gradients[name], gradient, **close)


def test_what_cannot_be_packed_is_refused():
    ids, labels, *_ = packed_and_rows("left")
    with pytest.raises(ValueError, match="a row per target"):
        make_rearec(backbone="bert4rec")(ids, sequence_labels=labels)
    model = make_rearec()
    with pytest.raises(ValueError, match="not both"):
        model(ids, sequence_labels=labels, labels=labels[:, -1])
    labels[1, 0] = 3
    with pytest.raises(ValueError, match=r"where there is no item\. The first place is \[1, 0\]"):
        model(ids, sequence_labels=labels)


def test_packed_rows_need_no_array_over_pairs_of_steps():
    """The largest array that attention makes grows with T * (T + K), not with (T * K) squared."""
    model = make_rearec(max_history=40, reasoning="rpe", num_reasoning_steps=4)
    ids = torch.randint(ITEMS, (1, 40))
    largest = 0

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                largest = max(largest, result.numel())
            return result

    with Sizes():
        model(ids, sequence_labels=torch.randint(ITEMS, (1, 40)))
    assert largest <= 2 * 40 * (40 + 4) * 2


def test_the_terms_add_up_to_the_loss():
    ids, targets = padded(HISTORIES), torch.tensor([1, 2, 3, 4, 5])
    erl = make_rearec(reasoning="erl", kl_weight=0.3)(ids, labels=targets)
    assert erl.losses.keys() == {"ce", "kl"}
    torch.testing.assert_close(erl.loss, erl.losses["ce"] + 0.3 * erl.losses["kl"])
    model = make_rearec(reasoning="prl", progressive_weight=0.7, contrastive_weight=0.2)
    without = model(ids, labels=targets)
    assert without.losses.keys() == {"ce", "progressive"}
    output = model(ids, labels=targets, noise=torch.randn(2, 5, 8))
    expected = output.losses["ce"] + 0.7 * output.losses["progressive"] + 0.2 * output.losses["contrastive"]
    torch.testing.assert_close(output.loss, expected)
    torch.testing.assert_close(output.loss, without.loss + 0.2 * output.losses["contrastive"])


def test_divergence_equals_the_sum_over_pairs():
    torch.manual_seed(0)
    logits = torch.randn(4, 3, 7, dtype=torch.float64, requires_grad=True)
    p, log_p = logits.softmax(-1), logits.log_softmax(-1)
    total = 0
    for i in range(3):
        for j in range(3):
            if i != j:
                total = total + (p[:, j] * (log_p[:, j] - log_p[:, i].detach())).sum(-1)
    expected = -total / 6
    found = divergences(logits)
    torch.testing.assert_close(found, expected)
    weights = torch.randn(4, dtype=torch.float64)
    gradients = [
        torch.autograd.grad((weights * terms).sum(), logits, retain_graph=True)[0] for terms in (found, expected)
    ]
    torch.testing.assert_close(*gradients)


def test_contrast_by_hand():
    torch.manual_seed(0)
    clean, noised = torch.randn(5, 3, 8), torch.randn(5, 3, 8)
    total, found = contrasts(clean, noised, 0.5)
    torch.testing.assert_close(total, found.sum())
    for anchor in range(5):
        losses = []
        for step in (1, 2):
            scores = torch.stack([noised[anchor, step] @ clean[other, step] / 0.5 for other in range(5)])
            losses.append(scores.logsumexp(0) - scores[anchor])
        torch.testing.assert_close(found[anchor], sum(losses) / 2)


@pytest.mark.parametrize("loss_type", ["softmax", "sampled_softmax"])
@pytest.mark.parametrize("reasoning", ["rpe", "erl", "prl"])
def test_accumulated_batches_add_up_to_one(reasoning, loss_type):
    """Sampled with all classes, so that the draws make no difference."""
    model = make_rearec(reasoning=reasoning, loss_type=loss_type, num_negatives=ITEMS + 1)
    ids, targets = padded(HISTORIES), torch.tensor([1, 2, 3, 4, 5])
    whole = model(ids, labels=targets)
    parts = [model(ids[part], labels=targets[part], num_items_in_batch=5) for part in (slice(0, 2), slice(2, 5))]
    torch.testing.assert_close(sum(part.loss for part in parts), whole.loss)
    for name, value in whole.losses.items():
        torch.testing.assert_close(sum(part.losses[name] for part in parts), value)


@pytest.mark.parametrize("reasoning", REASONING)
def test_sampled_softmax_over_all_classes_is_the_full_one(reasoning):
    ids, targets = padded(HISTORIES), torch.tensor([1, 2, 3, 4, 19])
    full = make_rearec(reasoning=reasoning)
    sampled = make_rearec(reasoning=reasoning, loss_type="sampled_softmax", num_negatives=ITEMS + 1)
    losses, gradients = [], []
    for model in (full, sampled):
        output = model(ids, labels=targets)
        output.loss.backward()
        losses.append(output)
        gradients.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(losses[1].losses, losses[0].losses)
    torch.testing.assert_close(losses[1].logits, losses[0].logits)  # in evaluation; training is spared them
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-5)
    assert sampled.train()(ids, labels=targets).logits is None


@torch.no_grad()
@pytest.mark.parametrize("sampling", ["uniform", "popularity"])
def test_the_correction_makes_the_sampled_sum_right_on_average(sampling):
    fields = {"loss_type": "sampled_softmax", "negative_sampling": sampling, "num_negatives": 8}
    model = make_rearec(reasoning="none", **fields)
    model.processor = ItemProcessor(WIDTH).set_catalogue(
        [str(row) for row in range(ITEMS)], popularity=np.arange(ITEMS) ** 2
    )
    ids, targets = padded([[3, 4]]), torch.tensor([2])
    scaled = model(ids).reasoning_states[:, -1:] / model.config.temperature
    full = functional.cross_entropy((scaled @ model.item_vectors().T)[:, 0], targets)
    popularity = torch.from_numpy(model.processor.popularity)
    torch.manual_seed(0)
    draws = []
    for _ in range(4000):
        negatives = draw_negatives(model.config, targets, popularity)
        logits, classes = class_logits(scaled, model.item_vectors(), targets, negatives)
        draws.append(functional.cross_entropy(logits[:, 0], classes))
    # exp(loss) = sum of exp(score - score of the target), estimated without bias
    sums = torch.stack(draws).exp()
    assert sums.mean().item() == pytest.approx(full.exp().item(), abs=4 * sums.std().item() / 4000**0.5)
    torch.manual_seed(3)
    loss = model(ids, labels=targets).loss
    torch.manual_seed(3)
    negatives = draw_negatives(model.config, targets, popularity)
    logits, classes = class_logits(scaled, model.item_vectors(), targets, negatives)
    torch.testing.assert_close(loss, functional.cross_entropy(logits[:, 0], classes))


def test_popularity_comes_from_the_processor():
    model = make_rearec(loss_type="sampled_softmax", negative_sampling="popularity", num_negatives=4)
    with pytest.raises(ValueError, match=r"set model\.processor"):
        model(padded([[1]]), labels=torch.tensor([2]))


def test_targets_are_no_negatives():
    table = torch.eye(4)
    logits, targets = class_logits(
        torch.tensor([[[3.0, 2.0, 1.0, 0.0]], [[3.0, 2.0, 1.0, 0.0]]]),
        table,
        torch.tensor([1, 2]),
        Negatives(torch.tensor([1, 3, 2]), torch.tensor([0.0, 0.5, 1.0])),
    )
    assert targets.tolist() == [0, 0]
    assert logits[:, 0].tolist() == [[2.0, -1e10, -0.5, 0.0], [1.0, 2.0, -0.5, -1e10]]


@pytest.mark.parametrize("num_negatives", [1, 3])
def test_bce_by_hand(num_negatives):
    model = make_rearec(reasoning="rpe", loss_type="bce", num_negatives=num_negatives)
    ids, targets = padded(HISTORIES), torch.tensor([0, 2, 3, 4, 19])
    torch.manual_seed(7)
    output = model(ids, labels=targets)
    torch.manual_seed(7)
    drawn = torch.randint(ITEMS - 1, (5, num_negatives))
    negatives = torch.where(drawn >= targets[:, None], drawn + 1, drawn)
    assert (negatives != targets[:, None]).all()
    expected = 0.0
    for row in range(5):
        probabilities = output.logits[row].double().sigmoid()
        expected -= probabilities[targets[row]].log() + (1 - probabilities[negatives[row]]).log().sum()
    assert output.loss.item() == pytest.approx(expected.item() / 5, rel=1e-5)
    scores = torch.tensor([[[1.0, -2.0]]])
    assert next_item_losses(scores, torch.tensor([0]), "bce").item() == pytest.approx(0.3133 + 0.1269, abs=1e-4)


# ---- item vectors ----


def test_unisrec_scores_by_hand():
    model = make_rearec(backbone="unisrec", adaptor_dropout=0.5)
    items = model.model.items
    vectors = torch.from_numpy(np.random.default_rng(0).normal(size=(ITEMS, VECTOR))).float()
    table = []
    for vector in vectors:
        shares = (items.adaptor.gate.weight @ vector).softmax(0)
        parts = [expert.linear.weight @ (vector - expert.mean) for expert in items.adaptor.experts]
        table.append(sum(share * part for share, part in zip(shares, parts, strict=True)))
    output = model(padded(HISTORIES))
    expected = output.reasoning_states[:, -1] @ torch.stack(table).T / model.config.temperature
    torch.testing.assert_close(output.logits, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.item_vectors()[-1], items.pad.weight[0])
    assert not torch.allclose(model.train().item_vectors(), model.item_vectors())  # dropout of what the experts read


def test_morec_scores_by_hand():
    model = make_rearec(backbone="morec")
    adaptor = model.model.items.adaptor
    vectors = torch.from_numpy(np.random.default_rng(0).normal(size=(ITEMS, VECTOR))).float()
    table = [
        adaptor.down.weight @ functional.gelu(adaptor.up.weight @ vector + adaptor.up.bias) + adaptor.down.bias
        for vector in vectors
    ]
    output = model(padded(HISTORIES))
    expected = output.reasoning_states[:, -1] @ torch.stack(table).T / model.config.temperature
    torch.testing.assert_close(output.logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backbone", ["unisrec", "morec"])
def test_item_vectors_start_about_as_large_as_embeddings(backbone):
    model = ReaRecForNextItem(ReaRecConfig(num_items=300, backbone=backbone, item_vector_size=384))
    vectors = np.random.default_rng(0).normal(size=(300, 384))
    model.set_item_vectors(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    assert 0.005 < model.eval().item_vectors()[:-1].std().item() < 0.05


def test_text_embeddings_that_do_not_fit():
    model = make_rearec(backbone="morec")
    with pytest.raises(ValueError, match=r"shape \(20, 5\), expected \(20, 6\)"):
        model.set_item_vectors(np.zeros((ITEMS, 5)))
    with pytest.raises(ValueError, match="row 3 holds NaN"):
        model.set_item_vectors(np.where(np.arange(ITEMS)[:, None] == 3, np.nan, np.zeros((ITEMS, VECTOR))))
    with pytest.raises(ValueError, match="reads no text"):
        make_rearec().set_item_vectors(np.zeros((ITEMS, VECTOR)))
    config = model.config
    with pytest.raises(ValueError, match="call set_item_vectors"):
        ReaRecForNextItem(config)(padded([[1]]))


def test_the_text_embeddings_are_not_trained():
    model = make_rearec(backbone="unisrec")
    assert "model.items.vectors" in model.state_dict()
    assert "model.items.vectors" not in dict(model.named_parameters())


# ---- training, files ----


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("reasoning", REASONING)
def test_every_parameter_moves_in_one_step(backbone, reasoning):
    adapter = 0 if reasoning == "none" else 3
    model = make_rearec(backbone=backbone, reasoning=reasoning, reasoning_adapter_size=adapter, dropout=0.1).train()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    noise = torch.randn(2, 5, 8) if reasoning == "prl" else None
    model(padded(HISTORIES), labels=torch.tensor([1, 2, 3, 4, 5]), noise=noise).loss.backward()
    torch.optim.Adam(model.parameters(), lr=1e-2).step()
    assert [name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])] == []


def test_dropout_acts_in_training_only():
    for name in ("embedding_dropout", "hidden_dropout", "attention_dropout"):
        plain, dropped = make_rearec(), make_rearec(**{name: 0.5})
        ids = padded(HISTORIES)
        assert torch.equal(dropped(ids).logits, plain(ids).logits)
        assert not torch.allclose(dropped.train()(ids).logits, plain(ids).logits)


def test_the_initial_weights_are_as_published():
    model = ReaRecForNextItem(ReaRecConfig(num_items=500, hidden_size=64, intermediate_size=64, reasoning="erl"))
    for name, parameter in model.named_parameters():
        if name.endswith("layer_norm.weight"):
            assert (parameter == 1).all()
        elif name.endswith("bias"):
            assert (parameter == 0).all()
        else:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.2), name
    assert model.item_vectors()[-1].abs().min() > 0  # PAD starts like the others


@pytest.mark.parametrize("backbone", BACKBONES)
def test_save_and_load(backbone, tmp_path):
    model = make_rearec(backbone=backbone, reasoning="erl", reasoning_adapter_size=2)
    model.processor = ItemProcessor(WIDTH).set_catalogue([f"i{row}" for row in range(ITEMS)])
    model.save_pretrained(tmp_path)
    again = ReaRecForNextItem.from_pretrained(tmp_path)
    ids = padded(HISTORIES)
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    # Scores may differ in their last bits: loaded weights lie elsewhere in memory.
    torch.testing.assert_close(again(ids).logits, model(ids).logits)
    for (item_ids, scores), (expected_ids, expected) in zip(
        zip(*again.recommend([["i3"], ["i8", "i4"]]), strict=True),
        zip(*model.recommend([["i3"], ["i8", "i4"]]), strict=True),
        strict=True,
    ):
        assert item_ids == expected_ids
        assert scores == pytest.approx(expected, rel=1e-5)
    for name, value in model.config.to_dict().items():
        if name not in ("_name_or_path", "transformers_version"):
            assert again.config.to_dict()[name] == value, name
    body = ReaRecModel.from_pretrained(tmp_path)
    torch.testing.assert_close(body(ids).reasoning_states, model(ids).reasoning_states)


def test_the_number_of_labels_is_the_number_of_items(tmp_path):
    config = ReaRecConfig(num_items=300)
    assert config.num_labels == 300
    config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()).get("id2label") is None
    assert ReaRecConfig.from_pretrained(tmp_path).num_labels == 300
    with pytest.raises(ValueError, match="num_labels=5"):
        ReaRecConfig(num_items=300, num_labels=5)


def test_weights_that_a_checkpoint_lacks_are_an_error(tmp_path):
    from safetensors.torch import load_file, save_file

    model = make_rearec()
    model.processor = ItemProcessor(WIDTH).set_catalogue([f"i{row}" for row in range(ITEMS)])
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.reasoning_embeddings.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"model\.reasoning_embeddings\.weight"):
        ReaRecForNextItem.from_pretrained(tmp_path)


STRANGER = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hf_genrec":
            raise ImportError("hf_genrec is blocked")
sys.meta_path.insert(0, Blocker())
import torch
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoProcessor
folder, again = sys.argv[1], sys.argv[2]
trust = {"trust_remote_code": True}
assert AutoConfig.from_pretrained(folder, **trust).model_type == "rearec"
for path in (folder, again):
    model = AutoModelForSequenceClassification.from_pretrained(path, **trust)
    processor = AutoProcessor.from_pretrained(path, **trust)
    inputs = processor(histories=[["i3", "i7"], []], return_tensors="pt")
    states = AutoModel.from_pretrained(path, **trust)(**inputs).reasoning_states
    with torch.no_grad():
        torch.testing.assert_close(states, model(**inputs).reasoning_states)
        torch.save({"logits": model(**inputs).logits, "found": model.recommend(["i3", "i7"])}, path + "/out.pt")
    if path == folder:
        model.save_pretrained(again)  # what a stranger saves opens as well
assert not any(name.split(".")[0] == "hf_genrec" for name in sys.modules)
"""


def test_a_saved_folder_opens_without_hf_genrec(tmp_path):
    model = make_rearec(backbone="unisrec")
    model.processor = ItemProcessor(WIDTH).set_catalogue([f"i{row}" for row in range(ITEMS)])
    folder, again = tmp_path / "model", tmp_path / "again"
    model.save_pretrained(folder)
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")}
    subprocess.run(
        [sys.executable, "-c", STRANGER, str(folder), str(again)],
        check=True,
        env=environment,
        cwd=tmp_path,
        timeout=120,
    )
    for path in (folder, again):
        output = torch.load(path / "out.pt")
        assert torch.equal(output["logits"], model(padded([[3, 7], []])).logits)
        assert output["found"][0] == model.recommend(["i3", "i7"])[0]


# ---- mistakes ----


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"backbone": "gru"}, "backbone='gru': use one of sasrec"),
        ({"reasoning": "deep"}, "reasoning='deep'"),
        ({"loss_type": "mse"}, "loss_type='mse'"),
        ({"negative_sampling": "hard"}, "negative_sampling='hard'"),
        ({"num_items": 0}, "num_items=0"),
        ({"num_negatives": 0}, "num_negatives=0"),
        ({"num_reasoning_steps": 0}, "reasoning='none'"),
        ({"hidden_size": 9}, "2 heads"),
        ({"reasoning_adapter_size": -1}, "reasoning_adapter_size=-1"),
        ({"reasoning_adapter_size": 4, "reasoning": "none"}, "without reasoning steps"),
        ({"temperature": 0.0}, "above 0"),
        ({"backbone": "morec"}, "length of the text embeddings"),
        ({"item_vector_size": 5}, "None for the others"),
        ({"loss_type": "sampled_softmax", "num_items": 3, "num_negatives": 5}, "set loss_type='softmax'"),
    ],
)
def test_configurations_that_make_no_sense(fields, message):
    with pytest.raises(ValueError, match=message):
        ReaRecConfig(**fields)


def test_inputs_that_make_no_sense():
    model = make_rearec()
    with pytest.raises(ValueError, match="newest max_history=9"):
        model(torch.zeros(1, 10, dtype=torch.long))
    with pytest.raises(ValueError, match="takes 0 to 2"):
        model(padded([[1]]), num_steps=3)
    for noise in (torch.randn(1, 1, 8), torch.randn(2, 2, 8), torch.randn(2, 8)):
        with pytest.raises(ValueError, match="noise has shape"):
            model(padded([[1]]), labels=torch.tensor([1]), noise=noise)
    with pytest.raises(ValueError, match=r"noise has shape .* 1 targets"):
        model(padded([[1]]), sequence_labels=torch.tensor([[1]]), noise=torch.randn(2, 2, 8))
    with pytest.raises(ValueError, match="noise is for reasoning='prl'"):
        make_rearec(reasoning="erl")(padded([[1]]), labels=torch.tensor([1]), noise=torch.randn(2, 1, 8))
