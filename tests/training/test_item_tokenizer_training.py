"""Training item tokenizers: errors fall, codes stay in use, seeds repeat; `hf-genrec tokenize` for every tokenizer."""

import json
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
import torch
from conftest import run_command
from transformers import AutoModel

import hf_genrec.item_tokenizers  # noqa: F401  (makes them known to the Auto classes)
from hf_genrec.semantic_ids import embedding, learned
from hf_genrec.semantic_ids.arguments import TokenizerArguments
from hf_genrec.semantic_ids.build import assign_semantic_ids, encode_new_items, item_parts
from hf_genrec.semantic_ids.codebooks import fill_unused
from hf_genrec.semantic_ids.health import health_report
from hf_genrec.semantic_ids.ids import SemanticIds
from hf_genrec.semantic_ids.learned import build_learned_tokenizer, start_experts
from hf_genrec.training import item_tokenizer as item_tokenizer_training
from hf_genrec.training.item_tokenizer import train_item_tokenizer

pytestmark = pytest.mark.libraries

LEARNED = ["rq_vae", "letter", "coba", "mpq"]


def clustered(rows=400, dim=16, seed=0):
    """Vectors around the 30 sums of one of 5 and one of 6 centres."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(5, 1, dim)) + rng.normal(size=(1, 6, dim))
    which = rng.integers(30, size=rows)
    return (centres.reshape(30, dim)[which] + 0.1 * rng.normal(size=(rows, dim))).astype(np.float32)


def arguments(name, **changes):
    settings = {
        "item_tokenizer": name,
        "codebook_sizes": [8, 8, 8],
        "latent_dim": 12,
        "collaborative_dim": 12,
        "tokenizer_epochs": 30,
        "tokenizer_batch_size": 64,
    }
    return TokenizerArguments(**settings | changes)


def train(settings, parts=None):
    parts = parts or {"text": clustered()}
    return train_item_tokenizer(parts, settings, collaborative(len(parts["text"])), use_cpu=True, disable_tqdm=True)


def collaborative(rows=400):
    """Of length 1, in two halves by no property of the text; every tenth item has none."""
    vectors = np.zeros((rows, 12), dtype=np.float32)
    vectors[np.arange(rows), np.arange(rows) % 2] = 1.0
    vectors[::10] = 0.0
    return vectors


def error(tokenizer, codes):
    vectors = tokenizer.join(text=clustered())
    return float((vectors - tokenizer.decode(codes)).square().sum() / vectors.square().sum())


@pytest.mark.parametrize("name", LEARNED)
def test_training_lowers_the_error_and_uses_every_code(name):
    tokenizer, record = train(arguments(name))
    codes = tokenizer.encode_parts(text=clustered())
    assert all(len(column.unique()) == 8 for column in codes.T)
    assert error(tokenizer, codes) < 0.25
    lines = [line for line in record["log"] if "loss" in line]
    assert lines[-1]["loss_reconstruction"] < 0.5 * lines[0]["loss_reconstruction"]
    terms = lines[-1]
    total = terms["loss_reconstruction"] + terms["loss_codebook"] + 0.25 * terms["loss_commitment"]
    total += 0.001 * terms.get("loss_orthogonality", 0)
    total += 0.0001 * terms.get("loss_diversity", 0) + 0.01 * terms.get("loss_alignment", 0)
    total += 0.1 * terms.get("loss_uniformity", 0)
    assert terms["loss"] == pytest.approx(total, rel=1e-3)
    assert record["steps"] == 30 * 7
    assert not tokenizer.training


@pytest.mark.parametrize("name", LEARNED)
def test_a_seed_repeats_the_weights_and_another_gives_others(name):
    settings = arguments(name, tokenizer_epochs=3)
    (first, _), (second, _) = (train(settings) for _ in range(2))
    for key, tensor in first.state_dict().items():
        assert torch.equal(second.state_dict()[key], tensor), key
    other, _ = train(arguments(name, tokenizer_epochs=3, tokenizer_seed=1))
    assert not torch.equal(other.codebooks[0], first.codebooks[0])


@pytest.mark.parametrize("name", LEARNED)
def test_codes_that_died_are_revived_from_the_data(name):
    torch.manual_seed(0)
    tokenizer = build_learned_tokenizer({"text": clustered()}, arguments(name))
    vectors = tokenizer.join(text=clustered()).numpy()
    assert all(len(column.unique()) == 8 for column in tokenizer.encode(vectors).T)  # k-means leaves none unused
    with torch.no_grad():
        tokenizer.codebook_1[2:5] = 1e3
    assert len(tokenizer.encode(vectors)[:, 1].unique()) <= 5
    assert fill_unused(tokenizer, vectors) >= 3
    assert all(len(column.unique()) == 8 for column in tokenizer.encode(vectors).T)
    assert fill_unused(tokenizer, vectors) == 0
    latents = tokenizer.latents(vectors)
    if tokenizer.ordered:
        first = tokenizer.codebooks[0].numpy()
        latents = np.stack([latents, latents - first[tokenizer.encode(vectors)[:, 0]]], axis=1)
    for code in tokenizer.codebook_1[2:5].detach().numpy():
        assert (latents[:, 1] == code).all(axis=1).any()  # the revived codewords are latents of items


@pytest.mark.parametrize("name", LEARNED)
def test_fewer_items_than_codes_is_refused_with_the_remedy(name):
    with pytest.raises(ValueError, match=r"level 0 has 5 distinct vectors for 8 codes; lower codebook_sizes\[0\]"):
        train(arguments(name), {"text": clustered(5)})


def test_experts_start_from_principal_directions_of_their_own():
    torch.manual_seed(0)
    tokenizer = build_learned_tokenizer({"text": clustered()}, arguments("mpq"))
    start_experts(tokenizer, {"text": clustered()})
    vectors = tokenizer.join(text=clustered()).double()
    directions = torch.linalg.eigh(vectors.T @ vectors).eigenvectors.flip(1)
    weight = tokenizer.experts.projection.weight.detach().double().view(3, 12, 16)
    for number in range(12):
        cosines = torch.nn.functional.cosine_similarity(weight[:, number], directions[:, number][None]).abs()
        assert cosines[number % 3] > 0.99
        lengths = weight[:, number].norm(dim=1)
        assert (lengths > 0.5).tolist() == [expert == number % 3 for expert in range(3)]


def test_the_alignment_loss_brings_who_consumes_an_item_into_its_codes():
    """Of two halves of the items that the text tells apart by little: codes of few words leave that out."""
    half = np.arange(400)[:, None] % 2
    parts = {"text": np.concatenate([clustered(), 0.5 * half], axis=1).astype(np.float32)}
    apart = []
    for weight in (0.0, 1.0):
        tokenizer, record = train(arguments("letter", alignment_weight=weight, codebook_sizes=[8, 8]), parts)
        vectors = torch.nn.functional.normalize(sum(tokenizer._codewords(tokenizer.encode_parts(**parts))), dim=1)
        apart.append((vectors[0::2].mean(dim=0) - vectors[1::2].mean(dim=0)).norm().item())
    assert apart[1] > 1.5 * apart[0]
    lines = [line["loss_alignment"] for line in record["log"] if "loss_alignment" in line]
    assert lines[-1] < lines[0] - 0.1  # log(29) at best: the others of the half are as near


def test_the_diversity_loss_spreads_the_use_of_codes(monkeypatch):
    """Two thirds of the items are around one centre, and no code is put to use by hand."""
    for module in (item_tokenizer_training, learned):
        monkeypatch.setattr(module, "fill_unused", lambda *args: 0)
    vectors = clustered()
    vectors[:260] = vectors[0] + 0.3 * np.random.default_rng(0).normal(size=(260, 16))
    healths = []
    for weight in (0.0, 0.01):
        weights = {"alignment_weight": 0.0, "diversity_weight": weight, "sinkhorn_epsilon": 0.0}
        settings = arguments("letter", codebook_sizes=[24, 24], tokenizer_epochs=20, **weights)
        tokenizer, _ = train(settings, {"text": vectors})
        codes = tokenizer.encode_parts(text=vectors).numpy()
        healths.append(health_report(SemanticIds([str(row) for row in range(400)], codes, [24, 24])))
    assert healths[1]["levels"][0]["perplexity"] > 1.1 * healths[0]["levels"][0]["perplexity"]
    assert healths[1]["unique_ids"] > healths[0]["unique_ids"]


def test_balancing_spreads_the_use_of_codes(monkeypatch):
    """Two thirds of the items are around one centre, and no code is put to use by hand."""
    for module in (item_tokenizer_training, learned):
        monkeypatch.setattr(module, "fill_unused", lambda *args: 0)
    vectors = clustered()
    vectors[:260] = vectors[0] + 0.3 * np.random.default_rng(0).normal(size=(260, 16))
    healths = []
    for name in ("rq_vae", "coba"):
        settings = arguments(name, codebook_sizes=[24, 24], tokenizer_epochs=60)
        tokenizer, _ = train(settings, {"text": vectors})
        codes = tokenizer.encode_parts(text=vectors).numpy()
        healths.append(health_report(SemanticIds([str(row) for row in range(400)], codes, [24, 24])))
    plain, balanced = healths
    for level in range(2):
        assert balanced["levels"][level]["perplexity"] > 1.1 * plain["levels"][level]["perplexity"]
    assert balanced["unique_ids"] > 1.1 * plain["unique_ids"]


def test_collaborative_vectors_of_another_length_are_refused():
    with pytest.raises(ValueError, match="latent_dim is 10 and these have 12 numbers: set latent_dim: 12"):
        train(arguments("letter", latent_dim=10, collaborative_dim=10))


@pytest.mark.parametrize("name", LEARNED)
@pytest.mark.parametrize("policy", ["resolve", "extra_code", "keep"])
def test_new_items_get_codes_without_training(name, policy, monkeypatch, tmp_path):
    """A new item with the text of an old one gets the old one's codes where they may be shared, else others."""
    vectors = dict(zip(("a", "b", "c"), clustered(3, seed=7), strict=True))
    vectors |= {f"t{row}": vector for row, vector in enumerate(clustered(60))}

    class Encoder:
        def encode(self, texts, **kwargs):
            return np.stack([vectors[text.removesuffix(".")] for text in texts])

    monkeypatch.setattr(embedding, "load_encoder", lambda source: Encoder())
    settings = arguments(
        name, collisions=policy, vectors="text", text_model="words", codebook_sizes=[8, 12], tokenizer_epochs=3
    )
    items = pa.table({"item_id": [f"i{row}" for row in range(60)], "title": [f"t{row}" for row in range(60)]})
    parts = item_parts(items, [], settings, tmp_path)
    tokenizer, _ = train(settings, parts)
    ids, _ = assign_semantic_ids(items, parts, tokenizer, settings)
    new = pa.table({"item_id": ["n0", "n1", "n2"], "title": ["a", "t5", "b"]})
    grown = encode_new_items(tokenizer, ids, new, embedding_cache=tmp_path)
    assert np.array_equal(grown.codes[:60], ids.codes)
    if policy == "keep":
        assert np.array_equal(grown.codes[61], ids.codes[5])
    else:
        assert len(np.unique(grown.codes, axis=0)) == 63


def test_arguments_that_do_not_fit_are_refused():
    with pytest.raises(
        ValueError, match="item_tokenizer must be one of residual_kmeans, rq_vae, letter, coba, mpq, opq, not 'vae'"
    ):
        TokenizerArguments(item_tokenizer="vae")
    with pytest.raises(ValueError, match="projection_dim 32 is for residual_kmeans"):
        TokenizerArguments(item_tokenizer="mpq", projection_dim=32)
    with pytest.raises(ValueError, match="tokenizer_epochs must be at least 1"):
        TokenizerArguments(tokenizer_epochs=0)
    with pytest.raises(ValueError, match="tokenizer_learning_rate must be positive"):
        TokenizerArguments(tokenizer_learning_rate=0.0)
    with pytest.raises(ValueError, match="latent_dim is 64 and collaborative_dim 32: set both to the same"):
        TokenizerArguments(item_tokenizer="letter", collaborative_dim=32)
    TokenizerArguments(item_tokenizer="letter", collaborative_dim=32, alignment_weight=0.0)
    with pytest.raises(ValueError, match=r"sinkhorn_epsilon must be 0 or at least 0\.003, not 0\.001"):
        TokenizerArguments(sinkhorn_epsilon=0.001)
    with pytest.raises(ValueError, match="diversity_weight must not be negative"):
        TokenizerArguments(diversity_weight=-1.0)
    assert TokenizerArguments(item_tokenizer="mpq").codebook_sizes == [300] * 8
    assert TokenizerArguments(item_tokenizer="rq_vae").codebook_sizes == [256] * 4
    assert TokenizerArguments().codebook_sizes == [256] * 3
    assert TokenizerArguments().vectors == "text"
    assert TokenizerArguments(item_tokenizer="coba").vectors == "propagated"


def test_tokenize_ends_in_the_same_folder_for_every_item_tokenizer(own_data, monkeypatch, capsys):
    """One after another in one run folder: nothing of the tokenizer before is left."""
    run = own_data / "tokenized"
    shared = ["--config", own_data / "mine.yaml", "--output_dir", run]
    run_command(monkeypatch, capsys, "prepare", *shared)
    before = None
    for name in ("mpq", "letter", "coba", "rq_vae", "opq", "residual_kmeans"):
        options = ["--item_tokenizer", name, "--tokenizer_epochs", 2, "--latent_dim", 6, "--collaborative_dim", 6]
        run_command(monkeypatch, capsys, "tokenize", *shared, *options)
        folder = run / "semantic_ids"
        ids = SemanticIds.load(folder)
        assert ids.codes.shape == (24, 3)
        assert len(np.unique(ids.codes, axis=0)) == 24
        assert ids.report["item_tokenizer"] == name
        health = json.loads((folder / "health.json").read_text())
        assert ("reconstruction_error" in health) == (name in ("mpq", "opq"))
        files = {path.name for path in folder.iterdir()} - {"item_tokenizer"}
        assert files == {"semantic_ids.safetensors", "semantic_ids.json", "health.json", "health.png"}
        assert ("training" in health) == (name not in ("opq", "residual_kmeans"))
        tokenizer = AutoModel.from_pretrained(folder / "item_tokenizer")
        assert tokenizer.config.model_type == name
        assert tokenizer.ordered == ids.report["ordered"] == (name not in ("mpq", "opq"))
        code = {path.stem for path in (folder / "item_tokenizer").glob("*.py")}
        assert {f"modeling_{name}", f"configuration_{name}"} <= code
        assert before is None or f"modeling_{before}" not in code
        before = name
    codes_path = own_data / "published.tsv"
    codes_path.write_text("".join(f"f{row:02d}\t<a_{row}> <b_0>\n" for row in range(24)))
    run_command(monkeypatch, capsys, "tokenize", *shared, "--codes_path", codes_path)
    assert not (folder / "item_tokenizer").exists()
    assert SemanticIds.load(folder).codes.shape == (24, 2)


@pytest.mark.slow  # four programs, each loading torch
def test_two_processes_train_what_one_trains(own_data):
    """The same order of the items, half a batch each."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    program = ["-m", "hf_genrec.trainers.train_item_tokenizer"]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    tokenizers = []
    for launch, name, batch in (([], "alone", 12), (launcher, "two", 6)):
        shared = ["--config", str(own_data / "mine.yaml"), "--output_dir", str(own_data / name)]
        options = ["--item_tokenizer", "mpq", "--tokenizer_epochs", "3", "--tokenizer_batch_size", str(batch)]
        prepare = ["-m", "hf_genrec.trainers.prepare_data", *shared]
        for command in (prepare, [*launch, *program, *shared, *options]):
            subprocess.run([sys.executable, *command], check=True, capture_output=True, env=environment)
        folder = own_data / name / "semantic_ids"
        assert len(SemanticIds.load(folder)) == 24
        assert json.loads((folder / "health.json").read_text())["training"]["steps"] == 6
        tokenizers.append(AutoModel.from_pretrained(folder / "item_tokenizer"))
    alone, two = (tokenizer.state_dict() for tokenizer in tokenizers)
    for key in alone:
        torch.testing.assert_close(two[key], alone[key], atol=1e-4, rtol=1e-3)
