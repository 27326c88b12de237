"""What every item tokenizer keeps to: codes that depend on the item alone, saved folders, Auto classes, its parts."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from learned_tokenizers import make_coba, make_letter, make_mpq, make_rq_vae
from safetensors.torch import load_file, save_file
from test_residual_kmeans import random_tokenizer
from transformers import AutoConfig, AutoModel

import hf_genrec.item_tokenizers  # noqa: F401  (makes them known to the Auto classes)
from hf_genrec.item_tokenizers import item_tokenizer, nearest_centroid
from hf_genrec.item_tokenizers.configuration_coba import CobaConfig
from hf_genrec.item_tokenizers.configuration_letter import LetterConfig
from hf_genrec.item_tokenizers.configuration_mpq import MpqConfig
from hf_genrec.item_tokenizers.configuration_rq_vae import RqVaeConfig
from hf_genrec.item_tokenizers.modeling_residual_kmeans import ResidualKMeansTokenizer

pytestmark = pytest.mark.libraries

MAKERS = {"rq_vae": make_rq_vae, "letter": make_letter, "coba": make_coba, "mpq": make_mpq}


@pytest.fixture(params=MAKERS)
def learned(request):
    return MAKERS[request.param](sizes=(30, 30, 30), dim=24, latent_dim=8)


@pytest.fixture
def vectors():
    return torch.randn(300, 24, generator=torch.Generator().manual_seed(5))


def test_an_item_gets_the_same_codes_alone_among_others_and_on_two_threads(learned, vectors, monkeypatch):
    together = learned.encode(vectors)
    assert torch.equal(together, torch.cat([learned.encode(row[None]) for row in vectors]))
    decoded = learned.decode(together)
    assert torch.equal(decoded, torch.cat([learned.decode(row[None]) for row in together]))
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert torch.equal(learned.encode(vectors), together)
    finally:
        torch.set_num_threads(threads)
    for module in (item_tokenizer, nearest_centroid):
        monkeypatch.setattr(module, "MAX_NUMBERS", 24 * 7)  # chunks of seven rows
    assert torch.equal(learned.encode(vectors.numpy()), together)
    assert learned.latents(vectors).shape[0] == 300


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), name=st.sampled_from(sorted(MAKERS)), scale=st.sampled_from([1e-3, 1.0, 1e3]))
def test_codes_are_those_of_float64(seed, name, scale):
    tokenizer = MAKERS[name](sizes=(9, 8), dim=6, latent_dim=3, seed=seed % 1000)
    vectors = torch.randn(40, 6, generator=torch.Generator().manual_seed(seed % 2**31)) * scale
    codes, latents = tokenizer.encode(vectors).numpy(), tokenizer.latents(vectors)
    for number, codebook in enumerate(tokenizer.codebooks):
        inputs, words = latents if tokenizer.ordered else latents[:, number], codebook.numpy()
        distances = np.square(inputs[:, None].astype(np.float64) - words).sum(axis=2)
        assert np.array_equal(codes[:, number], distances.argmin(axis=1))
        if tokenizer.ordered:
            latents = latents - words[codes[:, number]]


def test_training_mode_does_not_change_encode_and_decode(learned, vectors):
    codes = learned.encode(vectors)
    decoded = learned.decode(codes)
    learned.train()
    assert torch.equal(learned.encode(vectors), codes)
    assert torch.equal(learned.decode(codes), decoded)
    assert not learned.decode(codes).requires_grad
    assert not any(codebook.requires_grad for codebook in learned.codebooks)


def test_parts_are_joined_as_at_fit_time():
    tokenizer = make_mpq(dim=3, part_names=["text", "collaborative"], part_weights=[1.0, 0.5], part_dims=[2, 1])
    tokenizer.part_mean.copy_(torch.tensor([1.0, 2.0, 10.0]))
    tokenizer.part_scale.copy_(torch.tensor([2.0, 4.0]))
    text = np.array([[3.0, 2.0], [1.0, 0.0]])
    assert tokenizer.join(text=text, collaborative=np.array([[18.0], [0.0]])).tolist() == [[1, 0, 1], [0, -1, 0]]
    assert torch.equal(tokenizer.encode_parts(text=text), tokenizer.encode(tokenizer.join(text=text)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t.encode(np.zeros((2, 5))), r"shape \(2, 5\), expected \(N, 24\)"),
        (lambda t: t.latents(np.array([[0.0] * 24, [np.nan] * 24])), "row 1 holds NaN"),
        (lambda t: t.decode([[0, 0, 0], [0, 30, 0]]), r"row 1, level 1: code 30 is not in 0\.\.29"),
        (lambda t: type(t)(t.config).encode(np.zeros((1, 24))), "codebook_0 holds no values"),
        (lambda t: type(t)(t.config).join(text=np.zeros((1, 24))), "part_mean holds no values"),
    ],
)
def test_errors_name_the_place(learned, call, message):
    with pytest.raises(ValueError, match=message):
        call(learned)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MpqConfig(codebook_sizes=[3, 0]), "codebook_sizes must be one positive number"),
        (lambda: MpqConfig(latent_dim=0), "latent_dim 0 and hidden_sizes"),
        (lambda: RqVaeConfig(hidden_sizes=[8, 0]), "hidden_sizes .* must be positive"),
        (lambda: RqVaeConfig(commitment_weight=-1.0), "commitment_weight must not be negative"),
        (lambda: MpqConfig(orthogonality_weight=-1.0), "orthogonality_weight must not be negative"),
        (lambda: RqVaeConfig(input_dim=5, part_dims=[4]), "input_dim is 5"),
        (lambda: CobaConfig(balance_limit=1.5), "balance_limit=1.5: give at least 0 and at most 1"),
        (lambda: LetterConfig(sinkhorn_epsilons=[0.003]), "one number for each of 4 levels"),
        (lambda: LetterConfig(sinkhorn_epsilons=[0, 0, 0, 0.001]), "0 or at least 0.003, not 0.001"),
        (lambda: LetterConfig(diversity_weight=-1.0), "diversity_weight=-1.0: give at least 0"),
        (lambda: LetterConfig(codebook_sizes=[4, 1]), "give each codebook two at least, or set diversity_weight: 0"),
    ],
)
def test_configurations_that_do_not_fit_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("dtype", ["auto", torch.bfloat16])
def test_save_and_load_is_bit_equal_whatever_dtype_is_asked_for(learned, vectors, tmp_path, dtype):
    learned.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path, dtype=dtype)
    assert type(loaded) is type(learned)
    for name in ("codebook_sizes", "latent_dim", "hidden_sizes", "part_names", "auto_map"):
        assert getattr(loaded.config, name) == getattr(learned.config, name), name
    for name, tensor in learned.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    codes = learned.encode(vectors)
    assert torch.equal(loaded.encode(vectors), codes)
    assert torch.equal(loaded.decode(codes), learned.decode(codes))


def test_a_checkpoint_without_a_codebook_does_not_open(learned, tmp_path):
    learned.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["codebook_1"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"model\.safetensors lacks weights of the model: codebook_1: "):
        AutoModel.from_pretrained(tmp_path)


def test_a_residual_kmeans_folder_of_the_first_version_still_loads(tmp_path):
    """Its configuration had every field in a class of its own, and its weights began with the codebooks."""
    tokenizer = random_tokenizer()
    config = {
        "architectures": ["ResidualKMeansTokenizer"],
        "auto_map": {
            "AutoConfig": "configuration_residual_kmeans.ResidualKMeansConfig",
            "AutoModel": "modeling_residual_kmeans.ResidualKMeansTokenizer",
        },
        "codebook_sizes": [7, 5, 4],
        "dtype": "float32",
        "input_dim": 6,
        "model_type": "residual_kmeans",
        "part_dims": [6],
        "part_names": ["text"],
        "part_weights": [1.0],
        "projection_dim": None,
        "text_columns": None,
        "text_model": "minilm",
        "transformers_version": "5.23.0",
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    names = ("codebook_0", "codebook_1", "codebook_2", "part_mean", "part_scale")
    save_file({name: tokenizer.get_buffer(name) for name in names}, tmp_path / "model.safetensors", {"format": "pt"})
    loaded = AutoModel.from_pretrained(tmp_path)
    assert isinstance(loaded, ResidualKMeansTokenizer)
    assert loaded.config.text_model == "minilm"
    vectors = np.random.default_rng(0).normal(size=(30, 6)).astype(np.float32)
    assert torch.equal(loaded.encode(vectors), tokenizer.encode(vectors))


STRANGER = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hf_genrec":
            raise ImportError("hf_genrec is blocked")
sys.meta_path.insert(0, Blocker())
import numpy as np
from transformers import AutoConfig, AutoModel
root = sys.argv[1]
for name in ("rq_vae", "letter", "coba", "mpq"):
    config = AutoConfig.from_pretrained(f"{root}/{name}", trust_remote_code=True)
    assert config.model_type == name
    for folder in (name, f"{name}-again"):
        model = AutoModel.from_pretrained(f"{root}/{folder}", trust_remote_code=True)
        codes = model.encode_parts(text=np.load(f"{root}/vectors.npy"))
        np.savez(f"{root}/{folder}.npz", codes=codes, decoded=model.decode(codes))
        if folder == name:
            model.save_pretrained(f"{root}/{name}-again")  # what a stranger saves opens as well
assert not any(name.split(".")[0] == "hf_genrec" for name in sys.modules)
"""


def test_saved_folders_open_without_hf_genrec(tmp_path, vectors):
    tokenizers = {name: make(dim=24) for name, make in MAKERS.items()}
    for name, tokenizer in tokenizers.items():
        tokenizer.save_pretrained(tmp_path / name)
        assert {path.suffix for path in (tmp_path / name).iterdir()} == {".json", ".py", ".safetensors"}
    np.save(tmp_path / "vectors.npy", vectors.numpy())
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")}
    command = [sys.executable, "-c", STRANGER, str(tmp_path)]
    subprocess.run(command, check=True, env=environment, cwd=tmp_path, timeout=240)
    for name, tokenizer in tokenizers.items():
        codes = tokenizer.encode_parts(text=vectors)
        for folder in (name, f"{name}-again"):
            output = np.load(tmp_path / f"{folder}.npz")
            assert np.array_equal(output["codes"], codes)
            assert np.array_equal(output["decoded"], tokenizer.decode(codes))


def test_the_auto_classes_know_every_item_tokenizer(learned):
    assert isinstance(AutoModel.from_config(AutoConfig.for_model(learned.config.model_type)), type(learned))
