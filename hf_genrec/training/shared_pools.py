"""Training of keys and values from a shared pool (CollectiveKV): where the pools start, and how their gates harden."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from torch import nn
from transformers import TrainerCallback, TrainingArguments

from hf_genrec.decoding.shared_keys_values import SharedKeysValues, SharedProjection, set_hardness
from hf_genrec.semantic_ids.parts import one_thread

SOFT, HARD = 0.1, 0.8  # shares of the steps: until the one gates are soft, from the other on they are hard
MOST_POSITIONS = 16_384  # of the first batches, from which k-means makes a pool
MOST_BATCHES = 16
MEAN_GATE = 2.0  # score of a router's winner at the start, on average: a gate of 0.88


class HardenGates(TrainerCallback):
    """Sets rho of every gate by the step: 0 in the first tenth of the training, 1 in its last fifth."""

    def on_step_begin(self, args, state, control, **kwargs):
        done = state.global_step / max(state.max_steps, 1)
        set_hardness(kwargs["model"], min(max((done - SOFT) / (HARD - SOFT), 0.0), 1.0))


def first_batches(examples, collator: Callable, arguments: TrainingArguments) -> list[dict[str, Any]]:
    """Up to `MOST_BATCHES` batches of examples that are drawn at random, on the CPU."""
    size = arguments.per_device_train_batch_size
    rows = np.random.default_rng(arguments.seed).permutation(len(examples))[: size * MOST_BATCHES].tolist()
    return [collator([examples[row] for row in rows[start : start + size]]) for start in range(0, len(rows), size)]


def first_states(
    batches: Sequence[Mapping[str, Any]], states_of: Callable[[Mapping[str, Any]], torch.Tensor]
) -> torch.Tensor:
    """
    The states (n, hidden_size) of as many batches as hold `MOST_POSITIONS`, cut to these.

    Raises:
        ValueError: if they hold none.
    """
    found: list[torch.Tensor] = []
    for batch in batches:
        if sum(map(len, found)) < MOST_POSITIONS:
            found.append(states_of(batch))
    states = torch.cat(found)[:MOST_POSITIONS]
    if not len(states):
        raise ValueError("the first batches hold no history that a shared pool could start from: train on longer ones")
    return states


@torch.no_grad()
def start_pools(
    model: nn.Module,
    batches: Sequence[Mapping[str, Any]],
    plain: Mapping[SharedKeysValues, tuple[nn.Linear, nn.Linear]],
    seed: int,
) -> None:
    """
    Pools of the centroids of what a model's own projections make of the first histories, and routers to the nearest of
    them: `argmax_j c_j (W s + b) - |c_j|^2 / 2`, scaled so that gates start near 1. Thin parts start as the
    projections' first columns.

    Args:
        batches: what the model reads; as many as hold `MOST_POSITIONS` positions are read.
        plain: the projections to keys and to values of each module, in the order of the layers: a layer's pools start
            when those before it have.
    """
    training = model.training
    model.eval()
    for shared, projections in plain.items():
        read: list[torch.Tensor] = []
        hook = shared.register_forward_pre_hook(lambda module, args, read=read: read.append(args[0][args[1]]))

        def states_of(batch: Mapping[str, Any], read: list[torch.Tensor] = read) -> torch.Tensor:
            model(**batch)
            return read.pop()

        try:
            states = first_states(batches, states_of)
        finally:
            hook.remove()
        for part, projection in zip((shared.key, shared.value), projections, strict=True):
            start_pool(part, projection, states, seed)
    model.train(training)


@torch.no_grad()
def start_pool(part: SharedProjection, projection: nn.Linear, states: torch.Tensor, seed: int) -> None:
    """The pool, router and thin part of one projection, from the plain one and states (n, hidden_size)."""
    weight: torch.Tensor = projection.weight.float()
    bias = weight.new_zeros(len(weight)) if projection.bias is None else projection.bias.float()
    if part.user is not None:
        part.user.weight.copy_(weight[: part.user_dim])
        part.user.bias.copy_(bias[: part.user_dim])
    weight, bias = weight[part.user_dim :], bias[part.user_dim :]
    vectors = states.float() @ weight.T + bias
    pool_size = len(part.pool.weight)
    distinct = len(np.unique(vectors.cpu().numpy(), axis=0))
    with one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # vectors that differ in their last bits only
        means = KMeans(min(pool_size, distinct), n_init=1, max_iter=30, random_state=seed).fit(vectors.cpu().numpy())
    centroids = torch.from_numpy(means.cluster_centers_).to(vectors)
    centroids = centroids[torch.arange(pool_size, device=centroids.device) % len(centroids)]  # (m, d_g)
    offsets = centroids @ bias - centroids.square().sum(-1) / 2
    best = (vectors @ centroids.T - centroids.square().sum(-1) / 2).amax(-1)
    spread = best.std(correction=0)
    if spread <= 1e-5 * best.abs().amax():
        spread = torch.ones_like(spread)  # states that are one but for rounding, which no scale should tell apart
    scale = 1 / spread
    part.pool.weight.copy_(centroids)
    part.router.weight.copy_(scale * centroids @ weight)
    part.router.bias.copy_(scale * (offsets - best.mean()) + MEAN_GATE)
