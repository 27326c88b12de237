"""Adaptive depth against depths computed one user and one step at a time."""

import itertools
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_rearec import ITEMS, WIDTH, tiny_rearec, tiny_split

from hf_genrec.methods.rearec import rearec_depth_rules as adaptive_depth
from hf_genrec.methods.rearec.modeling_rearec import ReaRecConfig, ReaRecForNextItem, ReaRecModel

REASONING = ["naive", "rpe", "erl", "prl"]
HISTORIES = tiny_split(users=16).histories


def inputs_of(model, histories, width=None):
    inputs = model.processor.prompts(histories)
    if width is not None:
        extra = (0, width - inputs["input_ids"].shape[1])
        inputs = {
            "input_ids": torch.nn.functional.pad(inputs["input_ids"], extra, value=model.config.num_items),
            "attention_mask": torch.nn.functional.pad(inputs["attention_mask"], extra),
        }
    return inputs


@torch.no_grad()
def adaptive(model, histories, width=None):
    vectors, depths = model.adaptive_vectors(**inputs_of(model, histories, width), item_vectors=model.item_vectors())
    return vectors, depths.tolist()


@torch.no_grad()
def numbers_alone(model, rule, history, weights) -> list[float]:
    """What the rule says of one user after each step before the last, from `logits` at fixed depths."""
    inputs = inputs_of(model, [history])
    length = int(inputs["attention_mask"].sum())
    log_y = [model(**inputs, num_steps=k).logits[0].log_softmax(-1) for k in range(model.config.steps + 1)]
    states = model(**inputs).reasoning_states[0]
    numbers = []
    for k in range(model.config.steps):
        if rule == "kl":
            numbers.append(math.inf if k == 0 else (log_y[k].exp() * (log_y[k] - log_y[k - 1])).sum().item())
        elif rule == "confidence":
            group = sum(length > limit for limit in weights["longest"].tolist())
            numbers.append((-log_y[k].max() - weights["allowed"][k, group]).item())
        else:
            change = states[k] - states[k - 1] if k else torch.zeros_like(states[0])
            features = torch.cat([states[k], change, torch.tensor([math.log(1 + length)])])
            numbers.append((features @ weights["weight"][k] + weights["bias"][k]).item())
    return numbers


def weights_of(rule, steps, seed=0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    if rule == "halting":
        return {"weight": torch.randn(steps, 17), "bias": torch.randn(steps)}
    if rule == "confidence":
        return {"longest": torch.tensor([2, 4, 7]), "allowed": torch.rand(steps, 4) * 3}
    return {}


def stopped(numbers, threshold) -> int:
    return next((k for k, number in enumerate(numbers) if number < threshold), len(numbers))


@pytest.mark.parametrize("rule", ["kl", "halting", "confidence"])
@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("reasoning", REASONING)
def test_depths_and_vectors_are_those_of_each_user_alone(reasoning, steps, rule):
    model = tiny_rearec(reasoning, steps, backbone="bert4rec" if steps == 2 else "sasrec")
    weights = weights_of(rule, steps)
    numbers = [numbers_alone(model, rule, history, weights) for history in HISTORIES]
    finite = np.sort([number for line in numbers for number in line if math.isfinite(number)])
    between = (finite[1:] + finite[:-1]) / 2
    found = set()
    for threshold in [between[int(share * len(between))] for share in (0.05, 0.4, 0.8)] if len(finite) else [0.5]:
        model.set_depth_rule(rule, threshold, **weights)
        vectors, depths = adaptive(model, HISTORIES)
        assert depths == [stopped(line, threshold) for line in numbers]
        found |= set(depths)
        for history, vector, depth in zip(HISTORIES, vectors, depths, strict=True):
            model.num_steps = depth
            with torch.no_grad():
                expected = model.user_vectors(**inputs_of(model, [history]), item_vectors=model.item_vectors())
            torch.testing.assert_close(vector, expected[0], rtol=1e-4, atol=1e-5)
            model.num_steps = None
    assert len(found) > 1 or (rule == "kl" and steps == 1)


@pytest.mark.parametrize("reasoning", REASONING)
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_ends_of_the_kl_rule(reasoning, steps):
    model = tiny_rearec(reasoning, steps)
    full, _ = model.recommend_rows(HISTORIES, k=ITEMS)
    model.num_steps = 1
    earliest, _ = model.recommend_rows(HISTORIES, k=ITEMS)
    model.num_steps = None
    model.set_depth_rule("kl", 0.0)
    assert adaptive(model, HISTORIES)[1] == [steps] * len(HISTORIES)
    assert np.array_equal(model.recommend_rows(HISTORIES, k=ITEMS)[0], full)
    model.set_depth_rule("kl", math.inf)
    assert adaptive(model, HISTORIES)[1] == [1] * len(HISTORIES)
    assert np.array_equal(model.recommend_rows(HISTORIES, k=ITEMS)[0], earliest)


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_the_survey_of_a_distribution(rows, monkeypatch):
    """Against the distribution itself; a step that changes nothing has a divergence of 0 and not less."""
    monkeypatch.setattr(adaptive_depth, "CHUNK_SCORES", rows * ITEMS)
    torch.manual_seed(0)
    first, second, items = torch.randn(50, 8) * 3, torch.randn(50, 8) * 3, torch.randn(ITEMS, 8)
    log_p, log_q = ((predictions @ items.T).log_softmax(-1) for predictions in (second, first))
    before, _, _ = adaptive_depth.survey(first, items)
    log_normaliser, doubt, mean = adaptive_depth.survey(second, items)
    torch.testing.assert_close(log_normaliser, (second @ items.T).logsumexp(-1))
    torch.testing.assert_close(doubt, -log_p.amax(-1), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(mean, log_p.exp() @ items)
    memory = torch.cat([first, before[:, None]], 1)
    found = adaptive_depth.divergence(second, log_normaliser, mean, memory)
    torch.testing.assert_close(found, (log_p.exp() * (log_p - log_q)).sum(-1), rtol=1e-4, atol=1e-4)
    same = torch.cat([second * (1 + 1e-7), log_normaliser[:, None]], 1)
    assert adaptive_depth.divergence(second, log_normaliser, mean, same).min() == 0
    assert adaptive_depth.survey(second, items, with_mean=False)[2].shape == (50, 0)


@pytest.mark.parametrize("rule", ["kl", "halting", "confidence"])
def test_the_depth_does_not_depend_on_the_batch(rule):
    """Thresholds at the very number of a user, as some batch has computed it: rounding would tip these."""
    histories = HISTORIES[:12]
    model = tiny_rearec("prl", 3, seed=1)
    weights = weights_of(rule, 3, seed=1)
    model.set_depth_rule(rule, 0.0, **weights)
    seen = []
    original = type(model.depth).forward

    def record(self, evidence):
        numbers, kept = original(self, evidence)
        seen.extend(numbers[torch.isfinite(numbers)].tolist())
        return numbers, kept

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(model.depth), "forward", record)
        adaptive(model, histories)
    assert len(seen) > len(histories)
    for number in seen[:: len(seen) // 6]:
        for threshold in (number, float(np.nextafter(np.float32(number), np.float32(np.inf)))):
            model.set_depth_rule(rule, threshold, **weights)
            alone = [adaptive(model, [history])[1][0] for history in histories]
            assert adaptive(model, histories)[1] == alone
            assert adaptive(model, histories, width=WIDTH)[1] == alone
            assert adaptive(model, histories[::-1][:7])[1] == alone[::-1][:7]


def test_who_has_stopped_costs_no_further_steps():
    model = tiny_rearec("prl", 4)
    numbers = [numbers_alone(model, "kl", history, {}) for history in HISTORIES]
    model.set_depth_rule("kl", float(np.median([line[1:] for line in numbers])))
    depths = np.array(adaptive(model, HISTORIES)[1])
    rows = []
    model.model.layers[0].feed_forward.register_forward_pre_hook(lambda module, args: rows.append(args[0].shape[:2]))
    adaptive(model, HISTORIES)
    steps = [(depths >= k).sum() for k in range(1, depths.max() + 1)]
    assert len(set(steps)) > 1
    assert [tuple(shape) for shape in rows[1 : 1 + len(steps)]] == [(count, 1) for count in steps]


@pytest.mark.parametrize("rule", ["kl", "confidence"])
def test_scores_are_held_of_few_users_at_a_time(rule, monkeypatch):
    model = tiny_rearec("erl", 3, num_items=3000)
    model.set_depth_rule(rule, 0.1, **weights_of(rule, 3))
    vectors, depths = adaptive(model, HISTORIES)
    monkeypatch.setattr(adaptive_depth, "CHUNK_SCORES", 2 * 3000)
    largest = 0

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and function is not torch.ops.aten.t.default:
                largest = max(largest, result.numel())
            return result

    inputs, table = inputs_of(model, HISTORIES), model.item_vectors().detach()
    with torch.no_grad(), Sizes():
        again, depths_again = model.adaptive_vectors(**inputs, item_vectors=table)
    assert largest <= table.numel()  # the item table itself, not 16 users x 3000 scores
    assert depths_again.tolist() == depths
    torch.testing.assert_close(again, vectors, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rule", ["kl", "halting", "confidence"])
def test_recommendations_scores_and_fixed_steps(rule):
    """`recommend` and `score_items` obey the rule; `num_steps` and `forward` stand above it."""
    model = tiny_rearec("erl", 3)
    histories = [[f"i{row}" for row in history] for history in HISTORIES]
    full = model.recommend(histories, k=5)
    logits = model(**inputs_of(model, HISTORIES)).logits
    model.set_depth_rule(rule, 0.2, **weights_of(rule, 3))
    vectors, depths = adaptive(model, HISTORIES)
    assert min(depths) < 3
    with torch.no_grad():
        expected = vectors @ model.item_vectors()[:ITEMS].T
    torch.testing.assert_close(model.score_items(histories), expected)
    item_ids, scores = model.recommend(histories, k=ITEMS)
    for line, values, score in zip(item_ids, scores, expected, strict=True):
        assert values == pytest.approx(score.sort(descending=True).values.tolist(), rel=1e-4, abs=1e-4)
        assert sorted(line) == sorted(model.processor.item_ids)
    assert item_ids != model.recommend(histories, k=5)[0]
    assert torch.equal(model(**inputs_of(model, HISTORIES)).logits, logits)
    model.num_steps = 3
    assert model.recommend(histories, k=5)[0] == full[0]
    model.num_steps = None
    model.set_depth_rule(None)
    assert model.recommend(histories, k=5) == full


@pytest.mark.parametrize("rule", ["kl", "halting", "confidence"])
def test_the_rule_is_saved_with_the_model(rule, tmp_path, caplog):
    model = tiny_rearec("prl", 3)
    threshold = math.inf if rule == "kl" else 0.25
    model.set_depth_rule(rule, threshold, **weights_of(rule, 3))
    model.save_pretrained(tmp_path)
    again = ReaRecForNextItem.from_pretrained(tmp_path)
    assert (again.config.depth_rule, again.config.depth_threshold) == (rule, threshold)
    assert adaptive(again, HISTORIES)[1] == adaptive(model, HISTORIES)[1]
    assert np.array_equal(again.recommend_rows(HISTORIES, k=9)[0], model.recommend_rows(HISTORIES, k=9)[0])
    body, info = ReaRecModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["unexpected_keys"]
    assert not info["missing_keys"]
    assert body.config.depth_rule == rule

    weights = load_file(tmp_path / "model.safetensors")
    lost = [name for name in weights if name.startswith("depth.")]
    assert len(lost) == (0 if rule == "kl" else 2)
    if lost:
        save_file({name: t for name, t in weights.items() if name != lost[0]}, tmp_path / "model.safetensors")
        with pytest.raises(ValueError, match=rf"lacks weights of the model: {lost[0]}"):
            ReaRecForNextItem.from_pretrained(tmp_path)


def test_a_rule_without_weights_stops_nobody():
    for rule in ("kl", "halting", "confidence"):
        assert adaptive(tiny_rearec(depth_rule=rule), HISTORIES)[1] == [2] * len(HISTORIES)


def test_rules_are_not_trained():
    model = tiny_rearec(depth_rule="halting")
    assert not [name for name, _ in model.named_parameters() if name.startswith("depth")]
    assert {name for name in model.state_dict() if name.startswith("depth")} == {"depth.weight", "depth.bias"}


def test_rules_that_make_no_sense():
    for fields, message in (
        ({"depth_rule": "patience"}, "depth_rule='patience': use one of kl, halting, confidence, or None"),
        ({"depth_rule": "kl", "reasoning": "none"}, "there are no steps to stop at"),
        ({"depth_rule": "kl", "depth_threshold": math.nan}, "depth_threshold is NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            ReaRecConfig(**fields)
    model = tiny_rearec()
    with pytest.raises(ValueError, match="use one of kl"):
        model.set_depth_rule("patience")
    with pytest.raises(ValueError, match=r"\['weight'\]"):
        model.set_depth_rule("halting", bias=torch.zeros(2))
    with pytest.raises(ValueError, match=r"\['bias'\]"):
        model.set_depth_rule("halting", weight=torch.zeros(2, 17), bias=torch.zeros(3))
    assert model.depth is None
    assert model.config.depth_rule is None


def test_equal_users_in_one_batch_have_one_depth():
    model = tiny_rearec("rpe", 3)
    model.set_depth_rule("kl", 0.05)
    copies = list(itertools.chain.from_iterable([history] * 3 for history in HISTORIES))
    depths = adaptive(model, copies)[1]
    assert depths == [depth for depth in adaptive(model, HISTORIES)[1] for _ in range(3)]
