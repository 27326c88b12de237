"""The residual k-means tokenizer: brute-force oracle, missing parts, and the folder opened without hf_genrec."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from hf_genrec.item_tokenizers import item_tokenizer
from hf_genrec.item_tokenizers.configuration_residual_kmeans import ResidualKMeansConfig
from hf_genrec.item_tokenizers.modeling_residual_kmeans import ResidualKMeansTokenizer
from hf_genrec.item_tokenizers.nearest_centroid import nearest_centroid


def make_tokenizer(codebooks, part_dims=None, part_names=("text",), weights=None):
    dim = codebooks[0].shape[1]
    part_dims = part_dims or [dim]
    config = ResidualKMeansConfig(
        codebook_sizes=[len(codebook) for codebook in codebooks],
        input_dim=dim,
        part_names=list(part_names),
        part_dims=list(part_dims),
        part_weights=weights or [1.0] * len(part_dims),
    )
    tokenizer = ResidualKMeansTokenizer(config)
    for level, codebook in enumerate(codebooks):
        tokenizer.get_buffer(f"codebook_{level}").copy_(torch.as_tensor(codebook))
    tokenizer.part_mean.zero_()
    tokenizer.part_scale.fill_(1.0)
    return tokenizer


def random_tokenizer(sizes=(7, 5, 4), dim=6, seed=0):
    rng = np.random.default_rng(seed)
    return make_tokenizer(
        [rng.normal(size=(size, dim)).astype(np.float32) / 2**level for level, size in enumerate(sizes)]
    )


def test_encode_is_the_nearest_centroid_of_each_residual(monkeypatch):
    monkeypatch.setattr(item_tokenizer, "MAX_NUMBERS", 7 * 10)  # chunks of ten rows
    tokenizer = random_tokenizer()
    vectors = np.random.default_rng(1).normal(size=(45, 6)).astype(np.float32)
    expected = []
    for vector in vectors:
        residual, row = vector, []
        for codebook in tokenizer.codebooks:
            distances = [sum((float(a) - float(b)) ** 2 for a, b in zip(residual, c, strict=True)) for c in codebook]
            row.append(distances.index(min(distances)))
            residual = residual - codebook[row[-1]].numpy()
        expected.append(row)
    codes = tokenizer.encode(vectors)
    assert codes.dtype == torch.int64
    assert codes.tolist() == expected


def float64_codes(vectors, codebook):
    """Brute force: every distance, pair by pair in float64."""
    apart = vectors[:, None].astype(np.float64) - codebook[None]
    return np.square(apart).sum(axis=2).argmin(axis=1)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    dim=st.integers(1, 40),
    size=st.integers(1, 30),
    scale=st.sampled_from([1e-30, 1e-20, 1e-3, 1.0, 1e4, 1e18, 1e30]),
    offset=st.sampled_from([0.0, 1.0, 1e3]),
)
def test_codes_are_those_of_float64_distances_even_where_float32_cannot_tell(seed, dim, size, scale, offset):
    """Vectors in the middle between two centroids but for a few units in the last place, and centroids that are twins;
    far from the origin float32 products say nothing, and at the extremes of float32 they overflow or vanish."""
    rng = np.random.default_rng(seed)
    codebook = rng.normal(size=(size, dim)) + offset
    codebook[rng.integers(size)] = codebook[rng.integers(size)]
    pairs = codebook[rng.integers(size, size=(50, 2))]
    middle = pairs.mean(axis=1) * (1 + 1e-7 * rng.integers(-3, 4, size=(50, 1)))
    vectors = np.concatenate([middle, rng.normal(size=(50, dim)) + offset])
    codebook, vectors = ((scale * array).astype(np.float32) for array in (codebook, vectors))
    codes = nearest_centroid(vectors, codebook)
    distances = np.square(vectors[:, None].astype(np.float64) - codebook).sum(axis=2)
    chosen = distances[np.arange(100), codes]
    # Float64 sums may themselves differ in the last places with the order in which they are taken
    assert (chosen <= distances.min(axis=1) * (1 + 1e-14)).all()
    clear = (distances <= distances.min(axis=1, keepdims=True) * (1 + 1e-14)).sum(axis=1) == 1
    assert np.array_equal(codes[clear], float64_codes(vectors, codebook)[clear])
    alone = [nearest_centroid(row[None], codebook)[0] for row in vectors]
    assert np.array_equal(codes, alone)


def test_float32_products_alone_would_give_other_codes():
    """The pairwise comparison is needed: without it some of these codes would be wrong."""
    rng = np.random.default_rng(0)
    codebook = (rng.normal(size=(20, 64)) + 100).astype(np.float32)
    vectors = (rng.normal(size=(300, 64)) + 100).astype(np.float32)
    expected = float64_codes(vectors, codebook)
    products = (np.square(codebook).sum(axis=1) / 2 - vectors @ codebook.T).argmin(axis=1)
    assert (products != expected).any()
    assert np.array_equal(nearest_centroid(vectors, codebook), expected)


def test_a_memory_map_is_encoded_as_the_array_it_holds(tmp_path, monkeypatch):
    monkeypatch.setattr(item_tokenizer, "MAX_NUMBERS", 60)  # chunks of ten rows
    tokenizer = random_tokenizer()
    vectors = np.random.default_rng(4).normal(size=(45, 6)).astype(np.float32)
    vectors[7] = 0  # missing
    np.save(tmp_path / "vectors.npy", vectors)
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    codes = tokenizer.encode(vectors)
    assert torch.equal(tokenizer.encode(mapped), codes)
    assert torch.equal(tokenizer.encode(torch.from_numpy(vectors)), codes)
    tokenizer.part_mean.fill_(0.5)
    joined = tokenizer.join(text=vectors)
    assert torch.equal(tokenizer.join(text=mapped), joined)
    assert not joined[7].any()
    assert torch.equal(tokenizer.encode_parts(text=mapped), tokenizer.encode(joined))
    assert [len(chunk["text"]) for chunk in tokenizer.chunks(text=mapped)] == [10, 10, 10, 10, 5]


def test_a_bad_row_beyond_the_first_chunk_is_named(monkeypatch):
    monkeypatch.setattr(item_tokenizer, "MAX_NUMBERS", 60)
    vectors = np.ones((45, 6), dtype=np.float32)
    vectors[33, 2] = np.inf
    for encode in (random_tokenizer().encode, lambda rows: random_tokenizer().encode_parts(text=rows)):
        with pytest.raises(ValueError, match="row 33 holds NaN or infinity"):
            encode(vectors)


def test_no_rows_have_no_codes():
    tokenizer = random_tokenizer()
    assert tokenizer.encode(np.zeros((0, 6))).shape == tokenizer.encode_parts(text=np.zeros((0, 6))).shape == (0, 3)


def test_an_item_gets_the_same_codes_alone_and_among_others():
    tokenizer = random_tokenizer(sizes=(50, 50))
    vectors = torch.randn(64, 6, generator=torch.Generator().manual_seed(2))
    together = tokenizer.encode(vectors)
    assert torch.equal(together, torch.cat([tokenizer.encode(row[None]) for row in vectors]))


def test_ties_go_to_the_lower_code():
    # 0 lies exactly between the centroids; the last two are twins
    tokenizer = make_tokenizer([np.array([[1.0], [-1.0], [5.0], [5.0]], dtype=np.float32)])
    assert tokenizer.encode(np.array([[0.0], [5.0]])).tolist() == [[0], [2]]


def test_decode_sums_centroids_and_encode_inverts_it_when_levels_are_well_apart():
    # Digits: level 0 in steps of 100, level 1 of 10, level 2 of 1, so that no residual is nearer to a neighbour
    digits = np.arange(-4, 5, dtype=np.float32)[:, None]
    tokenizer = make_tokenizer([digits * 100, digits * 10, digits])
    assert tokenizer.decode([[5, 3, 8]]).tolist() == [[100 - 10 + 4]]
    assert tokenizer.decode([[5, 3]]).tolist() == [[90]]
    codes = torch.cartesian_prod(*[torch.arange(9)] * 3)
    assert torch.equal(tokenizer.encode(tokenizer.decode(codes)), codes)


def test_forward_returns_codes_and_their_reconstruction():
    tokenizer = random_tokenizer()
    vectors = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    output = tokenizer(vectors)
    assert torch.equal(output.codes, tokenizer.encode(vectors))
    assert torch.equal(output.reconstruction, tokenizer.decode(output.codes))


def test_join_centres_scales_weights_and_fills_missing_parts_with_the_mean():
    tokenizer = make_tokenizer([np.zeros((1, 3), np.float32)], [2, 1], ("text", "collaborative"), [1.0, 0.5])
    tokenizer.part_mean.copy_(torch.tensor([1.0, 2.0, 10.0]))
    tokenizer.part_scale.copy_(torch.tensor([2.0, 4.0]))
    text = np.array([[3.0, 2.0], [1.0, 0.0]])
    # (3-1)/2 = 1, (2-2)/2 = 0; (18-10)/4 * 0.5 = 1
    assert tokenizer.join(text=text, collaborative=np.array([[18.0], [0.0]])).tolist() == [[1, 0, 1], [0, -1, 0]]
    assert tokenizer.join(text=text, collaborative=None).tolist() == [[1, 0, 0], [0, -1, 0]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t.join(image=np.zeros((1, 6))), "no part 'image'; its parts are text"),
        (lambda t: t.join(text=None), "no part was given"),
        (lambda t: t.join(text=np.zeros((2, 5))), r"part 'text' has shape \(2, 5\), expected \(2, 6\)"),
        (lambda t: t.encode(np.zeros((2, 5))), r"shape \(2, 5\), expected \(N, 6\)"),
        (lambda t: t.encode(np.array([[0.0] * 6, [np.nan] * 6])), "row 1 holds NaN"),
        (lambda t: t.decode([[0, 0, 0], [0, 5, 0]]), r"row 1, level 1: code 5 is not in 0\.\.4"),
        (lambda t: ResidualKMeansTokenizer(t.config).encode(np.zeros((1, 6))), "codebook_0 holds no values"),
    ],
)
def test_errors_name_the_place(call, message):
    with pytest.raises(ValueError, match=message):
        call(random_tokenizer())


def test_config_refuses_parts_that_do_not_make_up_the_vector():
    with pytest.raises(ValueError, match="input_dim is 5"):
        ResidualKMeansConfig(input_dim=5, part_dims=[4])
    with pytest.raises(ValueError, match="one entry per part"):
        ResidualKMeansConfig(part_names=["text", "collaborative"])
    with pytest.raises(ValueError, match="codebook_sizes must be"):
        ResidualKMeansConfig(codebook_sizes=[4, 0])


@pytest.mark.parametrize("dtype", ["auto", torch.bfloat16])
def test_save_and_load_is_bit_equal_whatever_dtype_is_asked_for(tmp_path, dtype):
    tokenizer = random_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    loaded = ResidualKMeansTokenizer.from_pretrained(tmp_path, dtype=dtype)
    for name, buffer in tokenizer.named_buffers():
        assert torch.equal(loaded.get_buffer(name), buffer), name
    assert loaded.config.part_names == ["text"]


def test_a_checkpoint_without_a_codebook_does_not_open(tmp_path):
    random_tokenizer().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["codebook_1"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"model\.safetensors lacks weights of the model: codebook_1: "):
        ResidualKMeansTokenizer.from_pretrained(tmp_path)


STRANGER = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hf_genrec":
            raise ImportError("hf_genrec is blocked")
sys.meta_path.insert(0, Blocker())
import numpy as np
from transformers import AutoConfig, AutoModel
folder, again = sys.argv[1], sys.argv[2]
config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
assert config.model_type == "residual_kmeans"
for path in (folder, again):
    model = AutoModel.from_pretrained(path, trust_remote_code=True)
    vectors = np.load(folder + "/vectors.npy")
    np.savez(path + "/out.npz", codes=model.encode(model.join(text=vectors)), **dict(model.named_buffers()))
    if path == folder:
        model.save_pretrained(again)  # what a stranger saves opens as well
assert not any(name.split(".")[0] == "hf_genrec" for name in sys.modules)
"""


def test_a_saved_folder_opens_without_hf_genrec(tmp_path):
    tokenizer = random_tokenizer()
    folder, again = tmp_path / "tokenizer", tmp_path / "again"
    tokenizer.save_pretrained(folder)
    vectors = np.random.default_rng(3).normal(size=(20, 6)).astype(np.float32)
    np.save(folder / "vectors.npy", vectors)
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")}
    subprocess.run(
        [sys.executable, "-c", STRANGER, str(folder), str(again)],
        check=True,
        env=environment,
        cwd=tmp_path,
        timeout=120,
    )
    for path in (folder, again):
        output = np.load(path / "out.npz")
        assert np.array_equal(output["codes"], tokenizer.encode(tokenizer.join(text=vectors)))
        for name, buffer in tokenizer.named_buffers():
            assert np.array_equal(output[name], buffer), name
