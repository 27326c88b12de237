"""OPQ: a rotation that loses nothing, codes of the rotated vector's parts, and less error than plain parts have."""

import itertools

import numpy as np
import pytest
import torch
from transformers import AutoModel

from hf_genrec.item_tokenizers import item_tokenizer, load_item_tokenizer
from hf_genrec.item_tokenizers.configuration_opq import OpqConfig
from hf_genrec.item_tokenizers.modeling_opq import OpqTokenizer
from hf_genrec.semantic_ids.arguments import TokenizerArguments
from hf_genrec.semantic_ids.codebooks import fit_codebooks
from hf_genrec.semantic_ids.opq import balanced_directions, fit_opq, improved
from hf_genrec.semantic_ids.parts import fit_parts

pytestmark = pytest.mark.libraries


def correlated(rows=600, dim=10, seed=0):
    """Vectors whose numbers depend on each other: what one part says, another says again."""
    rng = np.random.default_rng(seed)
    few = rng.normal(size=(rows, 4)) * [4.0, 2.0, 1.0, 0.5]
    return (few @ rng.normal(size=(4, dim)) + 0.1 * rng.normal(size=(rows, dim))).astype(np.float32)


@pytest.fixture(scope="module")
def tokenizer():
    return fit_opq({"text": correlated()}, [8, 8, 8])


@pytest.fixture
def toy():
    """Two parts of one number each, of a vector turned by an angle whose cosine is 0.6."""
    tokenizer = OpqTokenizer(OpqConfig(codebook_sizes=[2, 2], input_dim=2, part_dims=[2])).eval()
    tokenizer.rotation.copy_(torch.tensor([[0.6, -0.8], [0.8, 0.6]]))
    tokenizer.codebook_0.copy_(torch.tensor([[0.0], [5.0]]))
    tokenizer.codebook_1.copy_(torch.tensor([[0.0], [1.0]]))
    tokenizer.part_mean.zero_()
    tokenizer.part_scale.fill_(1.0)
    return tokenizer


def test_codes_and_vectors_by_hand(toy):
    # (3, 4) turns to (5, 0); (0, 1) to (0.8, 0.6)
    assert toy.encode(np.array([[3.0, 4.0], [0.0, 1.0]])).tolist() == [[1, 0], [0, 1]]
    torch.testing.assert_close(toy.decode([[1, 0], [0, 1]]), torch.tensor([[3.0, 4.0], [-0.8, 0.6]]))
    output = toy(torch.tensor([[3.0, 4.0]]))
    assert output.codes.tolist() == [[1, 0]]
    torch.testing.assert_close(output.reconstruction, torch.tensor([[3.0, 4.0]]))
    with pytest.raises(ValueError, match="there are 1 codes per item, expected 2: they have no order"):
        toy.decode([[1]])
    with pytest.raises(ValueError, match=r"row 1, level 1: code 2 is not in 0\.\.1"):
        toy.decode([[1, 0], [0, 2]])
    with pytest.raises(ValueError, match="codebook_0 holds no values"):
        OpqTokenizer(toy.config).encode(np.zeros((1, 2)))


def test_the_rotation_is_orthogonal_also_where_parts_are_padded(tokenizer):
    assert tokenizer.rotation.shape == (10, 12)
    identity = tokenizer.rotation.double() @ tokenizer.rotation.double().T
    torch.testing.assert_close(identity, torch.eye(10, dtype=torch.float64), rtol=0, atol=1e-6)
    vectors = tokenizer.join(text=correlated())
    latents = tokenizer.latents(vectors)
    assert latents.shape == (600, 3, 4)
    lengths = np.linalg.norm(latents.reshape(600, -1), axis=1)
    np.testing.assert_allclose(lengths, vectors.norm(dim=1).numpy(), rtol=1e-5)


def test_directions_are_shared_out_by_their_variances():
    """Variances 64, 16, 4, 1: the products of the two parts are equal with 64 beside 1, and 16 beside 4."""
    rng = np.random.default_rng(0)
    turned, _ = np.linalg.qr(rng.normal(size=(4, 4)))
    scores = rng.normal(size=(500, 4))
    scores, _ = np.linalg.qr(scores - scores.mean(0))
    vectors = scores * np.sqrt(500 * np.array([64.0, 16.0, 4.0, 1.0])) @ turned.T
    rotation = balanced_directions(vectors.astype(np.float32), 2, 2)
    variances = (vectors @ rotation).var(axis=0).round(2).tolist()
    assert variances == pytest.approx([64.0, 1.0, 16.0, 4.0], rel=1e-3)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("sizes", [[8, 8], [8, 8, 8], [4, 16, 8, 8]])
def test_the_error_is_below_that_of_plain_parts(seed, sizes):
    """Product quantization of the vectors as they are, by the same k-means."""
    text = correlated(dim=12, seed=seed)
    tokenizer = fit_opq({"text": text}, sizes)
    vectors = tokenizer.join(text=text)
    plain = OpqTokenizer(tokenizer.config)
    fit_parts(plain, {"text": text})
    plain.rotation.copy_(torch.eye(12))
    fit_codebooks(plain, vectors.numpy(), seed=0)
    start = OpqTokenizer(tokenizer.config)
    fit_parts(start, {"text": text})
    start.rotation.copy_(torch.from_numpy(balanced_directions(vectors.numpy(), len(sizes), 12 // len(sizes))))
    fit_codebooks(start, vectors.numpy(), seed=0)
    errors = [
        float((one(vectors).reconstruction - vectors).square().sum(1).mean()) for one in (tokenizer, start, plain)
    ]
    assert errors[0] <= errors[1] * (1 + 1e-6)
    assert errors[0] < 0.9 * errors[2]


def test_no_step_raises_the_error(tokenizer):
    vectors = tokenizer.join(text=correlated()).numpy()
    start = OpqTokenizer(tokenizer.config)
    fit_parts(start, {"text": correlated()})
    start.rotation.copy_(torch.from_numpy(balanced_directions(vectors, 3, 4)))
    fit_codebooks(start, vectors, seed=0)
    errors = []
    for steps in range(6):
        rotation, codebooks = improved(start, vectors, steps)
        step = OpqTokenizer(tokenizer.config)
        step.load_state_dict(start.state_dict())
        step.rotation.copy_(torch.from_numpy(rotation))
        for number, codebook in enumerate(codebooks):
            step.get_buffer(f"codebook_{number}").copy_(torch.from_numpy(codebook))
        error = (step(torch.from_numpy(vectors)).reconstruction - torch.from_numpy(vectors)).square().sum(1).mean()
        errors.append(float(error))
    assert all(later <= before + 1e-6 for before, later in itertools.pairwise(errors))
    assert errors[-1] < errors[0]


def test_a_fit_is_repeated_and_uses_every_code(tokenizer):
    again = fit_opq({"text": correlated()}, [8, 8, 8])
    for name, tensor in tokenizer.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    codes = tokenizer.encode_parts(text=correlated())
    assert [len(column.unique()) for column in codes.T] == [8, 8, 8]
    assert not tokenizer.ordered
    with pytest.raises(ValueError, match="level 0 has 3 distinct vectors for 8 codes"):
        fit_opq({"text": np.repeat(correlated(3), 5, axis=0)}, [8, 8])
    with pytest.raises(ValueError, match="4 codebooks for vectors of 3 numbers"):
        fit_opq({"text": correlated(dim=3)}, [8] * 4)


def test_principal_components_first():
    tokenizer = fit_opq({"text": correlated()}, [8, 8], projection_dim=4)
    assert tokenizer.rotation.shape == (4, 4)
    assert tokenizer.join(text=correlated()).shape == (600, 4)


def test_a_new_item_gets_the_same_codes_alone_and_among_others(tokenizer, monkeypatch):
    new = correlated(seed=5)[:40]
    together = tokenizer.encode_parts(text=new)
    alone = torch.cat([tokenizer.encode_parts(text=row[None]) for row in new])
    assert torch.equal(together, alone)
    monkeypatch.setattr(item_tokenizer, "MAX_NUMBERS", 10 * 7)  # chunks of seven rows
    assert torch.equal(tokenizer.encode_parts(text=new), together)
    assert tokenizer.encode(tokenizer.join(text=np.zeros((1, 10)))).shape == (1, 3)  # a missing vector: the mean


@pytest.mark.parametrize("dtype", ["auto", torch.bfloat16])
def test_save_and_load_is_bit_equal_whatever_dtype_is_asked_for(tokenizer, tmp_path, dtype):
    tokenizer.save_pretrained(tmp_path)
    for loaded in (AutoModel.from_pretrained(tmp_path, dtype=dtype), load_item_tokenizer(tmp_path)):
        assert type(loaded) is OpqTokenizer
        for name, tensor in tokenizer.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], tensor), name
        assert torch.equal(loaded.encode_parts(text=correlated()), tokenizer.encode_parts(text=correlated()))


def test_keys():
    assert TokenizerArguments(item_tokenizer="opq").codebook_sizes == [256] * 4
    assert TokenizerArguments(item_tokenizer="opq").projection_dim == 64
    assert TokenizerArguments(item_tokenizer="opq", projection_dim=None).projection_dim is None
