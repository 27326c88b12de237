"""LADQ (arXiv 2508.15308, section 3.4.4): the precision of every linear layer, decided anew during training.

Weights stay float32, in memory and in checkpoints. A layer set to bfloat16 or fp8 casts its input and its weight for
the product, in training mode only: evaluation computes in float32.
"""

import functools
import logging
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import TrainerCallback

logger = logging.getLogger(__name__)

# What a product costs beside one in float32, on hardware with units for all three.
COST = {"float32": 1.0, "bfloat16": 0.5, "fp8": 0.25}
E4M3_MAX = 448.0
UNIFORM = {"bf16": "bfloat16", "fp8": "fp8"}


# ---- casts ----


def fp8_rounded(values: torch.Tensor) -> torch.Tensor:
    """
    Values as fp8 (e4m3) with one scale for the whole tensor holds them, in the dtype they came in.

    The largest magnitude goes to 448, the largest of e4m3. Emulated: rounded to fp8 and cast back.
    """
    largest = values.abs().amax().float()
    scale = torch.where(largest > 0, E4M3_MAX / largest, 1.0)
    scaled = (values.float() * scale).clamp(-E4M3_MAX, E4M3_MAX)  # what rounds above the largest would be no number
    return (scaled.to(torch.float8_e4m3fn).float() / scale).to(values.dtype)


class _Rounded(torch.autograd.Function):
    """`fp8_rounded`, through which gradients pass unchanged."""

    @staticmethod
    def forward(ctx, values):
        return fp8_rounded(values)

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def set_precision(layer: nn.Linear, precision: str) -> None:
    """Let a layer compute in `float32`, `bfloat16` or `fp8`, see [`COST`]."""
    layer.__dict__.pop("forward", None)
    if precision != "float32":
        layer.forward = functools.partial(_product, layer, precision)  # type: ignore[method-assign]


def _product(layer: nn.Linear, precision: str, states: torch.Tensor) -> torch.Tensor:
    if not layer.training:
        return nn.Linear.forward(layer, states)
    if precision == "fp8":
        return nn.functional.linear(_Rounded.apply(states), _Rounded.apply(layer.weight), layer.bias)
    bias = None if layer.bias is None else layer.bias.bfloat16()
    return nn.functional.linear(states.bfloat16(), layer.weight.bfloat16(), bias).to(states.dtype)


# ---- what a layer's precision costs and saves ----


def hessian_traces(
    loss: Callable[[], torch.Tensor], weights: Sequence[torch.Tensor], samples: int, generator: torch.Generator
) -> list[float]:
    """
    Estimates of the traces of the loss's Hessian, one for each weight's block.

    Hutchinson: the mean of v . Hv over Rademacher vectors v; one v for all weights at a time, of whose product each
    block takes its own part.

    Args:
        loss: computes the loss, a scalar, with a graph.
        samples: vectors to average over.
    """
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernels cannot be differentiated twice
        gradients = torch.autograd.grad(loss(), weights, create_graph=True, allow_unused=True, materialize_grads=True)
        sums = torch.zeros(len(weights), dtype=torch.float64)
        for _ in range(samples):
            signs = [
                torch.randint(0, 2, weight.shape, generator=generator).to(weight) * 2 - 1 for weight in weights
            ]  # drawn where the generator is
            products = torch.autograd.grad(
                gradients, weights, signs, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            sums += torch.stack([(v * hv).sum().double().cpu() for v, hv in zip(signs, products, strict=True)])
    return (sums / samples).tolist()


def loss_increase(trace: float, weight: torch.Tensor) -> dict[str, float]:
    """
    Estimated growth of the loss when a layer's weight is rounded, by precision: 1/2 * |trace| / n * ||Q(W) - W||^2.

    The second-order term with the mean curvature of the layer's n weights, as in HAWQ-V2 (arXiv 1911.03852), whose
    measure is twice this. Far from a minimum a trace can be negative: then its magnitude says how curved the loss is.
    """
    curvature = abs(trace) / weight.numel()
    rounded = {"float32": weight, "bfloat16": weight.bfloat16().to(weight.dtype), "fp8": fp8_rounded(weight)}
    return {name: 0.5 * curvature * (values - weight).square().sum().item() for name, values in rounded.items()}


def time_shares(loss: Callable[[], torch.Tensor], layers: dict[str, nn.Linear], repeats: int = 5) -> dict[str, float]:
    """
    Share of a forward pass that each layer takes, the median of some passes.

    The backward pass has two products where the forward pass has one, of the same sizes: a layer's share of a step is
    about the same.
    """
    measured: dict[str, list[float]] = {name: [] for name in layers}
    started: dict[nn.Module, float] = {}
    spent = dict.fromkeys(layers, 0.0)

    def now() -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()

    def begin(layer, *_):
        started[layer] = now()

    def end(name, layer, *_):
        spent[name] += now() - started[layer]

    hooks = [layer.register_forward_pre_hook(begin) for layer in layers.values()]
    hooks += [layer.register_forward_hook(functools.partial(end, name)) for name, layer in layers.items()]
    try:
        with torch.no_grad():
            for _ in range(1 + repeats):  # the first one warms up
                spent = dict.fromkeys(layers, 0.0)
                start = now()
                loss()
                whole = now() - start
                for name, seconds in spent.items():
                    measured[name].append(seconds / whole)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: statistics.median(shares[1:]) for name, shares in measured.items()}


def choose_precisions(
    increases: dict[str, dict[str, float]], shares: dict[str, float], budget: float
) -> dict[str, str]:
    """
    A precision for every layer: as much time saved as the loss budget pays for, greedily.

    A layer can go down two steps, float32 to bfloat16 and bfloat16 to fp8. A step's price is by how much the layer's
    estimated loss increase grows, its gain the layer's share of time times the difference of [`COST`]. Steps are taken
    in the order of price per gain, lowest first and by name where equal, a layer's second one after its first. One that
    would bring the sum of the increases above `budget` is left out, and so are the layer's further ones.

    Args:
        increases: by layer, the estimated loss increase at each precision ([`loss_increase`]).
        shares: by layer, its share of the step's time.
        budget: the most that the increases may add up to.
    """
    order = list(COST)
    chosen = dict.fromkeys(increases, order[0])
    waiting = [(name, order[0], order[1]) for name, share in sorted(shares.items()) if share > 0]
    spent = 0.0

    def price(step: tuple[str, str, str]) -> float:
        name, high, low = step
        return increases[name][low] - increases[name][high]

    def price_per_gain(step: tuple[str, str, str]) -> float:
        name, high, low = step
        return price(step) / (shares[name] * (COST[high] - COST[low]))

    while waiting:
        step = min(waiting, key=price_per_gain)
        waiting.remove(step)
        if spent + price(step) > budget:
            continue
        spent += price(step)
        name, _, low = step
        chosen[name] = low
        if low != order[-1]:
            waiting.append((name, low, order[order.index(low) + 1]))
    return chosen


# ---- in training ----


class LayerPrecisionCallback(TrainerCallback):
    """
    Sets the precision of a model's linear layers while it is trained.

    `mode` "bf16" and "fp8" set one for all layers. "adaptive" decides every `every` steps, on a fixed batch: traces of
    the Hessian, rounding errors and shares of time of all layers, then [`choose_precisions`]. Decisions stand in the
    log and, as `layer_precision`, in the trainer's history, from which a resumed training takes the last one.

    Args:
        loss (*optional*): adaptive: computes the loss of the fixed batch with a given model.
        every: steps from one decision to the next.
        budget: the most that the estimated loss may grow, in the unit of `loss`.
        samples: Hutchinson vectors.
        seed: of the vectors.
    """

    def __init__(
        self,
        mode: str,
        loss: Callable[[nn.Module], torch.Tensor] | None = None,
        every: int = 50,
        budget: float = 1e-4,
        samples: int = 8,
        seed: int = 0,
    ):
        if mode not in ("adaptive", *UNIFORM):
            raise ValueError(f"mode={mode!r}: use one of adaptive, {', '.join(UNIFORM)}.")
        if mode == "adaptive" and loss is None:
            raise ValueError("mode='adaptive' measures layers on a batch: pass loss.")
        self.mode = mode
        self.loss: Any = loss
        self.every, self.budget, self.samples = every, budget, samples
        self.generator = torch.Generator().manual_seed(seed)

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        layers = linear_layers(model)
        if self.mode in UNIFORM:
            _apply(layers, dict.fromkeys(layers, UNIFORM[self.mode]))
        decisions = [line["layer_precision"] for line in state.log_history if "layer_precision" in line]
        if decisions:
            _apply(layers, decisions[-1])

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if self.mode == "adaptive" and state.global_step % self.every == 0:
            decision = self.decide(model, state.global_step)
            state.log_history.append({"step": state.global_step, "layer_precision": decision})

    def on_train_end(self, args, state, control, model=None, **kwargs):
        layers = linear_layers(model)
        _apply(layers, dict.fromkeys(layers, "float32"))

    def decide(self, model: nn.Module, step: int) -> dict[str, str]:
        """Measure, decide, set and log; the precision of each layer by name."""
        layers = linear_layers(model)
        _apply(layers, dict.fromkeys(layers, "float32"))
        loss = functools.partial(self.loss, model)
        shares = time_shares(loss, layers)
        weights = [layer.weight for layer in layers.values()]
        trained = [weight.requires_grad for weight in weights]
        try:
            for weight in weights:  # those that adapters leave frozen, too
                weight.requires_grad_(True)
            traces = hessian_traces(loss, weights, self.samples, self.generator)
        finally:
            for weight, was_trained in zip(weights, trained, strict=True):
                weight.requires_grad_(was_trained)
        increases = {
            name: loss_increase(trace, layer.weight.detach())
            for (name, layer), trace in zip(layers.items(), traces, strict=True)
        }
        decision = choose_precisions(increases, shares, self.budget)
        _apply(layers, decision)
        for name, trace in zip(layers, traces, strict=True):
            logger.info(
                "step %d: %s %s (trace %.3g, %.1f %% of the time, estimated loss increase bfloat16 %.2g, fp8 %.2g)",
                step, name, decision[name], trace, 100 * shares[name], increases[name]["bfloat16"],
                increases[name]["fp8"],
            )  # fmt: skip
        return decision


def linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers of a model by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}


def _apply(layers: dict[str, nn.Linear], decision: dict[str, str]) -> None:
    for name, layer in layers.items():
        set_precision(layer, decision[name])
