"""LETTER beside the published values: what it shares with RQ-VAE, missing collaborative vectors, what it draws."""

import math

import numpy as np
import pytest
import torch
from learned_tokenizers import make_letter, make_rq_vae

from hf_genrec.item_tokenizers.sinkhorn import sinkhorn_codes, sinkhorn_plan


@pytest.fixture
def vectors():
    return torch.randn(60, 10, generator=torch.Generator().manual_seed(1))


def test_with_no_weight_of_its_own_one_level_is_an_rq_vae(vectors):
    settings = {"diversity_weight": 0.0, "alignment_weight": 0.0, "sinkhorn_epsilons": [0.0]}
    letter, rq_vae = make_letter((7,), **settings).train(), make_rq_vae((7,)).train()
    for name, weight in rq_vae.state_dict().items():
        assert torch.equal(letter.state_dict()[name], weight)
    ours, theirs = letter(vectors), rq_vae(vectors)
    ours.loss.backward()
    theirs.loss.backward()
    torch.testing.assert_close(ours.loss, theirs.loss)
    for name, parameter in rq_vae.named_parameters():
        torch.testing.assert_close(letter.get_parameter(name).grad, parameter.grad)


def test_items_without_a_collaborative_vector_are_neither_aligned_nor_compared_with(vectors):
    tokenizer = make_letter(diversity_weight=0.0, sinkhorn_epsilons=[0.0] * 3).train()
    h = torch.randn(60, 4, generator=torch.Generator().manual_seed(2))
    h[10:] = 0.0
    found = tokenizer(vectors, h).losses["alignment"]
    quantized = sum(tokenizer._codewords(tokenizer.encode(vectors)))[:10]
    logits = math.sqrt(4) * quantized @ h[:10].T
    torch.testing.assert_close(found, torch.nn.functional.cross_entropy(logits, torch.arange(10)))
    none = tokenizer(vectors, torch.zeros(60, 4))
    assert none.losses["alignment"] == 0
    none.loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in tokenizer.parameters())


def test_a_positive_is_another_code_of_the_same_cluster_and_each_is_drawn():
    tokenizer = make_letter((6, 5))
    labels = [np.array([0, 1, 0, 1, 0, 1]), np.array([0, 0, 1, 1, 1])]
    tokenizer.set_code_clusters(labels)
    codes = torch.stack([torch.arange(600) % 6, torch.arange(600) % 5], dim=1)
    drawn = tokenizer._others(codes)
    for level, clusters in enumerate(labels):
        pairs = set(zip(codes[:, level].tolist(), drawn[:, level].tolist(), strict=True))
        size = len(clusters)
        assert pairs == {(a, b) for a in range(size) for b in range(size) if a != b and clusters[a] == clusters[b]}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t, x: t(x, torch.ones(60, 4)), "call set_code_clusters"),
        (lambda t, x: t(x, None, torch.zeros(60, 3, dtype=torch.long)), r"are none, expected \(60, 4\)"),
        (lambda t, x: t(x, torch.ones(60, 5), torch.zeros(60, 3, dtype=torch.long)), r"of shape \(60, 5\), expected"),
        (lambda t, x: t.set_code_clusters([np.array([0, 0, 1])]), "level 0 has a cluster of one code"),
    ],
)
def test_what_training_lacks_is_named(vectors, call, message):
    with pytest.raises(ValueError, match=message):
        call(make_letter().train(), vectors)


def test_sinkhorn_uses_codes_evenly_where_the_nearest_ones_are_few():
    distances = torch.rand(64, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    distances[:, :2] -= 5.0
    assert distances.argmin(dim=1).unique().tolist() == [0, 1]
    plan = sinkhorn_plan(distances, 0.05, 200)
    torch.testing.assert_close(plan.sum(dim=0), torch.full((16,), 4.0).double())
    torch.testing.assert_close(plan.sum(dim=1), torch.ones(64).double(), atol=1e-2, rtol=0)
    assert len(sinkhorn_codes(distances, 0.05, 200).unique()) == 16


def test_the_coldest_temperature_that_is_allowed_does_not_underflow():
    distances = torch.full((300, 300), 1.0)
    distances[0, 0] = 0.0
    assert sinkhorn_plan(distances, 0.003, 50).isfinite().all()
