"""`similar_items` of every method."""

import numpy as np
import pytest
import torch
from conftest import make_model, make_processor
from tiny_rearec import tiny_rearec
from tiny_reg4rec import make_reg4rec, make_set_processor
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from hf_genrec.catalogue import similar_items as module


def models(unique=True):
    return [
        make_model(make_processor(unique=unique)),
        make_reg4rec(make_set_processor(unique=unique)),
        *([tiny_rearec()] if unique else []),
    ]


@pytest.fixture(params=range(3), ids=["trie", "sets", "scores"])
def model(request):
    return models()[request.param]


def cosines_of(model) -> torch.Tensor:
    """(N, N) in float64: of item vectors; or the mean over the levels of those of the codes."""
    if not hasattr(model.processor, "token_ids"):
        vectors = model.item_vectors()[:-1].double()
        return torch.nn.functional.cosine_similarity(vectors[:, None], vectors[None], dim=-1)
    table = model.get_input_embeddings().weight.double()
    weights = [1, 1, 1] if hasattr(model.processor, "item_sets") else [4, 2, 1]
    total = 0
    for level, weight in enumerate(weights):
        codes = table[torch.from_numpy(model.processor.token_ids[:, level])]
        total += weight * torch.nn.functional.cosine_similarity(codes[:, None], codes[None], dim=-1)
    return total / sum(weights)


def test_scores_are_the_cosines_of_all_other_items(model):
    ids, cosines = model.processor.item_ids, cosines_of(model)
    for row, (found, scores) in enumerate(zip(*model.similar_items(ids, k=len(ids)), strict=True)):
        assert sorted(found) == sorted(set(ids) - {ids[row]})
        assert scores == sorted(scores, reverse=True)
        assert scores == pytest.approx([cosines[row, ids.index(item)].item() for item in found], abs=1e-6)


def test_a_similarity_is_the_same_in_both_directions(model):
    ids = model.processor.item_ids
    lists = [dict(zip(*line, strict=True)) for line in zip(*model.similar_items(ids, k=len(ids)), strict=True)]
    for row, first in enumerate(ids):
        assert lists[row] == pytest.approx({other: lists[ids.index(other)][first] for other in lists[row]}, abs=1e-6)


@pytest.mark.parametrize("model", models(unique=False), ids=["trie", "sets"])
def test_items_with_the_same_codes_have_similarity_one(model):
    processor = model.processor
    _, group = np.unique(processor.codes, axis=0, return_inverse=True)
    row = int(np.flatnonzero(np.bincount(group)[group] > 1)[0])
    twins = {processor.item_ids[other] for other in np.flatnonzero(group == group[row])} - {processor.item_ids[row]}
    found, scores = model.similar_items(processor.item_ids[row], k=len(twins) + 1)
    assert set(found[:-1]) == twins
    assert scores[:-1] == pytest.approx([1.0] * len(twins), abs=1e-6)
    assert max(scores) <= 1
    assert scores[-1] < 0.999


def test_a_list_is_answered_item_by_item(model, monkeypatch):
    ids = model.processor.item_ids[:5]
    lists, scores = model.similar_items(ids, k=3)
    monkeypatch.setattr(module, "MAX_SCORES", 1)  # an item at a time
    assert model.similar_items(ids, k=3)[0] == lists
    for item, found, expected in zip(ids, lists, scores, strict=True):
        assert model.similar_items(item, k=3) == (found, pytest.approx(expected, abs=1e-6))
    assert model.similar_items([], k=3) == ([], [])


def test_only_candidates_are_found_and_never_the_item_itself(model):
    first, *others = model.processor.item_ids[:5]
    everything = dict(zip(*model.similar_items(first, k=10**9), strict=True))
    found, scores = model.similar_items(first, k=10**9, candidates={first, *others})
    assert sorted(found) == sorted(others)
    assert scores == pytest.approx([everything[item] for item in found], abs=1e-6)
    assert model.similar_items(first, candidates=[first]) == ([], [])


@pytest.mark.parametrize("model", models()[:2], ids=["trie", "sets"])
def test_a_new_item_is_compared_by_its_codes(model):
    before = dict(zip(*model.similar_items("item-4", k=100), strict=True))
    model.processor.add_items(["cold"], model.processor.codes[4:5])
    found, scores = model.similar_items("cold", k=1)
    assert (found, scores) == (["item-4"], [pytest.approx(1.0, abs=1e-6)])
    after = dict(zip(*model.similar_items("item-4", k=100), strict=True))
    assert after.pop("cold") == pytest.approx(1.0, abs=1e-6)
    assert after == pytest.approx(before, abs=1e-6)


def test_a_new_item_is_compared_by_its_text():
    model = tiny_rearec(backbone="morec", item_vector_size=5)
    vectors = np.random.default_rng(0).normal(size=(30, 5)).astype(np.float32)
    model.set_item_vectors(vectors)
    model.add_items(["cold"], vectors[4:5])
    assert model.similar_items("cold", k=1) == (["i4"], [pytest.approx(1.0, abs=1e-6)])
    assert "cold" in model.similar_items("i4", k=1)[0]


def test_training_goes_on_as_it_was(model):
    model.train()
    once = model.similar_items(model.processor.item_ids[0])
    assert model.similar_items(model.processor.item_ids[0]) == once  # without dropout
    assert all(part.training for part in model.modules())


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"item_ids": "nothing"}, "Item 'nothing' in item_ids is not in the catalogue"),
        ({"item_ids": ["item-1", 7]}, r"Item 7 in item_ids \(position 2, from 1\) is not a string"),
        ({"item_ids": 7}, "item_ids: 7 is no list of item ids"),
        ({"item_ids": None}, "item_ids: None is no list of item ids"),
        ({"item_ids": "item-1", "k": 0}, "k=0: give a whole number, at least 1"),
        ({"item_ids": "item-1", "candidates": []}, "candidates is empty"),
        ({"item_ids": "item-1", "candidates": ["nothing"]}, "Item 'nothing' in candidates"),
    ],
)
def test_wrong_requests(arguments, line):
    with pytest.raises(ValueError, match=line):
        models()[0].similar_items(**arguments)


def test_damaged_weights_are_said(model):
    with torch.no_grad():
        next(iter(model.parameters())).view(-1)[0] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinity"):
        model.similar_items(model.processor.item_ids[0])


def test_a_model_without_processor(model):
    model.processor = None
    with pytest.raises(ValueError, match="The model has no processor"):
        model.similar_items("item-1")


def test_it_travels_with_a_saved_model(tmp_path):
    model = models()[0]
    model.save_pretrained(tmp_path)
    opened = get_class_from_dynamic_module("modeling_care.CareForCausalLM", tmp_path).from_pretrained(tmp_path)
    assert type(opened).__module__.startswith("transformers_modules")
    assert opened.similar_items("item-3", k=4) == model.similar_items("item-3", k=4)
