"""The rules of adaptive depth are fitted to what they are meant to be, and decide offline as the model does."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_rearec import ITEMS, tiny_rearec, tiny_split

from hf_genrec.evaluation.metrics import ndcg_at_k, recall_at_k
from hf_genrec.methods.rearec.configuration_rearec import DEPTH_RULES
from hf_genrec.methods.rearec.fit_depth_rules import (
    PENALTIES,
    DepthFacts,
    FittedRule,
    _best_limit,
    at_depth,
    calibrate,
    collect_facts,
    cross_validate,
    fit_confidence,
    fit_halting,
    fit_kl,
    fit_rule,
)
from hf_genrec.methods.rearec.reasoning_analysis import chosen_depths


def made_facts(users=600, steps=2, seed=0, **fields) -> DepthFacts:
    """Users about whom nothing tells which depth is best."""
    rng = np.random.default_rng(seed)
    divergence = rng.exponential(size=(users, steps)).astype(np.float32)
    divergence[:, 0] = np.inf
    ndcg = fields.pop("ndcg", np.where(rng.random((users, steps + 1)) < 0.3, rng.random((users, steps + 1)), 0.0))
    values = {
        "ndcg": ndcg,
        "worth": ndcg,
        "recall": np.zeros((users, steps + 1)),
        "lengths": rng.integers(1, 20, users),
        "states": torch.from_numpy(rng.normal(size=(users, steps + 1, 4)).astype(np.float32)),
        "divergence": divergence,
        "doubt": rng.exponential(size=(users, steps)).astype(np.float32),
    }
    return DepthFacts(**(values | fields))


# ---- facts ----


@pytest.mark.parametrize("reasoning", ["prl", "erl"])
def test_facts_are_those_of_recommend_at_each_depth(reasoning):
    model, split = tiny_rearec(reasoning, 2), tiny_split(targets=3)
    facts = collect_facts(model, split, batch_size=7)
    assert facts.lengths.tolist() == [min(len(history), 9) for history in split.histories]
    inputs = model.processor.prompts(split.histories)
    log_y = []
    for depth in range(3):
        model.num_steps = depth
        rows, _ = model.recommend_rows(split.histories, k=10)
        np.testing.assert_allclose(facts.ndcg[:, depth], ndcg_at_k(rows, split.targets, 10))
        np.testing.assert_allclose(facts.recall[:, depth], recall_at_k(rows, split.targets, 10))
        rows, _ = model.recommend_rows(split.histories, k=ITEMS)
        np.testing.assert_allclose(facts.worth[:, depth], ndcg_at_k(rows, split.targets, ITEMS))
        with torch.no_grad():
            log_y.append(model(**inputs).logits.log_softmax(-1).numpy())
    model.num_steps = None
    with torch.no_grad():
        torch.testing.assert_close(facts.states, model(**inputs).reasoning_states, rtol=1e-4, atol=1e-5)
    for step in range(2):
        np.testing.assert_allclose(facts.doubt[:, step], -log_y[step].max(1), rtol=1e-4, atol=1e-5)
    kl = (np.exp(log_y[1]) * (log_y[1] - log_y[0])).sum(1)
    np.testing.assert_allclose(facts.divergence[:, 1], kl, rtol=1e-3, atol=1e-5)
    assert np.isinf(facts.divergence[:, 0]).all()


@pytest.mark.parametrize("reasoning", ["naive", "rpe", "erl", "prl"])
@pytest.mark.parametrize("rule", DEPTH_RULES)
def test_a_fitted_rule_decides_in_the_model_as_on_the_facts(rule, reasoning):
    model, split = tiny_rearec(reasoning, 3), tiny_split(users=120, targets=2)
    facts = collect_facts(model, split)
    fitted = fit_rule(rule, facts, PENALTIES[2])
    model.set_depth_rule(fitted.rule, fitted.threshold, **fitted.weights)
    depths = chosen_depths(model, split.histories, batch_size=17)
    assert depths.tolist() == fitted.depths(facts).tolist()
    rows, _ = model.recommend_rows(split.histories, k=10)
    np.testing.assert_allclose(at_depth(facts.ndcg, depths), ndcg_at_k(rows, split.targets, 10))
    # On the users it is fitted on it is as good as any fixed depth that it can be; halting's penalty holds it back.
    fixed = facts.worth.mean(0)[{"kl": [1, 3], "confidence": [0, 1, 2, 3], "halting": []}[rule]]
    assert (at_depth(facts.worth, depths).mean() >= fixed - 1e-12).all()


def test_depths_by_hand():
    facts = made_facts(
        users=4,
        divergence=np.array([[np.inf, 0.1], [np.inf, 0.5], [np.inf, 0.3], [np.inf, 0.0]], dtype=np.float32),
        doubt=np.array([[1.0, 0.2], [3.0, 0.2], [3.0, 2.0], [0.5, 9.0]], dtype=np.float32),
        lengths=np.array([1, 1, 8, 8]),
    )
    assert FittedRule("kl", 0.3).depths(facts).tolist() == [1, 2, 2, 1]
    assert FittedRule("kl", 0.0).depths(facts).tolist() == [2, 2, 2, 2]
    assert FittedRule("kl", math.inf).depths(facts).tolist() == [1, 1, 1, 1]
    weights = {"longest": torch.tensor([2, 4, 6]), "allowed": torch.tensor([[2.0, 0, 0, 0.6], [1.0, 0, 0, math.inf]])}
    assert FittedRule("confidence", 0.0, weights).depths(facts).tolist() == [0, 1, 1, 0]


# ---- fits ----


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(-3, 3)), max_size=12))
def test_the_best_limit_is_the_best(pairs):
    doubts, gains = (
        (np.array(column, dtype=np.float64) for column in zip(*pairs, strict=True)) if pairs else (np.empty(0),) * 2
    )
    limit = _best_limit(doubts, gains)
    sums = {t: gains[doubts >= t].sum() for t in [-math.inf, math.inf, *(doubts + 0.5), *(doubts - 0.5)]}
    assert gains[doubts >= limit].sum() == max(sums.values())
    fewest = min((doubts >= t).sum() for t, value in sums.items() if value == max(sums.values()))
    assert (doubts >= limit).sum() == fewest


def test_the_kl_threshold_is_the_best_of_all():
    facts = made_facts(users=60, steps=3)
    fitted = fit_kl(facts)
    best = max(
        at_depth(facts.worth, FittedRule("kl", threshold).depths(facts)).mean()
        for threshold in [0.0, math.inf, *np.unique(facts.divergence[:, 1:]) + 1e-6]
    )
    assert at_depth(facts.worth, fitted.depths(facts)).mean() == pytest.approx(best)


def test_confidence_learns_a_limit_per_length():
    """Short histories gain from every step unless sure, long ones lose by each."""
    facts = made_facts(users=2000, steps=2)
    going_on_helps = (facts.doubt > 0.7) & (facts.lengths < 6)[:, None]
    depth = np.where(~going_on_helps[:, 0], 0, np.where(~going_on_helps[:, 1], 1, 2))
    facts.worth = np.eye(3)[depth]
    fitted = fit_confidence(facts)
    np.testing.assert_array_equal(fitted.depths(facts), depth)
    assert fitted.weights["longest"].tolist() == np.quantile(facts.lengths, [0.25, 0.5, 0.75], method="lower").tolist()
    limits = fitted.weights["allowed"].numpy()
    assert limits[:, 0] == pytest.approx([0.7, 0.7], abs=0.05)
    assert (limits[:, 3] == np.inf).all()


@pytest.mark.parametrize("steps", [1, 3])
def test_halting_learns_what_the_states_tell(steps):
    """Going on helps whose newest state points one way; the head is right about users it has not seen."""
    facts = made_facts(users=4000, steps=steps, seed=1)
    urge = facts.states[:, :-1, 0].numpy() > 0
    depth = np.where(urge.all(1), steps, urge.argmin(1))
    facts.ndcg = facts.worth = np.eye(steps + 1)[depth]
    found = calibrate("halting", facts)
    assert (found.depths == depth).mean() > 0.9
    assert (found.fitted.depths(facts) == depth).mean() > 0.9
    assert found.penalty in PENALTIES


def test_halting_learns_nothing_where_there_is_nothing_to_learn():
    """Strongly held back, it takes the best depth for nearly all; on unseen users it is no better than that."""
    facts = made_facts(users=3000, steps=2)
    facts.ndcg[:, 1] += 0.2
    fitted = fit_halting(facts, 1e-6)
    assert (fitted.depths(facts) == 1).mean() > 0.99
    found = calibrate("halting", facts)
    assert at_depth(facts.ndcg, found.depths).mean() == pytest.approx(facts.ndcg[:, 1].mean(), abs=0.01)


@pytest.mark.parametrize("rule", DEPTH_RULES)
def test_users_who_tell_nothing_take_as_few_steps_as_the_rule_can(rule):
    facts = made_facts(ndcg=np.full((600, 3), 0.4))
    fitted = fit_rule(rule, facts, PENALTIES[0])
    assert set(fitted.depths(facts).tolist()) == {1 if rule == "kl" else 0}


def test_users_who_all_gain_take_all_steps():
    facts = made_facts(ndcg=np.tile([0.1, 0.2, 0.3], (600, 1)))
    for rule in DEPTH_RULES:
        assert set(fit_rule(rule, facts, PENALTIES[0]).depths(facts).tolist()) == {2}


def test_a_user_has_no_part_in_the_rule_that_cross_validation_applies_to_it():
    facts = made_facts(users=50)
    before = {rule: cross_validate(rule, facts, PENALTIES[1]) for rule in DEPTH_RULES}
    for user in (0, 17):
        changed = made_facts(users=50)
        changed.worth[user] = [5.0, -5.0, 9.0]
        for rule in DEPTH_RULES:
            assert cross_validate(rule, changed, PENALTIES[1])[user] == before[rule][user]


def test_too_few_users_to_divide():
    with pytest.raises(ValueError, match="4 validation users: calibration divides them into 5 parts"):
        cross_validate("kl", made_facts(users=4), None)
