"""ReaRec's losses: the next item from the states, ERL's divergence, PRL's progressive and contrastive terms."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from .configuration_rearec import ReaRecConfig

IMPOSSIBLE = -1e10  # logit of a class that does not count; finite, so that its share in a divergence is 0 and not NaN


def prediction_state(states: torch.Tensor, reasoning: str) -> torch.Tensor:
    """The state that is ranked: the mean of r_0..r_K for ERL, else r_K. (..., K + 1, d) -> (..., d)"""
    return states.mean(-2) if reasoning == "erl" else states[..., -1, :]


def temperatures(config: ReaRecConfig, num_steps: int) -> list[float]:
    """Temperature of the loss of each state r_0..r_K. Intermediate ones are rounded to float32, as published."""
    if config.reasoning != "prl":
        return [config.temperature] * (num_steps + 1)
    scaled = [config.temperature * config.temperature_scale ** (num_steps - step) for step in range(num_steps)]
    return [*np.array(scaled, dtype=np.float32).tolist(), config.temperature]


@dataclass
class Negatives:
    """What a sampled loss compares the targets with."""

    rows: torch.Tensor  # (C,) of the item table, shared by the batch, or (n, C), a target's own
    log_counts: torch.Tensor  # (C,) or scalar, log of how often a row is drawn on average


def draw_negatives(
    config: ReaRecConfig, labels: torch.Tensor, popularity: torch.Tensor | None = None
) -> Negatives | None:
    """
    Negatives of the loss that the configuration asks for, from torch's generator; `None` for the full softmax.

    Args:
        labels: (n,) rows of the targets.
        popularity (*optional*): (N,) how often each item is trained on. An item that never is, and PAD, count as 1, so
            that every class can be drawn.
    """
    device, count = labels.device, config.num_negatives
    if config.loss_type == "softmax":
        return None
    if config.loss_type == "bce":
        # One of the N - 1 other items: those from the target on move up by one.
        rows = torch.randint(config.num_items - 1, (len(labels), count), device=device)
        return Negatives(rows + (rows >= labels.unsqueeze(-1)), torch.zeros((), device=device))
    if config.negative_sampling == "uniform":
        classes = config.num_items + 1
        share = torch.tensor(count / classes, dtype=torch.float64, device=device)
        return Negatives(torch.randperm(classes, device=device)[:count], share.log())
    if popularity is None:
        raise ValueError("negative_sampling='popularity' needs the items' popularity: set model.processor first.")
    weights = nn.functional.pad(popularity.to(device, torch.float64), (0, 1)).clamp(min=1)
    rows = torch.multinomial(weights, count, replacement=True)
    return Negatives(rows, (count * weights[rows] / weights.sum()).log())


def class_logits(
    states: torch.Tensor, table: torch.Tensor, labels: torch.Tensor, negatives: Negatives | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Logits of the classes that the loss compares.

    Args:
        states: (n, S, d), divided by their temperatures.
        table: (N + 1, d), PAD last.
        labels: (n,)
        negatives (*optional*): without them all rows of the table are classes; with them the target is class 0, and a
            negative that is the target itself does not count.

    Returns:
        logits (n, S, classes), at least float32, and the targets (n,) among the classes.
    """
    if negatives is None:
        logits, targets = states @ table.T, labels
    else:
        of_target = (states * table[labels].unsqueeze(1)).sum(-1, keepdim=True)
        drawn = table[negatives.rows]  # (C, d) or (n, C, d)
        of_drawn = states @ drawn.transpose(-1, -2) - negatives.log_counts.to(states.dtype)
        is_target = (negatives.rows == labels.unsqueeze(-1)).unsqueeze(1)  # (n, 1, C)
        logits = torch.cat([of_target, of_drawn.masked_fill(is_target, IMPOSSIBLE)], -1)
        targets = torch.zeros_like(labels)
    return logits.to(torch.promote_types(logits.dtype, torch.float32)), targets


def next_item_losses(logits: torch.Tensor, targets: torch.Tensor, loss_type: str) -> torch.Tensor:
    """
    Loss of each state: cross-entropy, or for `"bce"` -log sigmoid(target) - sum of log sigmoid(-negative).

    Args:
        logits: (n, S, classes)
        targets: (n,)

    Returns:
        (n, S)
    """
    if loss_type == "bce":
        signs = torch.full_like(logits[0, 0], -1.0)
        signs[0] = 1.0
        return -nn.functional.logsigmoid(logits * signs).sum(-1)
    every_state = targets.unsqueeze(-1).expand(logits.shape[:-1])
    return nn.functional.cross_entropy(logits.flatten(0, 1), every_state.flatten(), reduction="none").view_as(
        every_state
    )


class _Divergence(torch.autograd.Function):
    """
    Mean over ordered pairs of states i != j of KL(y_j || y_i), y_i taken as a constant.

    With log p summed over the S states first, no array over pairs is needed:
    sum over i of KL(y_j || y_i) = sum over classes of p_j * e_j, where e_j = S log p_j - sum over i of log p_i.
    Its gradient by the logits of y_j is p_j * (e_j - sum of p_j * e_j): the logarithms' own part is the gradient of the
    sum of p_j, so 0. The forward pass has all that it takes, so it leaves one array behind instead of five.
    """

    @staticmethod
    def forward(ctx, logits: torch.Tensor) -> torch.Tensor:
        num_states = logits.shape[1]
        num_pairs = num_states * (num_states - 1)
        log_p = logits.log_softmax(-1)
        p = log_p.exp()
        excess = log_p.sub_(log_p.mean(1, keepdim=True)).mul_(num_states)  # (n, S, classes)
        of_states = torch.einsum("nsc,nsc->ns", p, excess)
        ctx.save_for_backward(p.mul_(excess.sub_(of_states.unsqueeze(-1))).div_(num_pairs))
        return of_states.sum(1) / num_pairs

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:
        (of_logits,) = ctx.saved_tensors
        return gradient[:, None, None] * of_logits


def divergences(logits: torch.Tensor) -> torch.Tensor:
    """
    ERL's term, to be made small: minus the mean divergence between the states' distributions.

    Args:
        logits: (n, S, classes), S > 1.

    Returns:
        (n,)
    """
    return -_Divergence.apply(logits)


def contrasts(clean: torch.Tensor, noised: torch.Tensor, temperature: float) -> torch.Tensor:
    """
    RCL: each noised state (anchor) has to find its own clean state among those of all targets at the same step, by dot
    product.

    Args:
        clean, noised: (n, S, d), r_0..r_K; r_0 has no noise and does not take part.

    Returns:
        (n,) mean over the steps
    """
    clean, noised = (states[:, 1:].transpose(0, 1) for states in (clean, noised))  # (K, n, d)
    logits = noised @ clean.transpose(-1, -2) / temperature  # (K, n, n)
    own = torch.arange(logits.shape[-1], device=logits.device)
    losses = nn.functional.cross_entropy(logits.flatten(0, 1), own.repeat(len(logits)), reduction="none")
    return losses.view(len(logits), -1).mean(0)


@dataclass
class ReaRecLoss:
    """
    Attributes:
        loss: scalar.
        terms: unweighted terms by name; `loss` is the sum of `ce`, `kl_weight * kl`, `progressive_weight * progressive`
            and `contrastive_weight * contrastive`, of those that are there. `ce` is the loss of the prediction, also
            where that is a binary cross-entropy.
        logits: (n, classes) of the prediction, for the full softmax PAD included.
    """

    loss: torch.Tensor
    terms: dict[str, torch.Tensor]
    logits: torch.Tensor


def rearec_loss(
    states: torch.Tensor,
    noised: torch.Tensor | None,
    table: torch.Tensor,
    labels: torch.Tensor,
    config: ReaRecConfig,
    negatives: Negatives | None,
    num_targets: int | torch.Tensor,
) -> ReaRecLoss:
    """
    The loss of one batch of targets.

    Args:
        states: (n, K + 1, d), r_0..r_K.
        noised (*optional*): the same with noise, for RCL.
        table: (N + 1, d), the item table, PAD last.
        labels: (n,), rows of the targets.
        num_targets: what sums over targets are divided by.
    """
    taus = temperatures(config, states.shape[1] - 1)
    used, taus = (states, taus) if config.reasoning in ("erl", "prl") else (states[:, -1:], taus[-1:])
    scaled = used / torch.tensor(taus, dtype=used.dtype, device=used.device).unsqueeze(-1)
    logits, targets = class_logits(scaled, table, labels, negatives)

    terms, weights = {}, {"ce": 1.0}
    # Scores are linear in the state: those of ERL's mean state are the mean of the states' scores.
    predicted = logits.mean(1) if config.reasoning == "erl" else logits[:, -1]
    if config.reasoning == "prl":
        losses = next_item_losses(logits, targets, config.loss_type)
        terms["ce"] = losses[:, -1]
        if losses.shape[1] > 1:
            terms["progressive"], weights["progressive"] = losses[:, :-1].mean(1), config.progressive_weight
    else:
        terms["ce"] = next_item_losses(predicted.unsqueeze(1), targets, config.loss_type)[:, 0]
    if config.reasoning == "erl" and logits.shape[1] > 1:
        terms["kl"], weights["kl"] = divergences(logits), config.kl_weight
    if noised is not None:
        terms["contrastive"] = contrasts(states, noised, config.temperature)
        weights["contrastive"] = config.contrastive_weight
    means = {name: values.sum() / num_targets for name, values in terms.items()}
    loss = torch.stack([weights[name] * value for name, value in means.items()]).sum()
    return ReaRecLoss(loss, means, predicted)
