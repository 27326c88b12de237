"""RQ-VAE: residual quantization against vector-quantize-pytorch, losses and gradients by their definition."""

import math

import numpy as np
import pytest
import torch
from learned_tokenizers import make_rq_vae


@pytest.fixture
def vectors():
    return torch.randn(60, 10, generator=torch.Generator().manual_seed(1))


def test_the_same_codes_and_sums_as_vector_quantize_pytorch(vectors):
    import vector_quantize_pytorch as library

    tokenizer = make_rq_vae()
    oracle = library.ResidualVQ(dim=4, num_quantizers=3, codebook_size=7).eval()
    for layer, codebook in zip(oracle.layers, tokenizer.codebooks, strict=True):
        layer._codebook.embed.copy_(codebook[None])
        layer._codebook.initted.fill_(True)
    latents = torch.from_numpy(tokenizer.latents(vectors))
    quantized, codes, _ = oracle(latents[None])
    assert torch.equal(tokenizer.encode(vectors), codes[0])
    ours = sum(codebook[column] for codebook, column in zip(tokenizer.codebooks, codes[0].T, strict=True))
    torch.testing.assert_close(ours, quantized[0])
    torch.testing.assert_close(tokenizer.decode(codes[0]), tokenizer.decoder(quantized[0]).detach())


def test_losses_by_their_definition(vectors):
    tokenizer = make_rq_vae(commitment_weight=0.5).train()
    output = tokenizer(vectors)
    residuals, misses = tokenizer.latents(vectors).astype(np.float64), 0.0
    quantized = np.zeros_like(residuals)
    for level, codebook in enumerate(tokenizer.codebooks):
        words = codebook.numpy().astype(np.float64)
        codes = np.square(residuals[:, None] - words).sum(2).argmin(1)
        assert codes.tolist() == output.codes[:, level].tolist()
        quantized += words[codes]
        residuals = residuals - words[codes]
        misses += np.square(residuals).sum(1).mean()
    decoded = tokenizer.decoder(torch.from_numpy(quantized).float()).detach()
    torch.testing.assert_close(output.reconstruction, decoded)
    expected = {"reconstruction": float((vectors - decoded).square().sum(1).mean()), "codebook": misses}
    expected["commitment"] = misses
    assert {name: value.item() for name, value in output.losses.items()} == pytest.approx(expected, rel=1e-5)
    assert output.loss.item() == pytest.approx(expected["reconstruction"] + 1.5 * misses, rel=1e-5)


def test_straight_through_gradients_by_hand():
    """One dimension, two levels: E(v) = v, decoder(q) = 3 q, codebooks (0, 4) and (0, 1)."""
    tokenizer = make_rq_vae((2, 2), dim=1, latent_dim=1, hidden_sizes=()).train()
    with torch.no_grad():
        tokenizer.encoder.layers[0].weight.fill_(1.0)
        tokenizer.decoder.layers[0].weight.fill_(3.0)
        tokenizer.codebook_0.copy_(torch.tensor([[0.0], [4.0]]))
        tokenizer.codebook_1.copy_(torch.tensor([[0.0], [1.0]]))
    output = tokenizer(torch.tensor([[4.7]]))
    assert output.codes.tolist() == [[1, 1]]  # 4.7 = 4 + 0.7, 0.7 = 1 - 0.3
    output.loss.backward()
    by_q = 2 * (3 * 5 - 4.7) * 3
    by_latent = by_q + 0.25 * 2 * 0.7 + 0.25 * 2 * -0.3
    torch.testing.assert_close(tokenizer.encoder.layers[0].weight.grad, torch.tensor([[by_latent * 4.7]]))
    # 4 is pulled to 4.7, and not by the second level; 1 to the residual 0.7
    torch.testing.assert_close(tokenizer.codebook_0.grad, torch.tensor([[0.0], [-2 * 0.7]]))
    torch.testing.assert_close(tokenizer.codebook_1.grad, torch.tensor([[0.0], [2 * 0.3]]))
    torch.testing.assert_close(tokenizer.decoder.layers[0].weight.grad, torch.tensor([[2 * (3 * 5 - 4.7) * 5.0]]))


def test_fewer_codes_decode_the_sum_of_the_first_levels():
    tokenizer = make_rq_vae()
    first, second, _ = tokenizer.codebooks
    expected = tokenizer.decoder((first[3] + second[1])[None]).detach()
    torch.testing.assert_close(tokenizer.decode([[3, 1]]), expected)
    assert tokenizer.decode(np.zeros((0, 3), dtype=np.int64)).shape == (0, 10)


def test_the_networks_see_numbers_of_about_1():
    """Vectors of length 1 in many dimensions have small numbers; inside they are scaled by the root of the length."""
    tokenizer = make_rq_vae(dim=100, hidden_sizes=(), latent_dim=25)
    vector = torch.randn(1, 100, generator=torch.Generator().manual_seed(0))
    weight, bias = tokenizer.encoder.layers[0].weight, tokenizer.encoder.layers[0].bias
    expected = (weight @ (vector[0] * 10) + bias) / 5
    torch.testing.assert_close(torch.from_numpy(tokenizer.latents(vector))[0], expected.detach())
    assert math.isclose(tokenizer.encoder.scale_in, 10)
