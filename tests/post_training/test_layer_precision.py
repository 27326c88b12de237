"""LADQ: what it measures against exact values, what it decides, and that training goes on under it."""

import itertools

import numpy as np
import pytest
import torch
from conftest import make_model, make_processor
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import Trainer, TrainerState, TrainingArguments

from hf_genrec.data.collator import NextItemCollator
from hf_genrec.post_training.layer_precision import (
    COST,
    LayerPrecisionCallback,
    choose_precisions,
    fp8_rounded,
    hessian_traces,
    linear_layers,
    loss_increase,
    set_precision,
    time_shares,
)

pytestmark = pytest.mark.libraries

# Every finite value of e4m3, from its bits: sign, 4 of exponent (bias 7), 3 of mantissa.
E4M3 = np.array(
    sorted(
        sign * (mantissa / 8 * 2.0**-6 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7))
        for sign, exponent, mantissa in itertools.product((1, -1), range(16), range(8))
        if (exponent, mantissa) != (15, 7)
    )
)


# ---- casts ----


def test_fp8_is_torchs_round_trip_at_a_scale_of_448():
    values = torch.randn(7, 33, generator=torch.Generator().manual_seed(0))
    scale = 448 / values.abs().max()
    assert torch.equal(fp8_rounded(values), (values * scale).to(torch.float8_e4m3fn).float() / scale)
    assert torch.equal(fp8_rounded(torch.zeros(3)), torch.zeros(3))
    assert fp8_rounded(values.bfloat16()).dtype == torch.bfloat16


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=20))
def test_fp8_is_the_nearest_value_of_the_format(values):
    values = torch.tensor(values)
    rounded = fp8_rounded(values).double().numpy()
    largest = values.abs().max().item()
    if largest < 1e-30:
        return
    scale = np.float32(448) / np.float32(largest)
    grid = E4M3 / float(scale)
    nearest = np.abs(values.double().numpy()[:, None] - grid).min(axis=1)
    assert np.abs(rounded - values.double().numpy()) == pytest.approx(nearest, rel=1e-3, abs=1e-6 * largest)


@pytest.mark.parametrize("precision", ["bfloat16", "fp8"])
def test_a_layer_computes_with_cast_inputs_and_weights_in_training_only(precision):
    torch.manual_seed(0)
    layer, states = nn.Linear(6, 5), torch.randn(4, 6, requires_grad=True)
    plain = layer(states)
    names = list(layer.state_dict())
    set_precision(layer, precision)
    weights = torch.randn(4, 5)
    output = layer(states)
    (output * weights).sum().backward()
    if precision == "fp8":
        cast_states, cast_weight = fp8_rounded(states.detach()), fp8_rounded(layer.weight.detach())
        assert torch.equal(output, nn.functional.linear(cast_states, cast_weight, layer.bias))
        # The products of the backward pass read what the forward pass read.
        torch.testing.assert_close(layer.weight.grad, weights.T @ cast_states)
        torch.testing.assert_close(states.grad, weights @ cast_weight)
    else:
        expected = nn.functional.linear(states.bfloat16(), layer.weight.bfloat16(), layer.bias.bfloat16()).float()
        assert torch.equal(output, expected)
    assert not torch.equal(output, plain)
    assert output.dtype == layer.weight.dtype == layer.weight.grad.dtype == torch.float32
    assert list(layer.state_dict()) == names
    assert torch.equal(layer.eval()(states), plain)
    set_precision(layer.train(), "float32")
    assert torch.equal(layer(states), plain)


# ---- measurements ----


def exact_traces(loss, weights) -> list[float]:
    """Second derivatives by each single weight."""
    gradients = torch.autograd.grad(loss(), weights, create_graph=True)
    traces = []
    for weight, gradient in zip(weights, gradients, strict=True):
        places = range(weight.numel())
        second = [torch.autograd.grad(gradient.flatten()[i], weight, retain_graph=True)[0].flatten()[i] for i in places]
        traces.append(float(sum(second)))
    return traces


def test_traces_are_those_of_the_hessian():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    inputs, targets = torch.randn(16, 4), torch.randint(0, 3, (16,))

    def loss():
        return nn.functional.cross_entropy(network(inputs), targets)

    weights = [network[0].weight, network[2].weight]
    estimates = hessian_traces(loss, weights, 2000, torch.Generator().manual_seed(0))
    assert estimates == pytest.approx(exact_traces(loss, weights), rel=0.05)


def test_the_trace_of_a_quadratic_needs_one_vector():
    """Where the Hessian is diagonal, v . Hv is its trace for every v of signs."""
    weight, curvature = torch.randn(3, 2, requires_grad=True), torch.arange(6.0).view(3, 2)
    unused = torch.randn(2, requires_grad=True)
    traces = hessian_traces(
        lambda: (curvature * weight**2).sum() / 2, [weight, unused], 1, torch.Generator().manual_seed(0)
    )
    assert traces == pytest.approx([15.0, 0.0])


def test_a_whole_model_can_be_differentiated_twice():
    """Attention of CARE, whose fused kernels have no second derivative; against exact values of one layer."""
    processor = make_processor()
    model = make_model(processor, hidden_size=8, intermediate_size=8, num_key_value_heads=4)
    batch = NextItemCollator(processor)(
        [{"history": np.array([3, 9]), "target": 1}, {"history": np.array([5, 1]), "target": 7}]
    )
    weights = [model.model.layers[0].self_attn.q_proj.weight]
    estimate = hessian_traces(lambda: model(**batch).loss, weights, 300, torch.Generator().manual_seed(0))
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        exact = exact_traces(lambda: model(**batch).loss, weights)
    assert estimate == pytest.approx(exact, rel=0.3)


def test_the_loss_grows_as_estimated():
    """For a quadratic of one curvature the estimate is exact: the loss at the rounded weight."""
    weight = torch.randn(40, 30, generator=torch.Generator().manual_seed(0))
    curvature = 0.7
    increases = loss_increase(curvature * weight.numel(), weight)
    for name, rounded in (("bfloat16", weight.bfloat16().float()), ("fp8", fp8_rounded(weight))):
        assert increases[name] == pytest.approx((curvature / 2 * (rounded - weight) ** 2).sum().item(), rel=1e-5)
    assert 0 == increases["float32"] < increases["bfloat16"] < increases["fp8"]
    assert loss_increase(-curvature * weight.numel(), weight) == increases


def test_shares_of_time():
    network = nn.ModuleDict({"large": nn.Linear(400, 400), "small": nn.Linear(4, 4), "idle": nn.Linear(4, 4)})
    inputs = torch.randn(2000, 400)
    layers = linear_layers(network)
    shares = time_shares(lambda: network["small"](network["large"](inputs)[:, :4]).sum(), layers)
    assert shares["idle"] == 0
    assert 0 < shares["small"] < shares["large"] < 1
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in layers.values())


# ---- decisions ----


def increases(**of_layers):
    return {name: {"float32": 0.0, "bfloat16": low, "fp8": lower} for name, (low, lower) in of_layers.items()}


def test_decisions_follow_sensitivity_and_time():
    """Price per gain: b's first step 1/0.1, its second 99/0.05; a's 4/0.05 and 396/0.025; c's 1/0.2 and 9/0.1."""
    of_layers = increases(a=(4.0, 400.0), b=(1.0, 100.0), c=(1.0, 10.0))
    shares = {"a": 0.1, "b": 0.2, "c": 0.4}
    assert choose_precisions(of_layers, shares, 0.5) == dict.fromkeys("abc", "float32")
    assert choose_precisions(of_layers, shares, 1.0) == {"a": "float32", "b": "float32", "c": "bfloat16"}
    assert choose_precisions(of_layers, shares, 2.0) == {"a": "float32", "b": "bfloat16", "c": "bfloat16"}
    # The next cheapest step, a's, costs 4; c's second one would cost 9.
    assert choose_precisions(of_layers, shares, 6.0) == {"a": "bfloat16", "b": "bfloat16", "c": "bfloat16"}
    assert choose_precisions(of_layers, shares, 15.0) == {"a": "bfloat16", "b": "bfloat16", "c": "fp8"}
    assert choose_precisions(of_layers, shares, 1e9) == dict.fromkeys("abc", "fp8")
    # A layer that takes no time stays what it is.
    assert choose_precisions(of_layers, shares | {"b": 0.0}, 1e9)["b"] == "float32"


@given(st.data())
def test_decisions_keep_the_budget_and_leave_nothing_that_fits(data):
    names = "abcde"[: data.draw(st.integers(1, 5))]
    numbers = st.floats(0, 10)
    of_layers = {
        name: dict(zip(COST, (0.0, *sorted([data.draw(numbers), data.draw(numbers)])), strict=True)) for name in names
    }
    shares = {name: data.draw(st.floats(0.01, 1)) for name in names}
    budget = data.draw(st.floats(0, 20))
    decision = choose_precisions(of_layers, shares, budget)
    spent = sum(of_layers[name][precision] for name, precision in decision.items())
    assert spent <= budget + 1e-9
    lower = {"float32": "bfloat16", "bfloat16": "fp8"}
    for name, precision in decision.items():
        if precision in lower:
            assert spent + of_layers[name][lower[precision]] - of_layers[name][precision] > budget - 1e-9


# ---- in training ----


@pytest.fixture
def batches():
    processor = make_processor()
    rng = np.random.default_rng(0)
    examples = [{"history": rng.integers(0, 40, 5), "target": int(rng.integers(0, 40))} for _ in range(32)]
    return processor, examples, NextItemCollator(processor)


def train(folder, batches, callback, steps=8, resume=None, save_steps=4):
    processor, examples, collator = batches
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=steps, per_device_train_batch_size=16, learning_rate=1e-2, use_cpu=True,
        report_to="none", disable_tqdm=True, remove_unused_columns=False, save_strategy="steps", save_steps=save_steps,
        logging_steps=1,
    )  # fmt: skip
    callbacks = [] if callback is None else [callback]
    trainer = Trainer(
        make_model(processor), arguments, train_dataset=examples, data_collator=collator, callbacks=callbacks
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer, [line["loss"] for line in trainer.state.log_history if "loss" in line]


@pytest.mark.parametrize("mode", ["bf16", "fp8"])
def test_training_goes_on_in_low_precision(tmp_path, batches, mode):
    _, expected = train(tmp_path / "float32", batches, None)
    trainer, losses = train(tmp_path / mode, batches, LayerPrecisionCallback(mode))
    assert losses != expected
    assert losses == pytest.approx(expected, rel=0.25)
    assert losses[-1] < 0.7 * losses[0]
    saved = type(trainer.model).from_pretrained(tmp_path / mode / "checkpoint-8")
    assert {tensor.dtype for tensor in saved.state_dict().values()} == {torch.float32}
    assert saved.state_dict().keys() == trainer.model.state_dict().keys()
    assert not any("forward" in layer.__dict__ for layer in linear_layers(trainer.model).values())


def test_adaptive_training_decides_again_and_again(tmp_path, batches, caplog):
    processor, examples, collator = batches
    probe = collator(examples)
    callback = LayerPrecisionCallback("adaptive", lambda model: model(**probe).loss, every=3, budget=1e-4)
    with caplog.at_level("INFO"):
        trainer, losses = train(tmp_path / "run", batches, callback)
    lines = [line for line in trainer.state.log_history if "layer_precision" in line]
    assert [line["step"] for line in lines] == [0, 3, 6]
    names = linear_layers(trainer.model).keys()
    assert all(line["layer_precision"].keys() == names for line in lines)
    assert {precision for line in lines for precision in line["layer_precision"].values()} >= {"bfloat16"}
    assert sum("of the time, estimated loss increase" in record.getMessage() for record in caplog.records) == 3 * len(
        names
    )
    assert losses[-1] < 0.7 * losses[0]

    # A resumed training computes as the decision before its checkpoint says, until the next one is due.
    state = TrainerState.load_from_json(str(tmp_path / "run/checkpoint-4/trainer_state.json"))
    model = make_model(processor)
    callback.on_train_begin(None, state, None, model=model)
    decided = lines[1]["layer_precision"]
    layers = linear_layers(model)
    assert {name for name, layer in layers.items() if "forward" in layer.__dict__} == {
        name for name, precision in decided.items() if precision != "float32"
    }


def test_measuring_changes_nothing(batches):
    processor, examples, collator = batches
    probe, model = collator(examples), make_model(processor).train()
    model.lm_head.weight.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(3)
    state = torch.get_rng_state()
    LayerPrecisionCallback("adaptive", lambda policy: policy(**probe).loss).decide(model, 0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())
    assert not model.lm_head.weight.requires_grad
    assert torch.equal(torch.get_rng_state(), state)


def test_modes_that_do_not_exist():
    with pytest.raises(ValueError, match="mode='int8'"):
        LayerPrecisionCallback("int8")
    with pytest.raises(ValueError, match="pass loss"):
        LayerPrecisionCallback("adaptive")
