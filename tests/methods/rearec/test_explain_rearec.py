"""The ranking that is shown after a step is what `recommend` answers at that depth."""

import numpy as np
import pytest
import torch
from tiny_rearec import ITEMS, tiny_rearec

from hf_genrec.methods.rearec.explain_rearec import explain, step_rankings
from hf_genrec.methods.rearec.reasoning_analysis import evaluating

HISTORIES = [np.array([3, 9, 1, 9]), np.array([], dtype=np.int64), np.arange(20) % ITEMS]


@pytest.mark.parametrize("exclude_seen", [False, True])
@pytest.mark.parametrize("reasoning", ["prl", "erl"])
def test_each_step_is_the_recommendation_at_that_depth(reasoning, exclude_seen):
    model = tiny_rearec(reasoning, steps=3)
    differ = 0
    for history in HISTORIES:
        found = step_rankings(model, history, 5, exclude_seen)
        assert found.steps == ["step 0", "step 1", "step 2", "step 3"]
        assert found.chosen == 3
        for depth in range(4):
            with evaluating(model, depth):
                rows, scores = model.recommend_rows([history], k=10, exclude_seen=exclude_seen)
                everything, _ = model.recommend_rows([history], k=ITEMS, exclude_seen=exclude_seen)
            np.testing.assert_array_equal(found.rows[depth], rows[0])
            np.testing.assert_array_equal(found.scores[depth], scores[0])
            place = np.flatnonzero(everything[0] == 5)
            assert found.ranks[depth] == (place[0] + 1 if len(place) else 0)
        differ += len({tuple(rows) for rows in found.rows.tolist()}) > 1
    assert differ


def test_fewer_items_than_shown():
    model = tiny_rearec()
    found = step_rankings(model, np.arange(ITEMS - 4), ITEMS - 1, exclude_seen=True)
    assert ((found.rows >= 0).sum(1) == 4).all()
    assert (found.scores[:, 4:] == -np.inf).all()
    assert step_rankings(model, np.arange(ITEMS - 4), 0, exclude_seen=True).ranks == [0, 0, 0]


def test_the_step_that_was_recommended_is_the_rules():
    model = tiny_rearec(steps=3)
    found = {}
    for threshold in (-1.0, 1e9):
        model.set_depth_rule("halting", threshold, **_weights(model))
        found[threshold] = step_rankings(model, HISTORIES[0], 5).chosen
    assert found == {-1.0: 3, 1e9: 0}
    model.num_steps = 2
    assert step_rankings(model, HISTORIES[0], 5).chosen == 2


def _weights(model):
    size = 2 * model.config.hidden_size + 1
    return {"weight": torch.zeros(model.config.steps, size), "bias": torch.zeros(model.config.steps)}


def test_a_model_without_steps_has_nothing_to_show():
    assert explain(tiny_rearec("none", steps=0), HISTORIES[0], 5) == []
    (explanation,) = explain(tiny_rearec(), HISTORIES[0], 5)
    assert len(explanation.picture.ranks) == 3
