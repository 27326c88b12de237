"""What is hidden in training, and how often."""

import math

import pytest
import torch

from hf_genrec.methods.mdgr.mdgr_masks import (
    familiar_views,
    familiarity,
    guided_views,
    most_hidden,
    random_views,
    sequential_views,
)

pytestmark = pytest.mark.libraries


def uniform(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_most_hidden_rises_for_three_tenths_of_the_training():
    assert [most_hidden(4, progress) for progress in (0.0, 0.05, 0.1, 0.2, 0.25, 0.3, 0.9, 1.0)] == [
        1, 2, 2, 3, 4, 4, 4, 4
    ]  # fmt: skip


def test_familiarity_is_the_share_of_the_history_with_the_code():
    pad = 99
    input_ids = torch.tensor([[pad, pad, 0, 5, 0, 6], [pad] * 6, [1, 5, 1, 5, 2, 5]])
    mask = (input_ids != pad).long()
    labels = torch.tensor([[0, 5], [pad, pad], [2, 6]])  # what is padded is no code, whatever it is
    expected = torch.tensor([[1.0, 0.5], [0.0, 0.0], [1 / 3, 0.0]])
    torch.testing.assert_close(familiarity(input_ids, mask, labels), expected)


@pytest.mark.parametrize("progress", [0.0, 0.1, 0.5, 1.0])
def test_how_many_are_hidden(progress):
    """k is uniform on 1 ... K(s), and everything with the probability given."""
    num_codebooks, draws = 4, 40_000
    views = familiar_views(uniform(draws, 1, 6), torch.zeros(draws, 4), progress, 0.25)
    most = most_hidden(num_codebooks, progress)
    shares = torch.bincount(views.sum(-1).flatten(), minlength=num_codebooks + 1) / draws
    expected = [0.0] + [0.75 / most * (count <= most) + 0.25 * (count == 4) for count in range(1, 5)]
    assert shares.tolist() == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(("progress", "gamma"), [(0.0, -2.0), (0.5, 0.0), (1.0, 2.0)])
def test_one_that_is_hidden_is_drawn_by_its_familiarity(progress, gamma):
    """Early the familiar codes, late the others: weights exp(gamma (1 - f))."""
    known, draws = torch.tensor([1.0, 0.5, 0.0]), 60_000
    noise = uniform(draws, 1, 5)
    noise[..., 0] = 0.0  # one code is hidden
    views = familiar_views(noise, known.expand(draws, 3), progress, full_share=0.0)
    assert (views.sum(-1) == 1).all()
    weights = [math.exp(gamma * (1 - f)) for f in known.tolist()]
    expected = [weight / sum(weights) for weight in weights]
    assert views.float().mean((0, 1)).tolist() == pytest.approx(expected, abs=0.01)


def test_several_are_drawn_without_replacement():
    """The second of two follows the weights of what the first one left."""
    known, draws = torch.tensor([1.0, 0.5, 0.0]), 60_000
    noise = uniform(draws, 1, 5)
    noise[..., 0] = 0.5  # two of three codes
    views = familiar_views(noise, known.expand(draws, 3), 1.0, full_share=0.0)
    w = [math.exp(2 * (1 - f)) for f in known.tolist()]
    total = sum(w)
    spared = [
        sum(w[a] / total * w[b] / (total - w[a]) for a, b in ((i, j), (j, i))) for i, j in ((1, 2), (0, 2), (0, 1))
    ]
    assert (1 - views.float().mean((0, 1))).tolist() == pytest.approx(spared, abs=0.01)


def test_random_views_hide_any_number_of_any():
    views = random_views(uniform(60_000, 1, 4))
    assert torch.bincount(views.sum(-1).flatten()).tolist() == pytest.approx([0, 20_000, 20_000, 20_000], abs=500)
    assert views.float().mean((0, 1)).tolist() == pytest.approx([2 / 3] * 3, abs=0.01)


def test_sequential_views_show_one_more_each():
    views = sequential_views(torch.tensor([[0.3, 0.9, 0.1], [0.1, 0.2, 0.3]]))
    assert views[0].int().tolist() == [[1, 1, 1], [1, 1, 0], [0, 1, 0]]
    assert views[1].int().tolist() == [[1, 1, 1], [0, 1, 1], [0, 0, 1]]


def test_guided_views_are_nested():
    asked = []

    def confidence(hidden):
        asked.append(hidden.tolist())
        return torch.tensor([[0.3, 0.9, 0.1]]) * (1 + hidden.sum(1, keepdim=True) % 2 * -2)

    everything = torch.ones(1, 3, dtype=torch.bool)
    assert guided_views(confidence, everything)[0].int().tolist() == [[0, 1, 0], [1, 1, 0], [1, 1, 1]]
    assert guided_views(confidence, everything, "most")[0].int().tolist() == [[0, 0, 1], [1, 0, 1], [1, 1, 1]]
    assert asked == [[[True] * 3]] * 2
    asked.clear()
    # Asked anew, it is least sure of the third, and with that hidden the other way round.
    views = guided_views(confidence, everything, refresh=True)
    assert views[0].int().tolist() == [[0, 0, 1], [0, 1, 1], [1, 1, 1]]
    assert asked == [[[False] * 3], [[False, False, True]], [[False, True, True]]]
