"""Texts of items, and embeddings cached by content."""

import hashlib
import json
import logging

import numpy as np
import pyarrow as pa
import pytest

from hf_genrec.semantic_ids import embedding
from hf_genrec.semantic_ids.embedding import embed_texts
from hf_genrec.semantic_ids.text import item_texts


def test_texts_are_sentences_of_the_columns_that_have_something(caplog):
    items = pa.table(
        {
            "item_id": ["1", "2", "3"],
            "description": ["A cowboy  doll.\n", None, ""],
            "title": ["Toy Story (1995)", "Heat.", " "],
            "year": ["1995", "1995", None],
        }
    )
    with caplog.at_level(logging.WARNING):
        assert item_texts(items) == ["Toy Story (1995). A cowboy doll.", "Heat.", "3"]
    assert [record.getMessage() for record in caplog.records] == [
        "1 of 3 items have no text in the columns title, description; their item_id stands in for it"
    ]
    assert item_texts(items, ["year", "title"]) == ["1995. Toy Story (1995).", "1995. Heat.", "3"]


def test_missing_columns_are_named():
    items = pa.table({"item_id": ["1"], "keywords": ["red polish"]})
    with pytest.raises(
        ValueError, match="no column title or categories or description; set text_columns, from: item_id"
    ):
        item_texts(items)
    with pytest.raises(ValueError, match="no column keyword; set text_columns"):
        item_texts(items, ["keyword"])
    with pytest.raises(ValueError, match="no column item_id"):
        item_texts(items.drop_columns("item_id"))


class FakeEncoder:
    """Embeds a text as four bytes of its hash and remembers what it was asked."""

    def __init__(self):
        self.asked = []

    def encode(self, texts, **kwargs):
        self.asked.append(texts)
        return np.array([list(hashlib.md5(text.encode()).digest()[:4]) for text in texts], dtype=np.float64)


@pytest.fixture
def encoder(monkeypatch):
    fake = FakeEncoder()
    monkeypatch.setattr(embedding, "load_encoder", lambda source: fake)
    return fake


def test_only_texts_not_seen_before_are_encoded(tmp_path, encoder):
    first = embed_texts(["a", "b", "a"], "some/model", tmp_path)
    assert first.dtype == np.float32
    assert np.array_equal(first, FakeEncoder().encode(["a", "b", "a"]))
    assert np.array_equal(embed_texts(["b", "a"], "some/model", tmp_path), first[[1, 0]])
    assert encoder.asked == [["a", "b"]]
    assert np.array_equal(embed_texts(["c", "a"], "some/model", tmp_path), FakeEncoder().encode(["c", "a"]))
    assert encoder.asked == [["a", "b"], ["c"]]
    embed_texts(["a"], "other/model", tmp_path)
    assert encoder.asked[2:] == [["a"]]
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".safetensors"] * 2  # nothing temporary is left


def test_a_local_model_is_known_by_its_content(tmp_path, encoder):
    model, cache = tmp_path / "model", tmp_path / "cache"
    model.mkdir()
    (model / "weights").write_text("1")
    embed_texts(["a"], str(model), cache)
    moved = model.rename(tmp_path / "moved")
    embed_texts(["a"], str(moved), cache)
    assert len(encoder.asked) == 1
    (moved / "weights").write_text("2")
    embed_texts(["a"], str(moved), cache)
    assert len(encoder.asked) == 2


@pytest.mark.parametrize("damage", [lambda data: data[:40], lambda data: data[:-4], lambda data: b""])
def test_a_damaged_cache_is_made_again_with_a_log_line(tmp_path, encoder, caplog, damage):
    first = embed_texts(["a", "b"], "some/model", tmp_path)
    (cache,) = tmp_path.iterdir()
    cache.write_bytes(damage(cache.read_bytes()))
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(embed_texts(["a", "b"], "some/model", tmp_path), first)
    assert f"the embedding cache {cache} is damaged" in caplog.text
    embed_texts(["a", "b"], "some/model", tmp_path)
    assert len(encoder.asked) == 2


def test_no_texts_and_an_unknown_model_are_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="the catalogue is empty"):
        embed_texts([], "some/model", tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"text_model .*empty cannot be loaded \([^\n]*\); name a folder"):
        embed_texts(["a"], str(tmp_path / "empty"), tmp_path)


@pytest.mark.slow
def test_minilm_of_the_installed_package_puts_like_texts_together(tmp_path):
    vectors = embed_texts(["red nail polish", "crimson nail lacquer", "a war film of 1979"], cache_folder=tmp_path)
    assert vectors.shape == (3, 384)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.3


def test_a_text_model_that_brings_code_is_refused(tmp_path):
    modules = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    modules.append({"idx": 1, "name": "1", "path": "1", "type": "evil.Module"})
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(ValueError, match=r"modules\.json is damaged \(it names evil\.Module, which is code of its own"):
        embedding.load_encoder(str(tmp_path))
    assert not (tmp_path / "ran").exists()
