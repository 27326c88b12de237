"""Losses over all classes, made chunk by chunk with their gradients, against plain autograd."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from hf_genrec.decoding.post_norm_layers import dropout
from hf_genrec.methods.rearec import rearec_losses
from hf_genrec.methods.rearec.modeling_rearec import ReaRecConfig
from hf_genrec.methods.rearec.rearec_losses import over_all_classes, rearec_loss
from hf_genrec.methods.rearec.rearec_targets import rows_alike, used_columns

KL_WEIGHT = 0.3


def drawn(num_targets, num_states, classes, size=5, dtype=torch.float64, scale=1.0):
    generator = torch.Generator().manual_seed(0)
    states = scale * torch.randn(num_targets, num_states, size, generator=generator, dtype=torch.float64)
    table = torch.randn(classes, size, generator=generator, dtype=torch.float64)
    targets = torch.randint(classes, (num_targets,), generator=generator)
    return states.to(dtype).requires_grad_(), table.to(dtype).requires_grad_(), targets


def plain(states, table, targets, kl_weight=None):
    """As `over_all_classes`, by autograd on an array of all logits; ERL's divergence pair by pair."""
    logits = states @ table.T
    if kl_weight is None:
        every_state = targets[:, None].expand(logits.shape[:2]).flatten()
        losses = functional.cross_entropy(logits.flatten(0, 1), every_state, reduction="none").view(logits.shape[:2])
        return losses.sum(), losses
    log_p, num_states = logits.log_softmax(-1), logits.shape[1]
    kl = torch.zeros(len(targets), dtype=states.dtype)
    for i in range(num_states):
        for j in range(num_states):
            if i != j:
                kl = kl - (log_p[:, j].exp() * (log_p[:, j] - log_p[:, i].detach())).sum(-1)
    kl = kl / (num_states * (num_states - 1))
    of_mean = functional.cross_entropy(states.mean(1) @ table.T, targets, reduction="none")
    return of_mean.sum() + kl_weight * kl.sum(), torch.stack([of_mean, kl], -1)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 9),
    st.integers(1, 4),
    st.sampled_from([1, 2, 15, 16, 17, 40]),
    st.sampled_from([1, 100, 2**21]),
    st.booleans(),
)
def test_values_and_gradients_are_those_of_autograd(num_targets, num_states, classes, at_once, ensemble):
    inputs = drawn(num_targets, num_states, classes)
    kl_weight = KL_WEIGHT if ensemble and num_states > 1 else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rearec_losses, "LOGITS_AT_ONCE", at_once)
        patch.setattr(rearec_losses, "LEAST_STATES", 1)
        total, values = over_all_classes(*inputs, kl_weight)
    expected_total, expected = plain(*inputs, kl_weight)
    close = {"rtol": 1e-10, "atol": 1e-10}
    torch.testing.assert_close(values, expected, **close)
    torch.testing.assert_close(total, expected_total, **close)
    assert not values.requires_grad
    gradients = torch.autograd.grad(0.7 * total, inputs[:2])  # scaled, as by the number of targets
    for gradient, wanted in zip(gradients, torch.autograd.grad(0.7 * expected_total, inputs[:2]), strict=True):
        torch.testing.assert_close(gradient, wanted, **close)


@pytest.mark.parametrize("kl_weight", [None, KL_WEIGHT])
def test_logits_far_apart_lose_no_digits(kl_weight):
    """In float32, where most probabilities underflow to 0 and their logarithms are -300 and less."""
    states, table, targets = drawn(20, 3, 50, dtype=torch.float32, scale=200)
    total, values = over_all_classes(states, table, targets, kl_weight)
    exact = [tensor.detach().double().requires_grad_() for tensor in (states, table)]
    expected_total, expected = plain(*exact, targets, kl_weight)
    assert expected.abs().max() > 300
    torch.testing.assert_close(values.double(), expected.detach(), rtol=1e-5, atol=1e-3)
    gradients = torch.autograd.grad(total, [states, table])
    for gradient, wanted in zip(gradients, torch.autograd.grad(expected_total, exact), strict=True):
        torch.testing.assert_close(gradient.double(), wanted, rtol=1e-3, atol=1e-3 * wanted.abs().max().item())


def test_half_precision_is_computed_in_float32():
    states, table, targets = drawn(6, 2, 30, dtype=torch.bfloat16)
    total, values = over_all_classes(states, table, targets)
    expected_total, expected = plain(states.float(), table.float(), targets)
    assert values.dtype == torch.float32
    torch.testing.assert_close(values, expected)
    gradients = torch.autograd.grad(total, [states, table])
    for gradient, wanted in zip(gradients, torch.autograd.grad(expected_total, [states, table]), strict=True):
        assert gradient.dtype == torch.bfloat16
        torch.testing.assert_close(gradient, wanted)


def test_without_gradients_there_is_no_product_for_them():
    inputs = drawn(6, 2, 30)
    products = []

    class Products(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            products.append(function.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm_))
            return function(*args, **(kwargs or {}))

    with Products():
        total, values = over_all_classes(*inputs)
    assert sum(products) == 3
    products.clear()
    with Products(), torch.no_grad():
        again, again_values = over_all_classes(*inputs)
    assert sum(products) == 1
    assert not again.requires_grad
    assert torch.equal(again, total)
    assert torch.equal(again_values, values)


@pytest.mark.parametrize("reasoning", ["none", "erl", "prl"])
def test_memory_does_not_grow_with_targets_times_classes(reasoning, monkeypatch):
    """No array of a step is larger than the states, the table or the logits of a chunk; RCL's are targets x targets."""
    monkeypatch.setattr(rearec_losses, "LOGITS_AT_ONCE", 3000)
    monkeypatch.setattr(rearec_losses, "LEAST_STATES", 1)
    states, table, targets = drawn(300, 3, 200)
    noised = torch.randn_like(states, requires_grad=True) if reasoning == "prl" else None
    largest = 0

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                largest = max(largest, result.numel())
            return result

    config = ReaRecConfig(num_items=199, reasoning=reasoning)
    with Sizes():
        rearec_loss(states, noised, table, targets, config, None, 300).loss.backward()
    assert largest <= max(states.numel(), table.numel(), 3000)
    assert states.grad.abs().sum() > 0


# ---- what the rest of a training step is spared ----


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=30))
def test_rows_alike_are_all_rows_once_and_of_like_size(sizes):
    columns = torch.arange(40)
    real, is_target = (columns < torch.tensor(size).unsqueeze(-1) for size in zip(*sizes, strict=True))
    parts = rows_alike(real, is_target)
    assert sorted(torch.cat(parts).tolist()) == list(range(len(sizes)))
    for part in parts:
        for used in (real, is_target):
            counts = used[part].sum(-1)
            assert counts.max() <= max(4, 2 * counts.min())
            assert used_columns(used[part]) == max(1, counts.max())


@pytest.mark.parametrize("share", [0.2, 0.5, 0.0, 1.0])
def test_dropout_drops_its_share_and_keeps_the_mean(share):
    torch.manual_seed(0)
    states = torch.ones(400, 500, requires_grad=True)
    dropped = dropout(states, share, training=True)
    kept = dropped != 0
    assert (~kept).float().mean().item() == pytest.approx(share, abs=0.01)
    torch.testing.assert_close(dropped[kept], torch.full_like(dropped[kept], 1 / (1 - share) if share < 1 else 0))
    dropped.sum().backward()
    assert torch.equal(states.grad, dropped.detach())
    assert dropout(states, share, training=False) is states
    half = dropout(states.detach().bfloat16(), share, training=True)
    assert half.dtype == torch.bfloat16
