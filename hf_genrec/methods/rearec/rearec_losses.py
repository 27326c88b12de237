"""ReaRec's losses: the next item from the states, ERL's divergence, PRL's progressive and contrastive terms."""

from dataclasses import dataclass

import torch
from torch import nn

from ...decoding.shared_batch import counts_of_all, own_part_of_draw, own_start, rows_of_all
from .configuration_rearec import ReaRecConfig

IMPOSSIBLE = -1e10  # logit of a class that does not count; finite, so that its share in a divergence is 0 and not NaN
# Logits of all classes that are held at once: on a processor 8 MB, which its cache holds.
LOGITS_AT_ONCE, LOGITS_AT_ONCE_ON_GPU = 2**21, 2**26
LEAST_STATES = 64  # products of a large table with fewer of them at once take twice as long


def prediction_state(states: torch.Tensor, reasoning: str) -> torch.Tensor:
    """The state that is ranked: the mean of r_0..r_K for ERL, else r_K. (..., K + 1, d) -> (..., d)"""
    return states.mean(-2) if reasoning == "erl" else states[..., -1, :]


def temperatures(config: ReaRecConfig, states: torch.Tensor) -> torch.Tensor:
    """Temperature (K + 1,) of the loss of each of the states (n, K + 1, d), r_0..r_K. Intermediate ones are rounded to
    float32, as published."""
    num_steps = states.shape[1] - 1
    last = states.new_full((num_steps + 1,), config.temperature)
    if config.reasoning != "prl":
        return last
    scaled = [config.temperature * config.temperature_scale ** (num_steps - step) for step in range(num_steps)]
    return torch.cat([torch.tensor(scaled, dtype=torch.float32, device=states.device).to(states), last[-1:]])


@dataclass
class Negatives:
    """What a sampled loss compares the targets with."""

    rows: torch.Tensor  # (C,) of the item table, shared by the batch, or (n, C), a target's own
    log_counts: torch.Tensor  # (C,) or scalar, log of how often a row is drawn on average


def draw_negatives(
    config: ReaRecConfig, labels: torch.Tensor, popularity: torch.Tensor | None = None, shared: bool = False
) -> Negatives | None:
    """
    Negatives of the loss that the configuration asks for, from torch's generator; `None` for the full softmax.

    Args:
        labels: (n,) rows of the targets.
        popularity (*optional*): (N,) how often each item is trained on. An item that never is, and PAD, count as 1, so
            that every class can be drawn.
        shared: whether other processes draw theirs now, for the rest of the batch.
    """
    device, count = labels.device, config.num_negatives
    if config.loss_type == "softmax":
        return None
    if config.loss_type == "bce":
        # One of the N - 1 other items: those from the target on move up by one.
        def draw(targets: int) -> torch.Tensor:
            return torch.randint(config.num_items - 1, (targets, count), device=device)

        rows = own_part_of_draw(draw, len(labels), device) if shared else draw(len(labels))
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
    states: torch.Tensor, table: torch.Tensor, labels: torch.Tensor, negatives: Negatives
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Logits of the classes that a sampled loss compares: the target is class 0, and a negative that is the target itself
    does not count.

    Args:
        states: (n, S, d), divided by their temperatures.
        table: (N + 1, d), PAD last.
        labels: (n,)

    Returns:
        logits (n, S, 1 + C), at least float32, and the targets (n,) among the classes.
    """
    of_target = (states * table[labels].unsqueeze(1)).sum(-1, keepdim=True)
    drawn = table[negatives.rows]  # (C, d) or (n, C, d)
    of_drawn = states @ drawn.transpose(-1, -2) - negatives.log_counts.to(states.dtype)
    is_target = (negatives.rows == labels.unsqueeze(-1)).unsqueeze(1)  # (n, 1, C)
    logits = torch.cat([of_target, of_drawn.masked_fill(is_target, IMPOSSIBLE)], -1)
    return logits.to(torch.promote_types(logits.dtype, torch.float32)), torch.zeros_like(labels)


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


def _softmax_(logits: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """Write the softmax of logits (..., classes) to `out`; the logarithm of the sum of their exponentials, (..., 1)."""
    largest = logits.amax(-1, keepdim=True)
    torch.softmax(logits, -1, out=out)
    # No probability is further from 0, and its logarithm more exact, than that of the largest logit.
    return largest - out.amax(-1, keepdim=True).log()


def _cross_entropies_(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each state (n, S). The logits (n, S, classes) are replaced by the gradient of its sum."""
    index = targets[:, None, None].expand(-1, logits.shape[1], 1)
    of_targets = logits.gather(-1, index)
    losses = _softmax_(logits, out=logits) - of_targets
    logits.scatter_add_(-1, index, torch.full_like(of_targets, -1.0))
    return losses.squeeze(-1)


def _divergences_(logits: torch.Tensor, mean: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Minus the mean over ordered pairs of states i != j of KL(y_j || y_i), y_i taken as a constant.

    No array over pairs is needed. With m the mean of the S states' logits x_j, and c_j the logarithm of the sum of
    exponentials of x_j less its mean over the states, the mean over all i of log p_j - log p_i is x_j - m - c_j, and
    that of KL(y_j || y_i) is <p_j, x_j - m> - c_j. Its gradient by x_j is p_j * e_j, where e_j = x_j - m - <p_j, x_j -
    m>: the logarithms' own part is the gradient of the sum of p_j, so 0. A state with itself adds nothing and is no
    pair, so a sum over the states of such means is divided by S - 1.

    Args:
        logits: (n, S, classes), replaced by e.
        mean: (n, 1, classes), m.

    Returns:
        the term (n,), and p; its gradient is - p * e / (S - 1).
    """
    p = torch.empty_like(logits)
    log_sums = _softmax_(logits, out=p)
    excess = logits.sub_(mean)
    of_states = torch.einsum("nsc,nsc->ns", p, excess).unsqueeze(-1)
    excess.sub_(of_states)
    return (log_sums - log_sums.mean(1, keepdim=True) - of_states).sum((1, 2)) / (logits.shape[1] - 1), p


class _Divergences(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits: torch.Tensor) -> torch.Tensor:
        excess = logits.clone()
        values, p = _divergences_(excess, logits.mean(1, keepdim=True))
        ctx.save_for_backward(p.mul_(excess).div_(1 - logits.shape[1]))
        return values

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
    return _Divergences.apply(logits)


def _ensemble_(logits: torch.Tensor, targets: torch.Tensor, kl_weight: float) -> torch.Tensor:
    """
    ERL's cross-entropy of the mean state and divergences, (n, 2). The logits (n, S, classes) are replaced by the
    gradient of the sum of the former and `kl_weight` times the latter.
    """
    mean, num_states = logits.mean(1, keepdim=True), logits.shape[1]
    kl, p = _divergences_(logits, mean)
    # Scores are linear in the state: those of the mean state are the mean of the states' scores.
    losses = _cross_entropies_(mean, targets)
    torch.addcmul(mean.div_(num_states), p, logits, value=kl_weight / (1 - num_states), out=logits)
    return torch.cat([losses, kl.unsqueeze(-1)], -1)


class _OverAllClasses(torch.autograd.Function):
    """
    Losses over all rows of a table: their sum over targets and states, which can be differentiated, and their values.

    The logits of a few targets at a time are made, replaced by the gradient of the sum, and multiplied into the
    gradients by states and table, all in the cache. No array (n, S, classes) waits for the backward pass, which only
    scales these two.
    """

    @staticmethod
    def forward(ctx, states, table, targets, kl_weight: float | None, with_gradients: bool):
        dtype = torch.promote_types(states.dtype, torch.float32)
        ctx.dtypes = states.dtype, table.dtype
        states, table = states.to(dtype), table.to(dtype)
        (num_targets, num_states, _), classes = states.shape, len(table)
        # Where rows of logits begin at multiples of 64 bytes, the product writes them twice as fast.
        width = -(-classes // 16) * 16
        limit = LOGITS_AT_ONCE if states.device.type == "cpu" else LOGITS_AT_ONCE_ON_GPU
        at_once = max(1, min(max(limit // width, LEAST_STATES) // num_states, num_targets))
        scratch = states.new_empty(at_once, num_states, width)
        of_states, of_table = states.new_empty(states.shape), torch.zeros_like(table)
        values = states.new_empty(num_targets, num_states if kl_weight is None else 2)
        for start in range(0, num_targets, at_once):
            chunk = slice(start, start + at_once)
            rows, chosen = states[chunk].flatten(0, 1), targets[chunk]
            logits = scratch[: len(chosen)]
            of_classes = logits.flatten(0, 1)[:, :classes]
            torch.mm(rows, table.T, out=of_classes)
            logits[..., classes:] = IMPOSSIBLE
            values[chunk] = (
                _cross_entropies_(logits, chosen) if kl_weight is None else _ensemble_(logits, chosen, kl_weight)
            )
            if with_gradients:
                torch.mm(of_classes, table, out=of_states[chunk].flatten(0, 1))
                of_table.addmm_(of_classes.T, rows)
        ctx.save_for_backward(of_states, of_table)
        ctx.mark_non_differentiable(values)
        return values.sum() if kl_weight is None else (values[:, 0] + kl_weight * values[:, 1]).sum(), values

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: torch.Tensor, _):
        both = [(gradient * saved).to(dtype) for saved, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)]
        return *both, None, None, None


def over_all_classes(
    states: torch.Tensor, table: torch.Tensor, targets: torch.Tensor, kl_weight: float | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Cross-entropy over all rows of a table, in memory that does not grow with the targets but for the gradients.

    Args:
        states: (n, S, d), divided by their temperatures.
        table: (C, d)
        targets: (n,) rows of the table.
        kl_weight (*optional*): ERL: the loss is the cross-entropy of the mean state, and this times the divergence.

    Returns:
        the sum of the losses, and their values without gradients: cross-entropies (n, S), or for ERL cross-entropy and
        divergence (n, 2). Both are at least float32.
    """
    return _OverAllClasses.apply(states, table, targets, kl_weight, torch.is_grad_enabled())


def over_negatives(
    states: torch.Tensor,
    table: torch.Tensor,
    targets: torch.Tensor,
    negatives: Negatives,
    loss_type: str,
    kl_weight: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """[`over_all_classes`] with the loss of the targets among their negatives."""
    logits, classes = class_logits(states, table, targets, negatives)
    if kl_weight is None:
        losses = next_item_losses(logits, classes, loss_type)
        return losses.sum(), losses.detach()
    losses, kl = next_item_losses(logits.mean(1, keepdim=True), classes, loss_type), divergences(logits)
    return losses.sum() + kl_weight * kl.sum(), torch.cat([losses, kl.unsqueeze(-1)], -1).detach()


def contrasts(
    clean: torch.Tensor, noised: torch.Tensor, temperature: float, start: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    RCL: each noised state (anchor) has to find its own clean state among those of all targets at the same step, by dot
    product.

    Args:
        clean: (m, S, d), r_0..r_K; r_0 has no noise and does not take part.
        noised: (n, S, d), of the targets from `start` on.

    Returns:
        the sum over targets of the mean over the steps, and these means (n,) without gradients.
    """
    own = start + torch.arange(len(noised), device=clean.device)
    steps = [
        over_all_classes(noised[:, step, None] / temperature, clean[:, step], own) for step in range(1, clean.shape[1])
    ]
    sums, values = zip(*steps, strict=True)
    return torch.stack(sums).mean(), torch.cat(values, 1).mean(1)


@dataclass
class ReaRecLoss:
    """
    Attributes:
        loss: scalar.
        terms: unweighted terms by name, without gradients; `loss` is the sum of `ce`, `kl_weight * kl`,
            `progressive_weight * progressive` and `contrastive_weight * contrastive`, of those that are there. `ce` is
            the loss of the prediction, also where that is a binary cross-entropy.
    """

    loss: torch.Tensor
    terms: dict[str, torch.Tensor]


def rearec_loss(
    states: torch.Tensor,
    noised: torch.Tensor | None,
    table: torch.Tensor,
    labels: torch.Tensor,
    config: ReaRecConfig,
    negatives: Negatives | None,
    num_targets: int | torch.Tensor,
    shared: bool = False,
) -> ReaRecLoss:
    """
    The loss of one batch of targets.

    Args:
        states: (n, K + 1, d), r_0..r_K.
        noised (*optional*): the same with noise, for RCL.
        table: (N + 1, d), the item table, PAD last.
        labels: (n,), rows of the targets.
        negatives: of a sampled loss; `None` for the full softmax.
        num_targets: what sums over targets are divided by.
        shared: whether other processes do the same now with the rest of the batch.
    """
    scaled = states / temperatures(config, states).unsqueeze(-1)

    def losses(of_states: torch.Tensor, kl_weight: float | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        if negatives is None:
            return over_all_classes(of_states, table, labels, kl_weight)
        return over_negatives(of_states, table, labels, negatives, config.loss_type, kl_weight)

    if config.reasoning == "erl" and states.shape[1] > 1:
        loss, values = losses(scaled, config.kl_weight)
        terms = {"ce": values[:, 0], "kl": values[:, 1]}
    else:
        loss, values = losses(scaled[:, -1:])
        terms = {"ce": values[:, 0]}
    if config.reasoning == "prl" and states.shape[1] > 1:
        more, values = losses(scaled[:, :-1])
        loss = loss + config.progressive_weight / values.shape[1] * more
        terms["progressive"] = values.mean(1)
    if noised is not None:
        counts = counts_of_all(len(states), states.device) if shared else [len(states)]
        clean = rows_of_all(states, counts) if shared else states
        start = own_start(counts) if shared else 0
        more, terms["contrastive"] = contrasts(clean, noised, config.temperature, start)
        loss = loss + config.contrastive_weight * more
    return ReaRecLoss(loss / num_targets, {name: term.sum() / num_targets for name, term in terms.items()})
