"""Adaptive depth: after each reasoning step a rule says, user by user, whether to take another one.

The *prediction at depth k* is what `num_steps=k` ranks: r_k, for ERL the mean of r_0..r_k; y_k is the softmax of its
scores over the whole catalogue. A rule gives every user a number after each step k < K, and who is below
`depth_threshold` stops there:

- `"kl"`: KL(y_k || y_{k-1}), infinity after step 0: stop when a step has changed next to nothing;
- `"halting"`: a linear function of r_k, of what the step changed and of the length of the history, one per step;
- `"confidence"`: minus the log of the largest probability of y_k, less what a table allows users with histories of this
  length after this step.

A user's depth does not depend on the batch: a number so close to the threshold that the rounding of a batch could tip
it is decided by the user alone, without padding.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ...catalogue.sound_scores import require_sound
from .configuration_rearec import ReaRecConfig
from .rearec_layers import LayerCache, real_items
from .rearec_losses import prediction_state

# One user's numbers in different batches differ by float32 rounding: in trained models by less than a tenth of this, be
# it relative or absolute.
CLOSE = 1e-4
HISTORY_GROUPS = 4  # of users by the length of their history, in the table of "confidence"
CHUNK_SCORES = 2**19  # held at once: 2 MB, which stay in a processor's cache between the passes over them


@dataclass
class Evidence:
    """What a rule may look at, of n users after step k."""

    states: torch.Tensor  # (n, k + 1, d), r_0..r_k
    lengths: torch.Tensor  # (n,), items of the history that were read
    prediction: torch.Tensor  # (n, d), of depth k, divided by the temperature
    items: torch.Tensor  # (N, d)
    memory: torch.Tensor | None  # (n, m), what the rule kept of step k - 1

    @property
    def step(self) -> int:
        return self.states.shape[1] - 1


def survey(
    predictions: torch.Tensor, items: torch.Tensor, with_mean: bool = True
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """
    The distribution y = softmax(predictions items^T) in short, a few users' scores at a time.

    Args:
        predictions: (n, d), divided by the temperature.
        items: (N, d).
        with_mean: whether the mean item is asked for; it costs a second product with all items.

    Returns:
        log of the normaliser (n,), minus the log of the largest probability (n,), and the mean item under y (n, d),
        which is empty where it is not asked for.
    """
    parts = []
    for chunk in predictions.split(max(1, CHUNK_SCORES // len(items))):
        scores = chunk @ items.T
        largest = scores.amax(-1, keepdim=True)
        shares = scores.sub_(largest).exp_()
        total = shares.sum(-1, keepdim=True)
        mean = shares @ items / total if with_mean else chunk[:, :0]
        parts.append(((largest + total.log())[:, 0], total.log()[:, 0], mean))
    log_normalisers, doubts, means = (torch.cat(part) for part in zip(*parts, strict=True))
    return log_normalisers, doubts, means


def divergence(
    prediction: torch.Tensor, log_normaliser: torch.Tensor, mean: torch.Tensor, memory: torch.Tensor
) -> torch.Tensor:
    """
    KL(y_k || y_{k-1}) in nats, (n,), at least 0. The mean under y_k of a difference of two scores is the product of the
    predictions' difference with the mean item, so y_{k-1} is not computed again.

    Args:
        prediction, log_normaliser, mean: (n, d), (n,), (n, d), of depth k by [`survey`].
        memory: (n, d + 1), prediction and log normaliser of depth k - 1.
    """
    change = ((prediction - memory[:, :-1]) * mean).sum(-1)
    return (change - log_normaliser + memory[:, -1]).clamp(min=0)


def halting_features(states: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """r_k, r_k - r_{k-1} (0 after step 0) and log(1 + items of the history), (n, 2 d + 1) from (n, k + 1, d)."""
    state = states[:, -1]
    change = state - states[:, -2] if states.shape[1] > 1 else torch.zeros_like(state)
    return torch.cat([state, change, lengths.to(state.dtype).log1p().unsqueeze(-1)], -1)


class KlRule(nn.Module):
    """How much the newest step has changed the distribution over the items."""

    def forward(self, evidence: Evidence) -> tuple[torch.Tensor, torch.Tensor | None]:
        """A number per user (n,), and what to keep of them for the next step."""
        prediction, memory = evidence.prediction, evidence.memory
        log_normaliser, _, mean = survey(prediction, evidence.items, with_mean=memory is not None)
        kept = torch.cat([prediction, log_normaliser.unsqueeze(-1)], -1)
        if memory is None:
            return torch.full_like(log_normaliser, torch.inf), kept
        return divergence(prediction, log_normaliser, mean, memory), kept


class HaltingRule(nn.Module):
    """A linear function of the newest states per step; positive where going on has helped such users."""

    weight: torch.Tensor
    bias: torch.Tensor

    def __init__(self, config: ReaRecConfig):
        super().__init__()
        self.register_buffer("weight", torch.zeros(config.steps, 2 * config.hidden_size + 1))
        self.register_buffer("bias", torch.zeros(config.steps))

    def forward(self, evidence: Evidence) -> tuple[torch.Tensor, torch.Tensor | None]:
        """A number per user (n,); nothing is kept."""
        features = halting_features(evidence.states, evidence.lengths)
        return features @ self.weight[evidence.step] + self.bias[evidence.step], None


class ConfidenceRule(nn.Module):
    """Minus the log of the largest probability, above what is allowed after this step to histories of this length."""

    may_be_infinite = ("allowed",)
    longest: torch.Tensor
    allowed: torch.Tensor

    def __init__(self, config: ReaRecConfig):
        super().__init__()
        # The longest history of each group but the last one, which has no end.
        self.register_buffer("longest", torch.zeros(HISTORY_GROUPS - 1, dtype=torch.int64))
        self.register_buffer("allowed", torch.zeros(config.steps, HISTORY_GROUPS))

    def forward(self, evidence: Evidence) -> tuple[torch.Tensor, torch.Tensor | None]:
        """A number per user (n,); nothing is kept."""
        _, doubt, _ = survey(evidence.prediction, evidence.items, with_mean=False)
        group = torch.bucketize(evidence.lengths, self.longest)
        return doubt - self.allowed[evidence.step, group], None


def build_depth_rule(config: ReaRecConfig) -> nn.Module | None:
    """The rule that a configuration names, yet to be fitted: with it nobody stops. `None` for a fixed depth."""
    if config.depth_rule is None:
        return None
    if config.depth_rule == "kl":
        return KlRule()
    return HaltingRule(config) if config.depth_rule == "halting" else ConfidenceRule(config)


def adaptive_predictions(
    body: Any, rule: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor | None, item_table: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    What is ranked of each user, and the depth it was taken from. Who has stopped takes no part in further steps.

    Args:
        body: the `ReaRecModel`.
        rule: of `build_depth_rule`.
        input_ids, attention_mask: (B, T), as `ReaRecModel.forward` takes them.
        item_table: (N + 1, d), PAD last.

    Returns:
        predictions (B, d), not divided by the temperature, and depths (B,) int64.
    """
    real = real_items(input_ids, attention_mask, body.config.num_items)
    predictions, depths, close = _go(body, rule, input_ids, real, item_table)
    for row in close.nonzero()[:, 0].tolist():
        alone = input_ids[row][real[row]] if real[row].any() else input_ids.new_tensor([body.config.num_items])
        is_item = (alone != body.config.num_items).unsqueeze(0)
        (predictions[row],), (depths[row],), _ = _go(body, rule, alone.unsqueeze(0), is_item, item_table)
    return predictions, depths


def _go(body: Any, rule: Any, input_ids: torch.Tensor, real: torch.Tensor, item_table: torch.Tensor):
    """Predictions (B, d), depths (B,), and who came close to the threshold (B,), of the items `real` (B, T)."""
    config = body.config
    threshold = torch.tensor(config.depth_threshold, device=item_table.device, dtype=item_table.dtype)
    items = item_table[: config.num_items]
    hidden, caches, mask = body.encode(input_ids, real, item_table)
    predictions = torch.empty_like(hidden[:, 0])
    depths = torch.zeros(len(hidden), dtype=torch.int64, device=hidden.device)
    close = torch.zeros_like(depths, dtype=torch.bool)
    going = torch.arange(len(hidden), device=hidden.device)
    states, lengths, memory = hidden, real.sum(-1), None
    for step in range(config.steps + 1):
        prediction = prediction_state(states, config.reasoning)
        stop = torch.ones_like(going, dtype=torch.bool)
        if step < config.steps:
            evidence = Evidence(states, lengths, prediction / config.temperature, items, memory)
            value, memory = rule(evidence)
            require_sound(body, value.masked_fill(value == torch.inf, 0.0))  # who is to go on has infinity
            stop = value < threshold
            close[going] |= torch.isclose(value, threshold, CLOSE, CLOSE)
        predictions[going[stop]], depths[going[stop]] = prediction[stop], step
        if stop.all():
            break
        if stop.any():
            kept = (~stop).nonzero()[:, 0]
            going, states, lengths, mask = going[kept], states[kept], lengths[kept], mask[kept]
            memory = None if memory is None else memory[kept]
            caches = [_rows(cache, kept) for cache in caches]
        hidden, caches = body.reason(body.fed(states[:, -1:], step), caches, mask)
        states = torch.cat([states, hidden], 1)
    return predictions, depths, close


def _rows(cache: LayerCache, rows: torch.Tensor) -> LayerCache:
    """The keys and values of some users."""
    step_keys, step_values = (tuple(step[rows] for step in steps) for steps in (cache.step_keys, cache.step_values))
    return LayerCache(cache.keys[rows], cache.values[rows], step_keys, step_values)
