"""CoBa RQ-VAE: its two terms by their definition, and the RQ-VAE that is left without them."""

import numpy as np
import pytest
import torch
from learned_tokenizers import make_coba, make_rq_vae


@pytest.fixture
def vectors():
    return torch.randn(60, 10, generator=torch.Generator().manual_seed(1))


def test_without_balancing_and_uniformity_it_is_an_rq_vae(vectors):
    coba, rq_vae = make_coba(balance_strength=0.0, uniformity_weight=0.0).train(), make_rq_vae().train()
    for _ in range(2):  # the counts of the first step change nothing in the second
        ours, theirs = coba(vectors), rq_vae(vectors)
    assert torch.equal(ours.codes, theirs.codes)
    assert torch.equal(ours.loss, theirs.loss)


def test_codes_in_training_by_the_definition_and_encode_by_the_nearest(vectors):
    tokenizer = make_coba((7,), balance_strength=0.5).train()
    codebook, uses = tokenizer.codebooks[0].numpy().astype(np.float64), np.zeros(7)
    latents = tokenizer.latents(vectors).astype(np.float64)
    distances = np.square(latents[:, None] - codebook).sum(axis=2)
    for _ in range(5):
        factor = np.clip(1 + 0.5 * np.log((uses + 1) / (uses.mean() + 1)), 0.7, 1.3)
        expected = (distances * factor).argmin(axis=1)
        assert tokenizer(vectors).codes[:, 0].tolist() == expected.tolist()
        uses = 0.99 * uses + np.bincount(expected, minlength=7)
    assert expected.tolist() != distances.argmin(axis=1).tolist()
    assert tokenizer.encode(vectors)[:, 0].tolist() == distances.argmin(axis=1).tolist()


def test_uniformity_by_its_definition():
    tokenizer = make_coba((7, 1, 6)).train()
    with torch.no_grad():  # some are close, and the median of an even number is the lower one
        tokenizer.codebook_0[1] = tokenizer.codebook_0[0] + 0.01
        tokenizer.codebook_2[4] = tokenizer.codebook_2[3] + 0.02
    expected = 0.0
    for codebook in (tokenizer.codebooks[0].double(), tokenizer.codebooks[2].double()):
        distances = (codebook[:, None] - codebook).norm(dim=2)
        others = ~torch.eye(len(codebook), dtype=torch.bool)
        nearest = distances.masked_fill(~others, torch.inf).amin(dim=1)
        expected += (0.5 * nearest.median() - distances[others]).clamp(min=0).square().mean().item()
    weight, found = tokenizer._regularizers()["uniformity"]
    assert weight == 0.1
    assert found.item() == pytest.approx(expected, rel=1e-5)
    assert expected > 0


def test_uniformity_parts_what_is_close_and_does_not_break_on_what_is_equal():
    tokenizer = make_coba((9,)).train()
    with torch.no_grad():
        far = [[5, 0], [0, 5], [5, 5], [5, 5], [-5, 0], [0, -5], [-5, -5]]
        tokenizer.codebook_0.copy_(torch.tensor([[0, 0], [0.1, 0], *far]).repeat(1, 2))
    tokenizer._regularizers()["uniformity"][1].backward()
    gradient = tokenizer.codebook_0.grad
    assert gradient.isfinite().all()
    assert gradient[0, 0] > 0 > gradient[1, 0]  # descent moves them apart
    assert not gradient[2:].any()
