"""ReaRec's analyses (arXiv 2503.22675, Figures 2, 4, 5, 8 to 10, Table 4): what each reasoning step does, and to whom.

Two rankings of a step are told apart throughout. *Depth k* is the model's prediction if it stops after step k, what
`num_steps=k` recommends: r_k, for ERL the mean of r_0..r_k. *State k* ranks by r_k alone. They differ for ERL only.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hf_genrec.catalogue.evaluation_mode import evaluation_mode
from hf_genrec.decoding.recommend_by_scores import MAX_SCORES
from hf_genrec.evaluation.cost import median_costs
from hf_genrec.evaluation.metrics import paired_bootstrap_difference
from hf_genrec.methods.rearec.modeling_rearec import ReaRecForNextItem
from hf_genrec.methods.rearec.rearec_losses import prediction_state

if TYPE_CHECKING:
    from hf_genrec.data.prepared import EvaluationSplit

KS = (5, 10, 20)
GROUPS = 4
SHOWN_USERS = 400  # whose states are shown in the plane


@contextmanager
def evaluating(model: ReaRecForNextItem, num_steps: int | None) -> Iterator[None]:
    """Without gradients and dropout, at a depth for all users; `None` leaves it to the model (K, or its rule)."""
    before = model.num_steps
    model.num_steps = num_steps
    try:
        with evaluation_mode(model), torch.no_grad():
            yield
    finally:
        model.num_steps = before


def depth_states(states: torch.Tensor, reasoning: str) -> torch.Tensor:
    """The state that is ranked at each depth, (n, K + 1, d) from r_0..r_K of the same shape."""
    return torch.stack([prediction_state(states[:, : k + 1], reasoning) for k in range(states.shape[1])], 1)


def step_batches(
    model: ReaRecForNextItem, histories: Sequence[np.ndarray], batch_size: int = 256
) -> Iterator[tuple[np.ndarray, torch.Tensor, torch.Tensor]]:
    """
    The states of all users, in batches so small that (n, K + 1, N) scores are at most `MAX_SCORES`, or of one user.

    Yields:
        the users' places in `histories` (n,), r_0..r_K (n, K + 1, d), and the item vectors (N, d).
    """
    processor, config = model._require_processor(), model.config
    num_items = len(processor.item_ids)
    size = max(1, min(batch_size, MAX_SCORES // (num_items * (config.steps + 1))))
    by_length = np.argsort([len(history) for history in histories], kind="stable")
    with evaluating(model, config.steps):
        vectors = model.item_vectors()
        for start in range(0, len(histories), size):
            users = by_length[start : start + size]
            inputs = processor.prompts([histories[int(user)] for user in users])
            inputs = {name: tensor.to(model.device) for name, tensor in inputs.items()}
            outputs = model.model(**inputs, num_steps=config.steps, item_table=vectors)
            yield users, outputs.reasoning_states, vectors[:num_items]


def target_ranks(scores: torch.Tensor, rows: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
    """
    Exact ranks of items among all N, from 1, equal scores in catalogue order, as `recommend` does.

    Args:
        scores: (n, N).
        rows, items: (t,), which row of the scores an item's rank is asked for.

    Returns:
        (t,) int64
    """
    columns = torch.arange(scores.shape[1], device=scores.device)
    size = max(1, MAX_SCORES // scores.shape[1])
    ranks = []
    for row, item in zip(rows.split(size), items.split(size), strict=True):
        line = scores[row]
        own = line.gather(1, item.unsqueeze(1))
        before = (line > own) | ((line == own) & (columns < item.unsqueeze(1)))
        ranks.append(1 + before.sum(1))
    return torch.cat(ranks)


@dataclass
class StepRanks:
    """
    Where the targets of a split stand after each step.

    Attributes:
        users, items: (T,) a user's different targets, users ascending; T is the number of users with one target each.
        by_depth, by_state: (T, K + 1) int64 ranks from 1.
        cosine: (K + 1, K + 1), mean over users of the cosine between r_i and r_j.
        divergence: (K + 1, K + 1), mean over users of KL(y_i || y_j) in nats; y_i is the softmax of state i's scores.
        states: (S, K + 1, d) r_0..r_K, scaled to length 1, of users evenly spread over the split.
    """

    users: np.ndarray
    items: np.ndarray
    by_depth: np.ndarray
    by_state: np.ndarray
    cosine: np.ndarray
    divergence: np.ndarray
    states: np.ndarray


def rank_steps(model: ReaRecForNextItem, split: "EvaluationSplit", batch_size: int = 256) -> StepRanks:
    """The targets' ranks among all items after each step; items of the history are not removed."""
    distinct = [np.unique(targets) for targets in split.targets]
    counts = np.array([len(targets) for targets in distinct])
    users, items = np.repeat(np.arange(len(distinct)), counts), np.concatenate(distinct)
    first = counts.cumsum() - counts
    num_states = model.config.steps + 1
    by_depth, by_state = (np.zeros((len(users), num_states), dtype=np.int64) for _ in range(2))
    cosine, divergence = (torch.zeros(num_states, num_states, dtype=torch.float64) for _ in range(2))
    num_users, shown = len(split.histories), dict[int, np.ndarray]()
    spread = set(np.linspace(0, num_users - 1, min(num_users, SHOWN_USERS)).astype(int).tolist())
    for batch, states, vectors in step_batches(model, split.histories, batch_size):
        places = np.concatenate([np.arange(first[user], first[user] + counts[user]) for user in batch])
        rows = torch.from_numpy(np.repeat(np.arange(len(batch)), counts[batch])).to(states.device)
        wanted = torch.from_numpy(items[places]).to(states.device)
        # Divided before the product, as `user_vectors` does: the same ranks to the last bit.
        scores = states / model.config.temperature @ vectors.T  # (n, K + 1, N)
        predicted = scores
        if model.config.reasoning == "erl":
            predicted = depth_states(states, "erl") / model.config.temperature @ vectors.T
        for step in range(num_states):
            by_state[places, step] = target_ranks(scores[:, step].float(), rows, wanted).cpu().numpy()
            by_depth[places, step] = target_ranks(predicted[:, step].float(), rows, wanted).cpu().numpy()
        unit = torch.nn.functional.normalize(states.double(), dim=-1)
        cosine += (unit @ unit.transpose(1, 2)).sum(0).cpu()
        shown |= {int(user): of_user for user, of_user in zip(batch, unit.cpu().numpy(), strict=True) if user in spread}
        log_p = scores.float().log_softmax(-1)
        cross = log_p.exp() @ log_p.transpose(1, 2)  # (n, i, j): sum of p_i log p_j
        divergence += (cross.diagonal(dim1=1, dim2=2).unsqueeze(2) - cross).double().sum(0).cpu()
    states_of_users = np.stack([shown[user] for user in sorted(shown)])
    cosine, divergence = cosine / num_users, divergence / num_users
    return StepRanks(users, items, by_depth, by_state, cosine.numpy(), divergence.numpy(), states_of_users)


def states_in_plane(states: np.ndarray) -> dict[str, Any]:
    """
    States (S, K + 1, d) in the plane of their two principal components.

    Returns:
        `points` by step, (K + 1, S, 2); `variance`, the shares of the states' variance along both axes;
        `between_steps`, the share of the variance (in all d dimensions) that the means of the steps have: 0 where the
        steps lie on top of each other, 1 where a step has all its users in one place.
    """
    flat = states.reshape(-1, states.shape[-1])
    centred = flat - flat.mean(0)
    total = float(np.square(centred).sum())
    _, _, components = np.linalg.svd(centred, full_matrices=False)
    directions = np.zeros((2, flat.shape[1]))
    directions[: len(components)] = components[:2]
    largest = np.take_along_axis(directions, np.abs(directions).argmax(1, keepdims=True), 1)
    directions *= np.sign(largest)  # or a component might point either way
    places = centred @ directions.T
    means = states.mean(0) - flat.mean(0)
    return {
        "points": places.reshape(*states.shape[:2], 2).swapaxes(0, 1).round(4).tolist(),
        "variance": (np.square(places).sum(0) / total).tolist() if total else [0.0, 0.0],
        "between_steps": len(states) * float(np.square(means).sum()) / total if total else 0.0,
    }


def metrics_of_ranks(ranks: np.ndarray, users: np.ndarray, ks: Sequence[int] = KS) -> dict[str, np.ndarray]:
    """
    Recall and NDCG of each user, defined as in `evaluation/metrics.py`, from the exact ranks of the targets.

    Args:
        ranks, users: (T,), a user's targets differ.

    Returns:
        "recall@k" and "ndcg@k" by k: (users,) float64

    Example: two targets at ranks 1 and 4 have recall@3 = 1/2 and ndcg@3 = 1 / (1 + 1/log2(3)) = 0.6131.
    """
    counts = np.bincount(users)
    result = {}
    for k in ks:
        hits = ranks <= k
        ideal = np.cumsum(1.0 / np.log2(np.arange(2, k + 2)))[np.minimum(counts, k) - 1]
        result[f"recall@{k}"] = np.bincount(users, weights=hits) / counts
        result[f"ndcg@{k}"] = np.bincount(users, weights=np.where(hits, 1.0 / np.log2(ranks + 1), 0.0)) / ideal
    return result


def quarters(values: np.ndarray) -> np.ndarray:
    """Four groups of equal size, 0 with the smallest values (n,); equal values are divided in the order they have."""
    groups = np.empty(len(values), dtype=np.int64)
    groups[np.argsort(values, kind="stable")] = np.arange(len(values)) * GROUPS // max(1, len(values))
    return groups


def chosen_depths(model: ReaRecForNextItem, histories: Sequence[np.ndarray], batch_size: int = 256) -> np.ndarray:
    """How many steps the model takes for each user (users,) int64: as its rule decides, or K."""
    depths = np.full(len(histories), model.config.steps, dtype=np.int64)
    if model.depth is None:
        return depths
    by_length = np.argsort([len(history) for history in histories], kind="stable")
    with evaluating(model, None):
        vectors = model.item_vectors()
        for start in range(0, len(histories), batch_size):
            users = by_length[start : start + batch_size]
            inputs = model._require_processor().prompts([histories[int(user)] for user in users])
            inputs = {name: tensor.to(model.device) for name, tensor in inputs.items()}
            depths[users] = model.adaptive_vectors(**inputs, item_vectors=vectors)[1].cpu().numpy()
    return depths


def oracle_record(values: np.ndarray) -> dict[str, Any]:
    """
    Of the best step of each user in hindsight, (users, K + 1) values: its mean, the best step for all, and the
    distance. `share_best` says for how many users each step is the first of their best ones.

    Example: two users with [0, 1] and [1, 0] have the oracle 1 and the best fixed step 0 at 0.5.
    """
    means = values.mean(0)
    fixed, oracle = int(means.argmax()), float(values.max(1).mean())
    return {
        "ndcg@10": oracle,
        "best_fixed": fixed,
        "best_fixed_ndcg@10": float(means[fixed]),
        "gain": oracle - float(means[fixed]),
        "relative_gain": (oracle / float(means[fixed]) - 1) if means[fixed] > 0 else None,
        "share_best": (np.bincount(values.argmax(1), minlength=values.shape[1]) / len(values)).tolist(),
    }


def group_records(groups: np.ndarray, sizes: np.ndarray, values: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """
    Per group: how many, the range of what they are grouped by, the means after every step, and the difference of the
    last step from step 0 in NDCG@10 with its 95 % bootstrap interval.

    Args:
        groups: (n,) of `quarters(sizes)`.
        values: by metric, (n, K + 1).
    """
    records = []
    for group in np.unique(groups):
        mine = groups == group
        ndcg = values["ndcg@10"][mine]
        difference, low, high = paired_bootstrap_difference(ndcg[:, -1], ndcg[:, 0])
        records.append(
            {
                "group": int(group),
                "count": int(mine.sum()),
                "smallest": int(sizes[mine].min()),
                "largest": int(sizes[mine].max()),
                **{name: table[mine].mean(0).tolist() for name, table in values.items()},
                "last_less_first": {"value": difference, "low": low, "high": high},
            }
        )
    return records


def rank_records(ranks: np.ndarray) -> dict[str, list[dict[str, Any]]]:
    """Of ranks (T, K + 1): median and quartiles per step, and the share that moves from each step to the next."""
    quartiles = np.quantile(ranks, [0.25, 0.5, 0.75], axis=0)
    change = np.diff(ranks, axis=1)
    return {
        "ranks": [
            {"step": step, "quartile_1": float(low), "median": float(middle), "quartile_3": float(high)}
            for step, (low, middle, high) in enumerate(quartiles.T)
        ],
        "changes": [
            {
                "from": step,
                "to": step + 1,
                "improved": float((change[:, step] < 0).mean()),
                "same": float((change[:, step] == 0).mean()),
                "worsened": float((change[:, step] > 0).mean()),
            }
            for step in range(change.shape[1])
        ],
    }


def cost_records(
    model: ReaRecForNextItem, histories: Sequence[np.ndarray], rounds: int = 5, batch_size: int = 256
) -> list[dict[str, Any]]:
    """Seconds a user that `recommend_rows` takes with 0..K steps for all: medians of alternating rounds."""

    def recommend_at(depth: int):
        with evaluating(model, depth):
            model.recommend_rows(histories, batch_size=batch_size)

    calls = {str(depth): (lambda depth=depth: recommend_at(depth)) for depth in range(model.config.steps + 1)}
    costs = median_costs(calls, rounds)
    return [
        {
            "num_steps": int(depth),
            "seconds_per_user": cost.seconds / len(histories),
            "cpu_seconds_per_user": cost.cpu_seconds / len(histories),
            "times_no_step": cost.cpu_seconds / costs["0"].cpu_seconds,
        }
        for depth, cost in costs.items()
    ]


def analyze_reasoning(
    model: ReaRecForNextItem,
    split: "EvaluationSplit",
    popularity: np.ndarray,
    batch_size: int = 256,
    timed_users: int = 2048,
    rounds: int = 5,
) -> dict[str, Any]:
    """
    All analyses of a trained model on a split, as plain JSON values.

    Args:
        popularity: (N,) training interactions of each item.
        timed_users: how many of the split's users, evenly spread, the timings take.

    Raises:
        ValueError: for a model without reasoning steps.
    """
    config = model.config
    if not config.steps:
        raise ValueError("the model takes no reasoning steps (reasoning: none), so there is nothing to analyse")
    found = rank_steps(model, split, batch_size)
    by_depth, by_state = (
        [metrics_of_ranks(ranks[:, step], found.users) for step in range(config.steps + 1)]
        for ranks in (found.by_depth, found.by_state)
    )
    depths = chosen_depths(model, split.histories, batch_size)
    own = metrics_of_ranks(np.take_along_axis(found.by_depth, depths[found.users, None], 1)[:, 0], found.users)

    lengths = np.array([len(history) for history in split.histories])
    of_users = {name: np.stack([step[name] for step in by_depth], 1) for name in by_depth[0]}
    each = np.arange(len(found.users))  # a target as if it were its user's only one
    of_items = [metrics_of_ranks(found.by_depth[:, step], each) for step in range(config.steps + 1)]
    timed = split.histories[:: max(1, len(split.histories) // timed_users)][:timed_users]
    return {
        "split": split.name,
        "num_users": len(split.histories),
        "num_targets": len(found.users),
        "num_items": len(popularity),
        "backbone": config.backbone,
        "reasoning": config.reasoning,
        "num_reasoning_steps": config.steps,
        "depth_rule": config.depth_rule,
        "prediction": {"metrics": _means(own), "mean_steps": float(depths.mean())},
        "depths": [{"depth": step, "metrics": _means(metrics)} for step, metrics in enumerate(by_depth)],
        "states": [{"state": step, "metrics": _means(metrics)} for step, metrics in enumerate(by_state)],
        "oracle": {
            "depths": oracle_record(of_users["ndcg@10"]),
            "states": oracle_record(np.stack([step["ndcg@10"] for step in by_state], 1)),
        },
        "history_length": group_records(quarters(lengths), lengths, of_users),
        "target_popularity": group_records(
            quarters(popularity[found.items]),
            popularity[found.items],
            {name: np.stack([step[name] for step in of_items], 1) for name in of_items[0]},
        ),
        "cosine": found.cosine.tolist(),
        "kl": found.divergence.tolist(),
        "plane": states_in_plane(found.states),
        **rank_records(found.by_depth),
        "cost": cost_records(model, timed, rounds, batch_size),
        "timed_users": len(timed),
    }


def _means(metrics: dict[str, np.ndarray]) -> dict[str, float]:
    return {name: float(values.mean()) for name, values in metrics.items()}
