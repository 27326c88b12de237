"""From an item table to semantic IDs, and new items into the same catalogue."""

import numpy as np
import pyarrow as pa
import pytest
from tiny_rearec import tiny_rearec

from hf_genrec.catalogue.processing_rows import ItemProcessor
from hf_genrec.semantic_ids import embedding
from hf_genrec.semantic_ids.arguments import TokenizerArguments
from hf_genrec.semantic_ids.build import (
    assign_semantic_ids,
    encode_new_items,
    item_collaborative_vectors,
    item_parts,
)
from hf_genrec.semantic_ids.residual_kmeans import fit_residual_kmeans

WORDS = ["red", "blue", "green", "nail", "lip", "hair", "oil", "soap"]


class BagOfWords:
    def encode(self, texts, **kwargs):
        return np.array([[text.count(word) + 0.01 for word in WORDS] for text in texts], dtype=np.float32)


@pytest.fixture(autouse=True)
def _encoder(monkeypatch):
    monkeypatch.setattr(embedding, "load_encoder", lambda source: BagOfWords())


def catalogue(count=40):
    titles = [f"{WORDS[i % 3]} {WORDS[3 + i % 5]} {WORDS[7] * (i % 2)}" for i in range(count)]
    return pa.table({"item_id": [f"i{row}" for row in range(count)], "title": titles})


def sequences(count=38):
    """Even users take even items, odd users odd ones; the last two of 40 items are never seen."""
    rng = np.random.default_rng(0)
    return [rng.permutation(np.arange(user % 2, count, 2))[:8] for user in range(60)]


def build_semantic_ids(items, train_sequences, arguments, embedding_cache):
    """(semantic IDs, tokenizer, health)"""
    parts = item_parts(items, train_sequences, arguments, embedding_cache)
    weights = arguments.part_weights
    tokenizer = fit_residual_kmeans(parts, arguments.codebook_sizes, weights, text_model=arguments.text_model)
    ids, health = assign_semantic_ids(items, parts, tokenizer, arguments)
    return ids, tokenizer, health


def arguments(**changes):
    return TokenizerArguments(**{"text_model": "words", "codebook_sizes": [4, 16]} | changes)


@pytest.mark.parametrize("vectors", ["text", "collaborative", "both", "propagated"])
@pytest.mark.parametrize("policy", ["resolve", "extra_code", "keep"])
def test_every_item_gets_codes_and_two_builds_agree(tmp_path, vectors, policy):
    settings = arguments(vectors=vectors, collisions=policy, collaborative_dim=6)
    ids, tokenizer, health = build_semantic_ids(catalogue(), sequences(), settings, tmp_path)
    again, _, _ = build_semantic_ids(catalogue(), sequences(), settings, tmp_path)
    assert np.array_equal(ids.codes, again.codes)
    assert ids.item_ids == catalogue().column("item_id").to_pylist()
    assert health["items"] == 40
    assert health["collisions"]["policy"] == policy
    if policy != "keep":
        assert health["unique_ids"] == 40
    levels = 3 if policy == "extra_code" else 2
    assert ids.codes.shape == (40, levels)
    names = {"both": ["text", "collaborative"], "propagated": ["text"]}
    assert tokenizer.config.part_names == names.get(vectors, [vectors])
    assert ids.report["item_tokenizer"] == "residual_kmeans"


@pytest.mark.parametrize("vectors", ["both", "propagated"])
def test_an_item_never_seen_in_training_is_encoded_later_as_it_was_at_fit_time(tmp_path, vectors):
    settings = arguments(vectors=vectors, collisions="keep", collaborative_dim=6)
    ids, tokenizer, _ = build_semantic_ids(catalogue(), sequences(), settings, tmp_path)
    twin = pa.table({"item_id": ["new"], "title": [catalogue()["title"][39].as_py()]})
    grown = encode_new_items(tokenizer, ids, twin, embedding_cache=tmp_path)
    assert grown.codes[40].tolist() == ids.codes[39].tolist()


@pytest.mark.parametrize("policy", ["resolve", "extra_code"])
def test_new_items_are_appended_unique_and_leave_the_old_codes_alone(tmp_path, policy):
    ids, tokenizer, _ = build_semantic_ids(
        catalogue(20), [], arguments(codebook_sizes=[3, 8], collisions=policy), tmp_path
    )
    new = pa.table({"item_id": ["n0", "n1", "n2"], "title": ["red nail ", "red nail ", "blue soap"]})
    grown = encode_new_items(tokenizer, ids, new, "words", ["title"], tmp_path)
    assert grown.item_ids == [*ids.item_ids, "n0", "n1", "n2"]
    assert np.array_equal(grown.codes[:20], ids.codes)
    assert len(np.unique(grown.codes, axis=0)) == 23
    assert grown.codebook_sizes == ids.codebook_sizes  # what a trained model's vocabulary has
    with pytest.raises(ValueError, match="item 'n0' has semantic IDs already"):
        encode_new_items(tokenizer, grown, new, embedding_cache=tmp_path)


def test_what_cannot_be_built_is_refused(tmp_path):
    with pytest.raises(ValueError, match="the catalogue is empty"):
        build_semantic_ids(catalogue(0), [], arguments(), tmp_path)
    with pytest.raises(ValueError, match=r"level 0 has 5 distinct vectors for 6 codes; lower codebook_sizes\[0\]"):
        build_semantic_ids(catalogue(5), [], arguments(codebook_sizes=[6]), tmp_path)
    settings = arguments(vectors="collaborative", collaborative_dim=6)
    ids, tokenizer, _ = build_semantic_ids(catalogue(), sequences(), settings, tmp_path)
    with pytest.raises(ValueError, match="fitted without text"):
        encode_new_items(tokenizer, ids, catalogue(1), embedding_cache=tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vectors": "sound"}, "vectors must be one of text, collaborative, both, propagated, image, not 'sound'"),
        ({"collisions": "drop"}, "collisions must be one of resolve, extra_code, spread, keep, not 'drop'"),
        ({"codebook_sizes": []}, "codebook_sizes must be one positive number per codebook"),
        ({"text_columns": []}, "text_columns is empty"),
        ({"collaborative_window": 0}, "collaborative_window must be at least 1"),
        ({"collaborative_weight": 0.0}, "collaborative_weight must be positive"),
    ],
)
def test_arguments_say_what_to_do(changes, message):
    with pytest.raises(ValueError, match=message):
        TokenizerArguments(**changes)


# ---- vectors of a trained recommender ----


def saved_recommender(folder, items, train_sequences):
    model = tiny_rearec("none", num_items=items.num_rows)
    counts = np.bincount(np.concatenate(train_sequences), minlength=items.num_rows)
    model.processor = ItemProcessor(9).set_catalogue(items.column("item_id").to_pylist(), popularity=counts)
    model.save_pretrained(folder / "model")
    return model


def test_vectors_of_a_recommender_stand_in_for_cooccurrence(tmp_path):
    items, train_sequences = catalogue(), sequences()
    model = saved_recommender(tmp_path / "run", items, train_sequences)
    settings = arguments(vectors="both", collaborative_run=str(tmp_path / "run"))
    parts = item_parts(items, train_sequences, settings, tmp_path)
    vectors = model.item_vectors()[:-1].detach().numpy()
    expected = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(parts["collaborative"][:38], expected[:38], rtol=1e-6)
    assert not parts["collaborative"][38:].any()  # never seen in training
    letter = arguments(item_tokenizer="letter", collaborative_run=str(tmp_path / "run"))
    assert item_parts(items, train_sequences, letter, tmp_path).keys() == {"text"}
    read = item_collaborative_vectors(items, train_sequences, letter)
    assert np.array_equal(read, parts["collaborative"])
    ids, _, health = build_semantic_ids(items, train_sequences, settings, tmp_path)
    assert health["unique_ids"] == 40
    with_text, _, _ = build_semantic_ids(items, train_sequences, arguments(), tmp_path)
    assert not np.array_equal(ids.codes, with_text.codes)


def test_recommenders_that_do_not_fit(tmp_path):
    items, train_sequences = catalogue(), sequences()
    saved_recommender(tmp_path / "run", items, train_sequences)

    def parts(run="run", items=items, train_sequences=train_sequences):
        return item_parts(items, train_sequences, arguments(vectors="both", collaborative_run=str(tmp_path / run)))

    with pytest.raises(ValueError, match="holds no model; train one with method: rearec"):
        parts(run="nowhere")
    (tmp_path / "care/model").mkdir(parents=True)
    (tmp_path / "care/model/config.json").write_text('{"model_type": "care"}')
    with pytest.raises(ValueError, match="a model of type care; it must be one of rearec"):
        parts(run="care")
    with pytest.raises(ValueError, match="another catalogue"):
        parts(items=items.slice(0, 39))
    with pytest.raises(ValueError, match="other interactions"):  # as if a test item had been trained on
        parts(train_sequences=[*train_sequences[:-1], np.append(train_sequences[-1], 3)])
    with pytest.raises(ValueError, match="vectors: text leaves out"):
        arguments(collaborative_run="run")
    with pytest.raises(ValueError, match="vectors: propagated leaves out"):
        arguments(collaborative_run="run", vectors="propagated")
    arguments(collaborative_run="run", item_tokenizer="letter")
