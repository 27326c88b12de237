"""The analyses of reasoning steps against rankings by `recommend_rows` and against values by hand."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from tiny_rearec import ITEMS, tiny_rearec, tiny_split

from hf_genrec.evaluation.cost import median_costs
from hf_genrec.evaluation.metrics import ndcg_at_k, recall_at_k
from hf_genrec.methods.rearec import reasoning_analysis as reasoning
from hf_genrec.methods.rearec.reasoning_analysis import (
    analyze_reasoning,
    chosen_depths,
    group_records,
    metrics_of_ranks,
    oracle_record,
    quarters,
    rank_records,
    rank_steps,
    states_in_plane,
    target_ranks,
)
from hf_genrec.methods.rearec.reasoning_report import draw_analysis, render_analysis


def ranks_of_lists(rows: np.ndarray, users: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Where items stand in full lists (users, N), from 1."""
    return np.array([1 + int(np.flatnonzero(rows[user] == item)[0]) for user, item in zip(users, items, strict=True)])


@pytest.mark.parametrize("targets", [1, 4])
@pytest.mark.parametrize(("model_of", "steps"), [("naive", 1), ("rpe", 2), ("erl", 3), ("prl", 2)])
def test_ranks_by_depth_are_those_of_recommend_at_that_depth(model_of, steps, targets):
    model, split = tiny_rearec(model_of, steps), tiny_split(targets=targets)
    found = rank_steps(model, split, batch_size=7)
    wanted = [sorted(set(line.tolist())) for line in split.targets]
    assert found.items.tolist() == [item for line in wanted for item in line]
    assert found.users.tolist() == [user for user, line in enumerate(wanted) for _ in line]
    for depth in range(steps + 1):
        model.num_steps = depth
        rows, _ = model.recommend_rows(split.histories, k=ITEMS)
        assert found.by_depth[:, depth].tolist() == ranks_of_lists(rows, found.users, found.items).tolist()
    assert model.num_steps == steps  # what a caller has set is left alone


def test_ranks_by_state_are_of_one_state_alone():
    """For ERL those of a model that ranks by its last state, with the same weights."""
    split = tiny_split()
    ensemble, last = tiny_rearec("erl", 3), tiny_rearec("rpe", 3)
    last.load_state_dict(ensemble.state_dict())
    found, expected = rank_steps(ensemble, split), rank_steps(last, split)
    assert np.array_equal(found.by_state, expected.by_depth)
    assert np.array_equal(expected.by_state, expected.by_depth)
    assert (found.by_state[:, 1:] != found.by_depth[:, 1:]).any()


def test_equal_scores_rank_in_catalogue_order():
    scores = torch.tensor([[1.0, 3.0, 3.0, 2.0, 3.0]])
    ranks = target_ranks(scores, torch.zeros(5, dtype=torch.int64), torch.arange(5))
    assert ranks.tolist() == [5, 1, 2, 4, 3]


def test_few_scores_at_a_time_change_nothing(monkeypatch):
    model, split = tiny_rearec("erl", 2), tiny_split(targets=3)
    whole = rank_steps(model, split)
    monkeypatch.setattr(reasoning, "MAX_SCORES", 2 * 3 * ITEMS)
    sizes = [len(users) for users, *_ in reasoning.step_batches(model, split.histories)]
    assert max(sizes) == 2
    again = rank_steps(model, split)
    for name in ("users", "items", "by_depth", "by_state"):
        assert np.array_equal(getattr(again, name), getattr(whole, name))
    np.testing.assert_allclose(again.cosine, whole.cosine, rtol=1e-5)
    np.testing.assert_allclose(again.divergence, whole.divergence, rtol=1e-4, atol=1e-6)


def test_cosine_and_divergence_by_hand():
    model, split = tiny_rearec("prl", 2), tiny_split(users=6)
    found = rank_steps(model, split)
    cosine, kl = np.zeros((3, 3)), np.zeros((3, 3))
    for history in split.histories:
        with torch.no_grad():
            states = model(**model.processor.prompts([history])).reasoning_states[0].double()
            p = (states @ model.item_vectors()[:-1].double().T / model.config.temperature).softmax(-1).numpy()
        states = states.numpy()
        for i in range(3):
            for j in range(3):
                cosine[i, j] += states[i] @ states[j] / np.linalg.norm(states[i]) / np.linalg.norm(states[j]) / 6
                kl[i, j] += (p[i] * np.log(p[i] / p[j])).sum() / 6
    np.testing.assert_allclose(found.cosine, cosine, rtol=1e-5)
    np.testing.assert_allclose(found.divergence, kl, rtol=1e-4, atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_metrics_of_ranks_equal_metrics_of_lists(data):
    lists = [data.draw(st.permutations(range(12))) for _ in range(data.draw(st.integers(1, 5)))]
    sets = st.sets(st.integers(0, 11), min_size=1, max_size=6)
    targets = [np.array(sorted(data.draw(sets))) for _ in lists]
    rows = np.array(lists)
    users = np.repeat(np.arange(len(lists)), [len(line) for line in targets])
    ranks = ranks_of_lists(rows, users, np.concatenate(targets))
    found = metrics_of_ranks(ranks, users, [1, 3, 5])
    for k in (1, 3, 5):
        np.testing.assert_allclose(found[f"recall@{k}"], recall_at_k(rows, targets, k))
        np.testing.assert_allclose(found[f"ndcg@{k}"], ndcg_at_k(rows, targets, k))


def test_quarters_and_groups_by_hand():
    values = np.array([5, 1, 1, 9, 2, 2, 2, 7])
    assert quarters(values).tolist() == [2, 0, 0, 3, 1, 1, 2, 3]
    table = np.stack([np.arange(8.0), np.arange(8.0) + (values > 4)], 1)
    groups = group_records(quarters(values), values, {"ndcg@10": table})
    assert [(group["count"], group["smallest"], group["largest"]) for group in groups] == [
        (2, 1, 1), (2, 2, 2), (2, 2, 5), (2, 7, 9)
    ]  # fmt: skip
    assert [group["ndcg@10"] for group in groups] == [[1.5, 1.5], [4.5, 4.5], [3.0, 3.5], [5.0, 6.0]]
    assert [group["last_less_first"]["value"] for group in groups] == [0.0, 0.0, 0.5, 1.0]
    assert groups[3]["last_less_first"] == {"value": 1.0, "low": 1.0, "high": 1.0}


def test_the_oracle_by_hand():
    record = oracle_record(np.array([[0.0, 1.0, 0.5], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.2, 0.2, 0.4]]))
    assert record["ndcg@10"] == pytest.approx(0.6)
    assert (record["best_fixed"], record["best_fixed_ndcg@10"]) == (0, pytest.approx(0.3))
    assert record["gain"] == pytest.approx(0.3)
    assert record["relative_gain"] == pytest.approx(1.0)
    assert record["share_best"] == [0.5, 0.25, 0.25]  # a user for whom all are equal counts for step 0
    assert oracle_record(np.zeros((3, 2)))["relative_gain"] is None


def test_changes_of_rank_by_hand():
    record = rank_records(np.array([[4, 2], [1, 1], [10, 20], [7, 3]]))
    assert [line["median"] for line in record["ranks"]] == [5.5, 2.5]
    assert record["ranks"][0] == {"step": 0, "quartile_1": 3.25, "median": 5.5, "quartile_3": 7.75}
    assert record["changes"] == [{"from": 0, "to": 1, "improved": 0.5, "same": 0.25, "worsened": 0.25}]


def test_states_in_the_plane_by_hand():
    """Two users and two steps, on a line but for a little: the first axis is the line."""
    states = np.array([[[3.0, 0.0, 1.0], [-3.0, 0.2, 1.0]], [[3.0, 0.0, 1.0], [-3.0, -0.2, 1.0]]])
    found = states_in_plane(states)
    np.testing.assert_allclose(found["points"], [[[3, 0], [3, 0]], [[-3, 0.2], [-3, -0.2]]], atol=1e-3)
    total = 4 * 9 + 2 * 0.04
    np.testing.assert_allclose(found["variance"], [36 / total, 0.08 / total])
    assert found["between_steps"] == pytest.approx(36 / total)
    assert states_in_plane(states[:, [0, 0]])["between_steps"] == 0  # nothing varies
    assert states_in_plane(np.array([[[1.0], [-1.0]]]))["points"] == [[[1, 0]], [[-1, 0]]]  # one dimension


@given(st.integers(2, 6), st.integers(2, 4), st.integers(2, 7), st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_states_in_the_plane_are_principal_components(users, steps, dim, seed):
    states = np.random.default_rng(seed).normal(size=(users, steps, dim))
    found = states_in_plane(states)
    theirs = PCA(2).fit(states.reshape(-1, dim))
    np.testing.assert_allclose(found["variance"], theirs.explained_variance_ratio_, atol=1e-9)
    points = theirs.transform(states.reshape(-1, dim)).reshape(users, steps, 2).swapaxes(0, 1)
    np.testing.assert_allclose(np.abs(found["points"]), np.abs(points), atol=1e-4)


def test_states_that_are_shown_are_of_users_spread_over_the_split(monkeypatch):
    model, split = tiny_rearec("erl", 2), tiny_split()
    monkeypatch.setattr(reasoning, "SHOWN_USERS", 3)
    found = rank_steps(model, split, batch_size=2)
    users = [0, (len(split.histories) - 1) // 2, len(split.histories) - 1]
    expected = {}
    for batch, states, _ in reasoning.step_batches(model, split.histories):
        expected |= dict(zip(batch.tolist(), torch.nn.functional.normalize(states.double(), dim=-1), strict=True))
    np.testing.assert_allclose(found.states, np.stack([expected[user] for user in users]), atol=1e-6)


def test_costs_are_measured_in_turn():
    order = []
    costs = median_costs({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=3)
    assert "".join(order) == "ab" * 4
    assert all(0 <= cost.cpu_seconds < 1 and 0 < cost.seconds < 1 for cost in costs.values())


@pytest.fixture(scope="module", params=["erl", "prl"])
def analysed(request):
    model, split = tiny_rearec(request.param, 3), tiny_split(targets=2)
    return model, split, analyze_reasoning(model, split, model.processor.popularity, rounds=1)


def test_the_record(analysed):
    model, split, record = analysed
    json.dumps(record, allow_nan=False)
    depths = np.array([[line["metrics"]["ndcg@10"] for line in record["depths"]]])
    rows, _ = model.recommend_rows(split.histories, k=10)
    assert record["prediction"]["metrics"]["ndcg@10"] == pytest.approx(ndcg_at_k(rows, split.targets, 10).mean())
    assert record["prediction"]["mean_steps"] == 3
    assert depths[0, -1] == pytest.approx(record["prediction"]["metrics"]["ndcg@10"])
    for name in ("depths", "states"):
        assert record["oracle"][name]["ndcg@10"] >= max(line["metrics"]["ndcg@10"] for line in record[name])
        assert sum(record["oracle"][name]["share_best"]) == pytest.approx(1)
    assert sum(group["count"] for group in record["history_length"]) == len(split.histories)
    assert sum(group["count"] for group in record["target_popularity"]) == record["num_targets"]
    mean = np.average(
        [group["ndcg@10"] for group in record["history_length"]],
        axis=0,
        weights=[group["count"] for group in record["history_length"]],
    )
    np.testing.assert_allclose(mean, depths[0])
    assert [line["num_steps"] for line in record["cost"]] == [0, 1, 2, 3]
    assert record["cost"][0]["times_no_step"] == 1


def test_the_models_own_prediction_obeys_its_rule(analysed):
    model, split, before = analysed
    model.set_depth_rule("kl", 0.3)
    try:
        record = analyze_reasoning(model, split, model.processor.popularity, rounds=1)
        depths = chosen_depths(model, split.histories, batch_size=7)
        rows, _ = model.recommend_rows(split.histories, k=10)
    finally:
        model.set_depth_rule(None)
    assert 1 < depths.mean() < 3
    assert record["prediction"]["mean_steps"] == depths.mean()
    assert record["prediction"]["metrics"]["ndcg@10"] == pytest.approx(ndcg_at_k(rows, split.targets, 10).mean())
    assert record["depths"] == before["depths"]
    assert record["depth_rule"] == "kl"


def test_tables_and_pictures(analysed, tmp_path):
    model, _, record = analysed
    text = render_analysis(record)
    assert ("state 1 alone" in text) == (model.config.reasoning == "erl")
    for line in record["depths"]:
        assert f"| depth {line['depth']}" in text
        assert f"{line['metrics']['ndcg@10']:.4f}" in text
    paths = draw_analysis(record, tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    names = ["cost", "groups", "ranks", "similarity", "states", "steps"]
    assert sorted(path.name for path in paths) == [f"reasoning-test-{name}.png" for name in names]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


def test_a_model_without_steps_has_nothing_to_analyse():
    model = tiny_rearec("none")
    with pytest.raises(ValueError, match="no reasoning steps"):
        analyze_reasoning(model, tiny_split(), model.processor.popularity)


def test_a_split_without_any_hit(tmp_path):
    """Nothing to divide by, and nothing to draw: still a record, tables and pictures."""
    model = tiny_rearec("prl", 1, num_items=400)
    split = tiny_split(users=5)
    rows, _ = model.recommend_rows(split.histories, k=400)
    split.targets = [line[-1:] for line in rows]
    record = analyze_reasoning(model, split, model.processor.popularity, rounds=1)
    assert record["oracle"]["depths"]["relative_gain"] is None or math.isfinite(record["oracle"]["depths"]["gain"])
    render_analysis(record)
    draw_analysis(record, tmp_path)
