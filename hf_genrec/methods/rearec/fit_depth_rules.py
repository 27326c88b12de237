"""Fits the rules of adaptive depth (`rearec_depth_rules.py`) on validation users, the model left as it is.

What a fit makes large is the mean *worth* of the depth that the rule gives each of these users: NDCG over the whole
list, without a cut-off (1 / log2(1 + rank) of a single target). Nine users in ten have an NDCG@10 of 0 at every depth,
and fitted to the rest alone a rule is right about them and not about others.

- `"kl"`: the best of the thresholds between the observed divergences, 0 and infinity among them.
- `"confidence"` and `"halting"` are fitted from the last decision to the first: after step k, going on gains the worth
  of the depth at which the rule fitted so far stops later on, less that of depth k. `"confidence"` takes for each
  quarter of the users (by length of history) the limit of doubt above which these gains add up to most; `"halting"` a
  logistic regression of the gain's sign, every user weighted by its size. Users whose targets stay where they are say
  nothing and weigh nothing; without any others, nobody goes on.

Equal means go to fewer steps. How well a rule does on users it has not seen is estimated by cross-validation over the
validation users; the strength of halting's penalty is the one with the best NDCG@10 there.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from hf_genrec.methods.rearec.configuration_rearec import DEPTH_RULES
from hf_genrec.methods.rearec.modeling_rearec import ReaRecForNextItem
from hf_genrec.methods.rearec.rearec_depth_rules import HISTORY_GROUPS, divergence, halting_features, survey
from hf_genrec.methods.rearec.reasoning_analysis import depth_states, metrics_of_ranks, step_batches, target_ranks

if TYPE_CHECKING:
    from hf_genrec.data.prepared import EvaluationSplit

FOLDS = 5
THRESHOLDS = 200  # that are tried for "kl", at equal shares of the observed divergences
PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2)  # scikit-learn's C, the smaller the stronger, as a multiple of 1 / mean weight


@dataclass
class DepthFacts:
    """
    What fits and checks of a rule need to know of the users of a split.

    Attributes:
        ndcg, recall: (users, K + 1) float64, NDCG@10 and Recall@10 at each depth.
        worth: (users, K + 1) float64, NDCG without a cut-off.
        lengths: (users,) int64, items of the history that are read.
        states: (users, K + 1, d) float32.
        divergence, doubt: (users, K) float32, KL(y_k || y_{k-1}) (infinity at k = 0) and minus the log of y_k's largest
            probability, for the steps after which there is something to decide.
    """

    ndcg: np.ndarray
    recall: np.ndarray
    worth: np.ndarray
    lengths: np.ndarray
    states: torch.Tensor
    divergence: np.ndarray
    doubt: np.ndarray

    @property
    def num_steps(self) -> int:
        return self.ndcg.shape[1] - 1

    def take(self, users: np.ndarray) -> "DepthFacts":
        """Of some users."""
        rows = torch.from_numpy(users)
        return DepthFacts(
            self.ndcg[users],
            self.recall[users],
            self.worth[users],
            self.lengths[users],
            self.states[rows],
            self.divergence[users],
            self.doubt[users],
        )


def collect_facts(model: ReaRecForNextItem, split: "EvaluationSplit", batch_size: int = 256) -> DepthFacts:
    """One pass over a split at full depth. Holds users x (K + 1) x d floats; scores are held of one batch at a time."""
    config = model.config
    num_users, steps = len(split.histories), config.steps
    facts = DepthFacts(
        ndcg=np.zeros((num_users, steps + 1)),
        recall=np.zeros((num_users, steps + 1)),
        worth=np.zeros((num_users, steps + 1)),
        lengths=np.array([min(len(history), config.max_history) for history in split.histories]),
        states=torch.zeros(num_users, steps + 1, config.hidden_size),
        divergence=np.full((num_users, steps), np.inf, dtype=np.float32),
        doubt=np.zeros((num_users, steps), dtype=np.float32),
    )
    for users, states, vectors in step_batches(model, split.histories, batch_size):
        facts.states[torch.from_numpy(users)] = states.float().cpu()
        predictions = depth_states(states, config.reasoning) / config.temperature  # (n, K + 1, d)
        targets = [np.unique(split.targets[int(user)]) for user in users]
        counts = [len(items) for items in targets]
        rows = torch.from_numpy(np.repeat(np.arange(len(users)), counts)).to(states.device)
        items = torch.from_numpy(np.concatenate(targets)).to(states.device)
        memory = None
        for step in range(steps + 1):
            ranks = target_ranks((predictions[:, step] @ vectors.T).float(), rows, items).cpu().numpy()
            metrics = metrics_of_ranks(ranks, rows.cpu().numpy(), [10, len(vectors)])
            facts.ndcg[users, step], facts.recall[users, step] = metrics["ndcg@10"], metrics["recall@10"]
            facts.worth[users, step] = metrics[f"ndcg@{len(vectors)}"]
            if step < steps:
                log_normaliser, doubt, mean = survey(predictions[:, step], vectors)
                facts.doubt[users, step] = doubt.cpu().numpy()
                if memory is not None:
                    changed = divergence(predictions[:, step], log_normaliser, mean, memory)
                    facts.divergence[users, step] = changed.cpu().numpy()
                memory = torch.cat([predictions[:, step], log_normaliser.unsqueeze(-1)], -1)
    return facts


@dataclass
class FittedRule:
    """A rule and its numbers, as `ReaRecForNextItem.set_depth_rule` takes them."""

    rule: str
    threshold: float = 0.0
    weights: dict[str, torch.Tensor] = field(default_factory=dict)

    def depths(self, facts: DepthFacts) -> np.ndarray:
        """The depth of each user (users,) int64, computed from the facts instead of by the model."""
        if self.rule == "kl":
            numbers = facts.divergence
        elif self.rule == "confidence":
            group = np.searchsorted(self.weights["longest"].numpy(), facts.lengths)
            numbers = facts.doubt - self.weights["allowed"].numpy()[:, group].T
        else:
            numbers = np.stack([self._urge(facts, step) for step in range(facts.num_steps)], 1)
        stops = numbers < self.threshold
        return np.where(stops.any(1), stops.argmax(1), facts.num_steps)

    def _urge(self, facts: DepthFacts, step: int) -> np.ndarray:
        features = _features(facts, step)
        return (features @ self.weights["weight"][step] + self.weights["bias"][step]).numpy()


def _features(facts: DepthFacts, step: int) -> torch.Tensor:
    return halting_features(facts.states[:, : step + 1], torch.from_numpy(facts.lengths))


def at_depth(table: np.ndarray, depths: np.ndarray) -> np.ndarray:
    """What (users, K + 1) says of each user at its own depth, (users,)."""
    return np.take_along_axis(table, depths[:, None], 1)[:, 0]


def fit_kl(facts: DepthFacts) -> FittedRule:
    """One threshold for all steps."""
    seen = facts.divergence[np.isfinite(facts.divergence)]
    between = np.quantile(seen, np.linspace(0, 1, THRESHOLDS)) if len(seen) else np.empty(0)
    candidates = [math.inf, *np.unique((between[1:] + between[:-1]) / 2)[::-1].tolist(), 0.0]  # fewest steps first
    means = [at_depth(facts.worth, FittedRule("kl", threshold).depths(facts)).mean() for threshold in candidates]
    return FittedRule("kl", candidates[int(np.argmax(means))])


def fit_confidence(facts: DepthFacts) -> FittedRule:
    """A limit of doubt per step and quarter of the users."""
    inner = np.linspace(0, 1, HISTORY_GROUPS + 1)[1:-1]
    longest = np.quantile(facts.lengths, inner, method="lower").astype(np.int64)
    group = np.searchsorted(longest, facts.lengths)
    allowed = np.zeros((facts.num_steps, HISTORY_GROUPS), dtype=np.float32)
    ahead = facts.worth[:, -1].copy()  # what a user who goes on ends with
    for step in reversed(range(facts.num_steps)):
        gain = ahead - facts.worth[:, step]
        for number in range(HISTORY_GROUPS):
            mine = group == number
            allowed[step, number] = _best_limit(facts.doubt[mine, step], gain[mine])
        ahead = np.where(facts.doubt[:, step] < allowed[step, group], facts.worth[:, step], ahead)
    return FittedRule("confidence", 0.0, {"longest": torch.from_numpy(longest), "allowed": torch.from_numpy(allowed)})


def _best_limit(doubts: np.ndarray, gains: np.ndarray) -> float:
    """
    The limit for which the gains of those at or above it add up to most; of equal sums the highest limit.

    Example: doubts [1, 2, 3] with gains [-1, 0.5, 0.2] have their best limit between 1 and 2, at 1.5.
    """
    order = np.argsort(-doubts, kind="stable")
    doubts, sums = doubts[order], np.concatenate([[0.0], np.cumsum(gains[order])])
    possible = np.concatenate([[True], doubts[1:] < doubts[:-1], [True]]) if len(doubts) else np.array([True])
    count = int(np.argmax(np.where(possible, sums, -np.inf)))  # who goes on, most doubtful first
    if count == 0:
        return math.inf
    return -math.inf if count == len(doubts) else float((doubts[count - 1] + doubts[count]) / 2)


def fit_halting(facts: DepthFacts, penalty: float) -> FittedRule:
    """A linear function per step; `penalty` is one of `PENALTIES`."""
    from sklearn.linear_model import LogisticRegression

    weights, biases = [], []
    ahead = facts.worth[:, -1].copy()
    for step in reversed(range(facts.num_steps)):
        features = _features(facts, step)
        gain = ahead - facts.worth[:, step]
        telling = gain != 0
        weight, bias = torch.zeros(features.shape[1]), -1.0
        if telling.any() and (gain[telling] > 0).all():
            bias = 1.0
        elif (gain > 0).any():
            table = features[torch.from_numpy(telling)].double().numpy()
            centre, spread = table.mean(0), table.std(0)
            spread[spread == 0] = 1.0
            sizes = np.abs(gain[telling])
            model = LogisticRegression(C=penalty / sizes.mean(), max_iter=1000)
            model.fit((table - centre) / spread, gain[telling] > 0, sample_weight=sizes)
            scaled = model.coef_[0] / spread
            weight, bias = torch.from_numpy(scaled).float(), float(model.intercept_[0] - scaled @ centre)
        weights.append(weight)
        biases.append(bias)
        ahead = np.where((features @ weight + bias).numpy() < 0, facts.worth[:, step], ahead)
    return FittedRule("halting", 0.0, {"weight": torch.stack(weights[::-1]), "bias": torch.tensor(biases[::-1])})


def fit_rule(rule: str, facts: DepthFacts, penalty: float | None = None) -> FittedRule:
    """One of `DEPTH_RULES`; `penalty` is for `"halting"`."""
    if rule == "kl":
        return fit_kl(facts)
    return fit_confidence(facts) if rule == "confidence" else fit_halting(facts, penalty or PENALTIES[0])


@dataclass
class Calibration:
    """
    A rule fitted on all users of a split, and what to expect of it.

    Attributes:
        fitted: the rule.
        penalty: of `"halting"`, otherwise `None`.
        depths: (users,) int64, each user's depth by a rule fitted on the other folds.
    """

    fitted: FittedRule
    penalty: float | None
    depths: np.ndarray


def cross_validate(rule: str, facts: DepthFacts, penalty: float | None, seed: int = 0) -> np.ndarray:
    """Each user's depth (users,) by a rule fitted without its fold. The folds are drawn from `seed` alone."""
    num_users = len(facts.lengths)
    if num_users < FOLDS:
        raise ValueError(f"{num_users} validation users: calibration divides them into {FOLDS} parts")
    fold = np.random.default_rng(seed).permutation(num_users) % FOLDS
    depths = np.zeros(num_users, dtype=np.int64)
    for number in range(FOLDS):
        inside, outside = np.flatnonzero(fold == number), np.flatnonzero(fold != number)
        depths[inside] = fit_rule(rule, facts.take(outside), penalty).depths(facts.take(inside))
    return depths


def calibrate(rule: str, facts: DepthFacts, seed: int = 0) -> Calibration:
    """Choose what there is to choose by cross-validation, and fit on all users."""
    penalties: Sequence[float | None] = PENALTIES if rule == "halting" else (None,)
    candidates = [(penalty, cross_validate(rule, facts, penalty, seed)) for penalty in penalties]
    means = [at_depth(facts.ndcg, depths).mean() for _, depths in candidates]
    penalty, depths = candidates[int(np.argmax(means))]
    return Calibration(fit_rule(rule, facts, penalty), penalty, depths)


def calibrate_all(facts: DepthFacts, seed: int = 0) -> dict[str, Calibration]:
    """Every rule of `DEPTH_RULES`."""
    return {rule: calibrate(rule, facts, seed) for rule in DEPTH_RULES}
