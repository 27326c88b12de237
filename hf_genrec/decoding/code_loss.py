"""The loss of codes that are written one after the other: cross-entropy with their labels, or with soft targets."""

from typing import TypedDict

import torch
from torch import nn

from ..catalogue.device_waits import may_ask, places_of, require


class SoftTargets(TypedDict, total=False):
    """
    What the loss compares R labelled codes with, instead of their labels alone: weights of K candidate codes each.

    Attributes:
        tokens: (R, K) int64, the candidates. Places to spare hold any token, of log-weight -inf.
        log_weights: (R, K), logarithms of weights that add up to 1; -inf where a candidate has none.
        legal: (R, K) boolean, the candidates that some item goes on with: probabilities are a softmax over these alone,
            of logits divided by `temperature`. May be left out: over the whole vocabulary.
        temperature: a number above 0, by default 1; not read without `legal`.
        cross_entropy: whether the loss is the mean of -log P over the candidates, by their weights, and not -log of the
            mean of P; by default not.
    """

    tokens: torch.Tensor
    log_weights: torch.Tensor
    legal: torch.Tensor
    temperature: float
    cross_entropy: bool


def at_least_float32(logits: torch.Tensor) -> torch.Tensor:
    """Logits as a softmax takes them: not narrower than float32."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def code_loss(
    logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float = 0.0, soft_targets: SoftTargets | None = None
) -> torch.Tensor:
    """
    Sum over the labelled codes of -log P(label), or with soft targets of -log sum_v w(v) P(v): the logarithm of what
    the model gives to all candidates together, each by its weight (TCA4Rec, arXiv 2601.18457). With `cross_entropy` it
    is -sum_v w(v) log P(v) (distillation, arXiv 1503.02531).

    Args:
        logits: (..., V), aligned with `labels`.
        labels: (...), -100 where nothing is learned.
        label_smoothing: the share e of (1 - e) times that loss plus e times the mean of -log P over the vocabulary, or
            over the legal candidates.
        soft_targets: of the labelled codes, in their order.

    Returns:
        a number; float32, or float64 for such logits.

    Raises:
        ValueError: for soft targets of another number of codes than are labelled.
    """
    logits, labels = logits.flatten(0, -2), labels.flatten().to(logits.device)
    logits = at_least_float32(logits)
    if soft_targets is None:
        return nn.functional.cross_entropy(
            logits, labels, ignore_index=-100, reduction="sum", label_smoothing=label_smoothing
        )
    tokens, legal = soft_targets["tokens"], soft_targets.get("legal")
    labelled = labels != -100
    logits = logits[_places(labelled, len(tokens))]
    chosen = logits.gather(1, tokens)
    if legal is not None:
        chosen = chosen.masked_fill(~legal, -torch.inf) / soft_targets.get("temperature", 1.0)
    total = (logits if legal is None else chosen).logsumexp(-1)
    log_weights = soft_targets["log_weights"]
    if soft_targets.get("cross_entropy", False):
        # What has no weight may be ruled out altogether: 0 times infinity is not a number.
        log_probs = (chosen - total.unsqueeze(-1)).masked_fill(log_weights == -torch.inf, 0.0)
        loss = -(log_weights.exp() * log_probs).sum(-1)
    else:
        loss = total - (chosen + log_weights).logsumexp(-1)
    if label_smoothing:
        mean = logits.mean(-1) if legal is None else chosen.masked_fill(~legal, 0.0).sum(-1) / legal.sum(-1)
        loss = (1 - label_smoothing) * loss + label_smoothing * (total - mean)
    return loss.sum()


def _places(labelled: torch.Tensor, count: int) -> torch.Tensor:
    """Where (n,) is labelled, in order: `count` places."""
    if may_ask(labelled):
        places = places_of(labelled)
        if len(places) != count:
            raise ValueError(f"soft targets of {count} codes for {len(places)} labels: give one line per code")
        return places
    # Waiting for their number takes longer than sorting.
    require(labelled.sum() == count, f"soft targets of {count} codes: give one line per label")
    return labelled.to(torch.uint8).argsort(descending=True, stable=True)[:count]


def soft_targets_of(level: int, soft_targets: SoftTargets, labels: torch.Tensor, start: int, end: int) -> SoftTargets:
    """
    Those of one level's codes, for a head that knows this level alone.

    Args:
        labels: (B, T) of all levels, -100 where nothing is learned.
        start, end: the level's tokens; the head's first one is `start`.
    """
    rows: slice | torch.Tensor = slice(level, None, labels.shape[1])
    if len(soft_targets["tokens"]) < labels.numel():
        rows = (torch.arange(labels.shape[1], device=labels.device) == level).expand_as(labels)[labels != -100]
    tokens = (soft_targets["tokens"][rows] - start).clamp(0, end - start - 1)
    of_level: SoftTargets = {**soft_targets, "tokens": tokens, "log_weights": soft_targets["log_weights"][rows]}
    if "legal" in soft_targets:
        of_level["legal"] = soft_targets["legal"][rows]
    return of_level
