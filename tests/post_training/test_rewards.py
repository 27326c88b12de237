"""Rewards on numbers worked out by hand, and the same through the functions that TRL calls."""

import math

import numpy as np
import pytest
from conftest import make_processor
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from hf_genrec.post_training.item_rewards import SequenceRewards, SetRewards
from hf_genrec.post_training.rewards import (
    category_hit,
    item_hit,
    js_divergence,
    path_hit,
    prefix_share,
    rank_penalty,
    step_consistency,
    step_hit,
    time_decayed,
)

CODES = np.array([[3, 14, 25], [3, 14, 29]])  # two answers
TARGET_CODES = np.array([[[3, 14, 29], [3, 19, 25]]] * 2)  # and two targets of each


def test_codes_in_their_order():
    assert item_hit(CODES, TARGET_CODES).tolist() == [[0, 0], [1, 0]]
    assert prefix_share(CODES, TARGET_CODES) == pytest.approx(np.array([[2 / 3, 1 / 3], [1, 1 / 3]]))
    assert prefix_share(np.array([[4, 14, 29]]), TARGET_CODES[:1]).tolist() == [[0, 0]]


def test_step_hit_is_equation_10_and_has_no_order():
    assert step_hit(CODES, TARGET_CODES) == pytest.approx(np.array([[2 / 3, 2 / 3], [1, 1 / 3]]))
    assert np.array_equal(step_hit(CODES[:, [2, 0, 1]], TARGET_CODES), step_hit(CODES, TARGET_CODES))


def test_category_hit_is_equation_11():
    probs = np.array([[[0.1, 0.2, 0.7], [0.3, 0.3, 0.4], [0.2, 0.5, 0.3]]])  # most likely: 2, 2, 1
    assert category_hit(probs, np.array([[2, 1, 0]])) == pytest.approx(np.array([[2 / 3, 1 / 3, 0]]))


def test_divergence_is_equation_12():
    sure, other, undecided = np.array([1.0, 0.0]), np.array([0.0, 1.0]), np.array([0.5, 0.5])
    assert js_divergence(sure, other) == pytest.approx(math.log(2))
    # The middle is (0.75, 0.25): 1/2 ln(1/0.75) + 1/2 (1/2 ln(0.5/0.75) + 1/2 ln(0.5/0.25)).
    by_hand = 0.5 * math.log(4 / 3) + 0.25 * (math.log(2 / 3) + math.log(2))
    assert js_divergence(sure, undecided) == pytest.approx(by_hand)
    assert by_hand == pytest.approx(0.2158, abs=1e-4)


def test_consistency_is_equation_13():
    steps = np.array([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]])
    assert step_consistency(steps) == pytest.approx([1 - math.log(2) / 2])
    with pytest.raises(ValueError, match="1 is too few"):
        step_consistency(steps[:, :1])


@given(arrays.arrays(np.float64, (3, 4, 5), elements=st.floats(0, 1)))
def test_divergence_is_symmetric_and_bounded(values):
    probs = (values + 1e-3) / (values + 1e-3).sum(-1, keepdims=True)
    first, second = probs[:, :-1], probs[:, 1:]
    assert js_divergence(first, second) == pytest.approx(js_divergence(second, first))
    assert np.abs(js_divergence(first, first)).max() < 1e-12
    consistency = step_consistency(probs)
    assert ((consistency >= 1 - math.log(2)) & (consistency <= 1 + 1e-12)).all()


def test_a_path_with_errors_finds_its_item_by_the_right_part_alone():
    """Equation (14). Two codebooks, tokens 0, 1 and 2, 3; four items on a line: at 0 + 0, 0 + 1, 4 + 0, 4 + 1."""
    codewords = np.array([[0.0], [4.0], [0.0], [1.0]])
    catalogue = np.array([[0, 2], [0, 3], [1, 2], [1, 3]])
    item_vectors = codewords[catalogue].sum(1)

    def hits(code, targets, top_n, max_errors):
        targets = np.array([targets])
        arguments = (np.array([code]), catalogue[targets], targets, codewords, item_vectors, top_n, max_errors)
        return path_hit(*arguments).tolist()[0]

    # Without an error z is the item itself.
    assert [hits([a, b], [2 * a + b - 2], 1, 0) for a in (0, 1) for b in (2, 3)] == [[1]] * 4
    # The answer (1, 3) for the item (1, 2): the right part is 4, where item 2 stands.
    assert hits([1, 3], [2], top_n=1, max_errors=1) == [1]
    assert hits([1, 3], [2], top_n=1, max_errors=0) == [0]
    # For the item (0, 3) only the second code is right, z = 1: items at 1, 0, then 4 and 5.
    assert hits([1, 3], [1, 2, 3], top_n=1, max_errors=1) == [1, 1, 1]
    # The answer (0, 2) for the item (1, 2): z = 0, and the item, at 4, is the third.
    assert hits([0, 2], [2], top_n=2, max_errors=1) == [0]
    assert hits([0, 2], [2], top_n=3, max_errors=1) == [1]
    # Behind the end of a sequence there is nothing to find.
    assert hits([1, 3], [3, -1], top_n=4, max_errors=2) == [1, 0]


def test_several_targets_are_equations_15_and_16():
    values = np.array([[1.0, 0.0, 1.0], [1.0, 0.0, 1.0]])
    targets = np.array([[5, 6, 7], [5, 6, -1]])
    assert time_decayed(values, targets, 0.8) == pytest.approx([(1 + 0.64) / (1 + 0.8 + 0.64), 1 / 1.8])
    assert time_decayed(values[:, :1], targets[:, :1], 0.8).tolist() == [1, 1]


def test_wrong_answers_cost_by_their_place():
    right = np.array([[False, True, False]])
    scores = np.array([[-1.0, -2.0, -3.0]])
    answers = np.array([[7, 8, 9]])
    # Ranks 1 and 3: 1/log2(2) = 1 and 1/log2(4) = 1/2.
    assert rank_penalty(right, scores, answers) == pytest.approx(np.array([[-2 / 3, 0, -1 / 3]]))
    # The order of the samples does not matter, and an item sampled again does not push others down.
    again = rank_penalty(right[:, [2, 0, 0, 1]], scores[:, [2, 0, 0, 1]], answers[:, [2, 0, 0, 1]])
    assert again == pytest.approx(np.array([[-0.5 / 2.5, -1 / 2.5, -1 / 2.5, 0]]))
    # All wrong: nothing is known about their order. All right: nothing to complain about.
    assert rank_penalty(np.zeros((1, 3), bool), scores, answers).tolist() == [[0, 0, 0]]
    assert rank_penalty(np.ones((1, 3), bool), scores, answers).tolist() == [[0, 0, 0]]


@given(st.data())
def test_penalties_of_a_group_add_up_to_minus_one(data):
    size = data.draw(st.integers(2, 8))
    answers = np.array([data.draw(st.lists(st.integers(0, 4), min_size=size, max_size=size))])
    scores = -1.0 - answers * 0.5  # the same item always has the same score
    right = answers == answers[0, 0]
    penalties = rank_penalty(right, scores, answers)
    assert penalties.sum() == pytest.approx(0 if right.all() else -1)
    assert (penalties[right] == 0).all()
    order = np.argsort(-scores[0], kind="stable")
    wrong = penalties[0, order][~right[0, order]]
    assert (np.diff(wrong) >= -1e-12).all()  # the surer, the more it costs


# ---- as TRL calls them ----


def test_rewards_of_a_catalogue():
    codes = [[0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0]]
    processor = make_processor().set_catalogue(["a", "b", "c", "d"], codes)
    hit, prefix, rank = (rewards := SequenceRewards(processor, 0.5, group_size=2)).chosen(["hit", "prefix", "rank"])
    assert [function.__name__ for function in (hit, prefix, rank)] == ["hit", "prefix", "rank"]
    columns = {
        "completion_ids": processor.token_ids[[0, 0, 1, 2]].tolist(),
        "targets": [np.array(line) for line in ([0, 1], [1, 0], [0, -1], [3, 2])],
        "prompts": [],
        "trainer_state": None,
    }
    assert hit(**columns) == pytest.approx([2 / 3, 1 / 3, 0, 1 / 3])
    assert prefix(**columns) == pytest.approx([(1 + 0.5 * 2 / 3) / 1.5, (2 / 3 + 0.5) / 1.5, 2 / 3, (0 + 0.5) / 1.5])
    # Groups of two: in the first both are among the targets, in the second the fourth is and the third is not.
    assert rank(scores=[-1, -1, -1, -2], **columns) == [0, 0, -1, 0]
    columns["targets"][3] = np.array([3, -1])  # -1 is no target, the last item of the catalogue least of all
    columns["completion_ids"][3] = processor.token_ids[2].tolist()
    assert rank(scores=[-1, -1, -1, -2], **columns) == [0, 0, 0, 0]
    with pytest.raises(ValueError, match="'step_hit' is none of this model's, which are hit, rank, prefix"):
        rewards.chosen(["hit", "step_hit"])


def test_rewards_of_sets():
    processor = make_processor()
    ids = processor.token_ids
    categories = np.arange(len(ids)) % 3
    codewords = np.random.default_rng(0).normal(size=(len(processor.tokenizer), 4))
    rewards = SetRewards(processor, 0.8, 2, categories, codewords, path_top_n=1, path_errors=0)
    names = ["hit", "step_hit", "category_hit", "consistency", "path"]
    chosen = dict(zip(names, rewards.chosen(names), strict=True))
    columns = {
        "completion_ids": [ids[7][[2, 0, 1]].tolist(), ids[8].tolist()],  # the first in another order
        "targets": [np.array([7]), np.array([7])],
        "category_probs": [np.eye(3)[[1, 1, 0]], np.eye(3)[[1, 1, 1]]],
    }
    values = {name: function(**columns) for name, function in chosen.items()}
    assert values["hit"] == [1, 0]
    assert values["step_hit"] == pytest.approx([1, (ids[7] == ids[8]).mean()])
    assert values["category_hit"] == pytest.approx([2 / 3, 1])
    assert values["consistency"] == pytest.approx([1 - math.log(2) / 2, 1])
    assert values["path"] == [1, 0]
    # Without codewords, too, all that can be asked for is named.
    with pytest.raises(
        ValueError, match=r"'prefix' is none of this model's, which are hit, .*, path: name one or more"
    ):
        SetRewards(processor, 0.8, 2, categories).chosen(["prefix"])
