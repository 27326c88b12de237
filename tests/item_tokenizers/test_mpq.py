"""MPQ against hand-worked numbers: equations (1) to (4) of REG4Rec, straight-through gradients, permuted experts."""

import math

import numpy as np
import pytest
import torch
from learned_tokenizers import make_mpq


@pytest.fixture
def toy():
    """Two experts in two dimensions, latents and decoder of one number: e^1 = x, e^2 = 0.6 x + 0.8 y,
    h = (1/4, 3/4) for every item, decoder(q) = (q, 2 q)."""
    tokenizer = make_mpq((2, 2), dim=2, latent_dim=1, hidden_sizes=())
    with torch.no_grad():
        tokenizer.experts.projection.weight.copy_(torch.tensor([[1.0, 0.0], [0.6, 0.8]]) / math.sqrt(2))
        tokenizer.gate.weight.zero_()
        tokenizer.gate.bias.copy_(torch.tensor([0.0, math.log(3)]))
        tokenizer.decoder.layers[0].weight.copy_(torch.tensor([[1.0], [2.0]]) * math.sqrt(2))
        tokenizer.codebook_0.copy_(torch.tensor([[0.0], [1.0]]))
        tokenizer.codebook_1.copy_(torch.tensor([[0.0], [2.0]]))
    return tokenizer.train()


def test_equations_1_to_4_by_hand(toy):
    # (1, 1): e = (1, 1.4), codes (1, 1), q = 1/4 + 3/4 * 2 = 1.75, off by (0.75, 2.5); z misses e by (0, 0.6)
    # (0.4, 0): e = (0.4, 0.24), codes (0, 0), q = 0, off by (0.4, 0); z misses e by (0.4, 0.24)
    output = toy(torch.tensor([[1.0, 1.0], [0.4, 0.0]]))
    assert output.codes.tolist() == [[1, 1], [0, 0]]
    torch.testing.assert_close(output.reconstruction, torch.tensor([[1.75, 3.5], [0.0, 0.0]]))
    miss = (0.6**2 + 0.4**2 + 0.24**2) / 2
    expected = {
        "reconstruction": (0.75**2 + 2.5**2 + 0.4**2) / 2,
        "codebook": miss,
        "commitment": miss,
        "orthogonality": 2 * 0.6**2,  # the projections' cosine, twice
    }
    assert {name: value.item() for name, value in output.losses.items()} == pytest.approx(expected, rel=1e-5)
    loss = expected["reconstruction"] + 0.001 * expected["orthogonality"] + miss + 0.25 * miss
    assert output.loss.item() == pytest.approx(loss, rel=1e-5)


def test_orthogonality_does_not_see_the_length_of_projections(toy):
    before = toy.experts.orthogonality().item()
    with torch.no_grad():
        toy.experts.projection.weight.mul_(torch.tensor([[3.0], [0.1]]))
    assert toy.experts.orthogonality().item() == pytest.approx(before, rel=1e-5)
    with torch.no_grad():
        toy.experts.projection.weight.copy_(torch.tensor([[0.0, 5.0], [2.0, 0.0]]))
    assert toy.experts.orthogonality().item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("latent_dim", [2, 3, 4, 9])  # 6, 9, 12 and 27 projections of 10 numbers
def test_orthogonality_is_the_norm_of_the_gram_matrix_less_the_identity(latent_dim):
    experts = make_mpq(latent_dim=latent_dim).experts
    columns = experts.projection.weight.detach().double().T
    columns = columns / columns.norm(dim=0)
    expected = (columns.T @ columns - torch.eye(3 * latent_dim)).square().sum()
    assert experts.orthogonality().item() == pytest.approx(expected.item(), rel=1e-5)


def test_straight_through_gradients_by_hand(toy):
    toy.config.orthogonality_weight = 0.0
    toy(torch.tensor([[1.0, 1.0]])).loss.backward()
    by_q = 2 * 0.75 * 1 + 2 * 2.5 * 2  # of ||v - (q, 2q)||^2 at q = 1.75
    # e = (1, 1.4), z = (1, 2): the decoder's gradient times h, and 0.25 times that of the commitment
    by_latent = [by_q / 4 + 0.25 * 2 * (1 - 1), by_q * 3 / 4 + 0.25 * 2 * (1.4 - 2)]
    expected = torch.tensor([[by, by] for by in by_latent]) * math.sqrt(2)  # times v and the scale inside
    torch.testing.assert_close(toy.experts.projection.weight.grad, expected)
    # Codewords move by their own term alone, and unused ones not at all
    torch.testing.assert_close(toy.codebook_0.grad, torch.zeros(2, 1))
    torch.testing.assert_close(toy.codebook_1.grad, torch.tensor([[0.0], [2 * (2 - 1.4)]]))
    # The gate by the softmax's derivative: dq/dlogit_r = h^r (z^r - q)
    gate = torch.tensor([0.25 * (1 - 1.75), 0.75 * (2 - 1.75)]) * by_q
    torch.testing.assert_close(toy.gate.bias.grad, gate)


def test_decode_weights_codewords_by_the_mean_gate(toy):
    toy.eval()
    with pytest.raises(ValueError, match="there are 1 codes per item, expected 2"):
        toy.decode([[0]])
    toy.mean_gate.copy_(torch.tensor([0.5, 0.5]))
    assert toy.decode([[1, 1], [0, 1]]).tolist() == [[1.5, 3.0], [1.0, 2.0]]
    toy.set_mean_gate(np.zeros((3, 2)))
    torch.testing.assert_close(toy.mean_gate, torch.tensor([0.25, 0.75]))


def test_the_mean_gate_is_that_of_all_rows():
    tokenizer = make_mpq()
    vectors = torch.randn(50, 10, generator=torch.Generator().manual_seed(1))
    tokenizer.set_mean_gate(vectors)
    logits = vectors * math.sqrt(10) @ tokenizer.gate.weight.T + tokenizer.gate.bias
    torch.testing.assert_close(tokenizer.mean_gate, logits.softmax(1).mean(0))


def test_evaluation_mode_gives_codes_and_no_losses():
    tokenizer = make_mpq()
    vectors = torch.randn(20, 10, generator=torch.Generator().manual_seed(1))
    output = tokenizer(vectors)
    assert output.loss is None
    assert output.losses is None
    assert torch.equal(output.codes, tokenizer.encode(vectors))
    assert torch.equal(output.reconstruction, tokenizer.decode(output.codes))
    assert torch.equal(tokenizer.train()(vectors).codes, output.codes)


def test_codes_are_the_nearest_codewords_of_each_expert():
    tokenizer = make_mpq()
    vectors = torch.randn(40, 10, generator=torch.Generator().manual_seed(1))
    weight = tokenizer.experts.projection.weight.detach().view(3, 4, 10)
    codes = tokenizer.encode(vectors)
    for number, codebook in enumerate(tokenizer.codebooks):
        latents = vectors * math.sqrt(10) @ weight[number].T / math.sqrt(4)
        assert torch.equal(codes[:, number], torch.cdist(latents, codebook).argmin(1))


def test_permuted_experts_permute_the_codes_and_leave_the_losses():
    tokenizer, order = make_mpq((7, 5, 6)).train(), [2, 0, 1]
    permuted = make_mpq((6, 7, 5), seed=1).train()
    with torch.no_grad():
        for name in ("weight", "bias"):
            rows = getattr(tokenizer.experts.projection, name).unflatten(0, (3, 4))[order].flatten(0, 1)
            getattr(permuted.experts.projection, name).copy_(rows)
            getattr(permuted.gate, name).copy_(getattr(tokenizer.gate, name)[order])
        for number, old in enumerate(order):
            permuted.get_parameter(f"codebook_{number}").copy_(tokenizer.get_parameter(f"codebook_{old}"))
        permuted.mean_gate.copy_(tokenizer.mean_gate[order])
    permuted.decoder.load_state_dict(tokenizer.decoder.state_dict())
    vectors = torch.randn(30, 10, generator=torch.Generator().manual_seed(1))
    ours, theirs = tokenizer(vectors), permuted(vectors)
    assert torch.equal(theirs.codes, ours.codes[:, order])
    torch.testing.assert_close(theirs.losses, ours.losses)
    torch.testing.assert_close(theirs.reconstruction, ours.reconstruction)
    torch.testing.assert_close(permuted.decode(theirs.codes), tokenizer.decode(ours.codes))
