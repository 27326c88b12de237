"""Histories of item ids as catalogue rows, and `recommend` of models that score every item."""

import logging

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_genrec.catalogue.processing_rows import ItemProcessor, logger
from hf_genrec.decoding import recommend_by_scores as item_recommender
from hf_genrec.decoding.recommend_by_scores import best_columns
from hf_genrec.methods.rearec.modeling_rearec import ReaRecConfig, ReaRecForNextItem

pytestmark = pytest.mark.libraries

ITEMS = 15


@pytest.fixture
def processor() -> ItemProcessor:
    return ItemProcessor(max_history=4).set_catalogue(
        [f"item-{row}" for row in range(ITEMS)], [f"Title {row}" for row in range(ITEMS)], np.arange(ITEMS)
    )


@pytest.fixture
def model(processor) -> ReaRecForNextItem:
    torch.manual_seed(0)
    config = ReaRecConfig(
        num_items=ITEMS, max_history=4, hidden_size=8, intermediate_size=12, initializer_range=0.4, temperature=1.0
    )
    model = ReaRecForNextItem(config).eval()
    model.processor = processor
    return model


# ---- processor ----


def test_histories_are_padded_on_the_left_with_n(processor):
    inputs = processor(histories=[["item-3"], ["item-1", "item-2", "item-1"], []], return_tensors="pt")
    assert inputs["input_ids"].tolist() == [[15, 15, 3], [1, 2, 1], [15, 15, 15]]
    assert inputs["attention_mask"].tolist() == [[0, 0, 1], [1, 1, 1], [0, 0, 0]]
    assert processor(histories=["item-3"]) == {"input_ids": [[3]], "attention_mask": [[1]]}
    assert processor(histories=[])["input_ids"] == [[15]]


def test_long_histories_are_cut_to_the_newest_and_said_once(processor, caplog):
    logger.warning_once.cache_clear()
    long = [f"item-{row}" for row in range(9)]
    with caplog.at_level(logging.WARNING):
        assert processor(histories=long)["input_ids"] == [[5, 6, 7, 8]]
        processor(histories=long)
    assert caplog.text.count("cut to their newest 4") == 1


def test_save_and_load(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    again = ItemProcessor.from_pretrained(tmp_path)
    assert (again.item_ids, again.titles, again.max_history) == (processor.item_ids, processor.titles, 4)
    assert np.array_equal(again.popularity, processor.popularity)
    assert again.title("item-3") == "Title 3"
    assert again(histories=["item-3"]) == processor(histories=["item-3"])
    assert not list(tmp_path.glob("*token*"))


@pytest.mark.parametrize("name", ["catalogue.json", "catalogue.safetensors"])
def test_damaged_and_missing_files_are_named(processor, tmp_path, name):
    processor.save_pretrained(tmp_path)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        ItemProcessor.from_pretrained(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(OSError, match=name.replace(".", r"\.")):
        ItemProcessor.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([],), "catalogue is empty"),
        ((["a", "a"],), "Item 'a' stands twice"),
        ((["a", "b"], ["A"]), "1 titles for 2 items"),
        ((["a", "b"], None, [1, 2, 3]), "popularity has shape"),
    ],
)
def test_catalogues_that_make_no_sense(arguments, message):
    with pytest.raises(ValueError, match=message):
        ItemProcessor().set_catalogue(*arguments)


def test_other_mistakes(processor):
    with pytest.raises(ValueError, match="no catalogue"):
        ItemProcessor()(histories=[["a"]])
    with pytest.raises(ValueError, match="histories="):
        processor(text="hello")
    with pytest.raises(ValueError, match="'nobody' in the history is not in the catalogue"):
        processor(histories=["nobody"])


# ---- recommend ----


def brute_force(model, history, allowed, k):
    """Rows by exact score, equal scores in catalogue order."""
    scores = model.score_items(history)
    order = np.argsort(-scores.numpy(), kind="stable")
    ids = model.processor.item_ids
    return [(ids[row], scores[row].item()) for row in order if ids[row] in allowed][:k]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_recommend_equals_sorting_all_scores(data):
    torch.manual_seed(data.draw(st.integers(0, 3)))
    config = ReaRecConfig(
        num_items=ITEMS, max_history=4, hidden_size=8, intermediate_size=12, initializer_range=0.4, reasoning="erl"
    )
    model = ReaRecForNextItem(config)
    if data.draw(st.booleans()):  # equal items: equal scores
        with torch.no_grad():
            model.model.items.embeddings.weight[:ITEMS] = model.model.items.embeddings.weight[
                torch.randint(4, (ITEMS,))
            ]
    model.processor = ItemProcessor(4).set_catalogue([f"item-{row}" for row in range(ITEMS)])
    items = st.sampled_from(model.processor.item_ids)
    histories = data.draw(st.lists(st.lists(items, max_size=6), min_size=1, max_size=5))
    candidates = data.draw(st.none() | st.lists(items, min_size=1))
    exclude_seen, k = data.draw(st.booleans()), data.draw(st.integers(1, ITEMS + 2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(item_recommender, "MAX_SCORES", data.draw(st.sampled_from([1, 20, 2**23])))
        found, scores = model.recommend(histories, k, exclude_seen, candidates, batch_size=data.draw(st.integers(1, 3)))
    for history, line, line_scores in zip(histories, found, scores, strict=True):
        allowed = set(model.processor.item_ids if candidates is None else candidates)
        allowed -= set(history if exclude_seen else [])
        expected = brute_force(model, history, allowed, k)
        assert len(line) == len(set(line)) == min(k, len(allowed))
        assert line_scores == pytest.approx([score for _, score in expected], abs=1e-4, rel=1e-5)
        exact = dict(zip(model.processor.item_ids, model.score_items(history).tolist(), strict=True))
        assert line_scores == pytest.approx([exact[item_id] for item_id in line], abs=1e-4, rel=1e-5)
    rows, _ = model.recommend_rows([model.processor.rows(history) for history in histories], k)
    assert rows.shape == (len(histories), min(k, ITEMS))
    assert (rows >= 0).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(-2, 2), min_size=12, max_size=12), min_size=1, max_size=4), st.integers(1, 14))
def test_ties_go_to_the_lower_row(lines, k):
    scores = torch.tensor(lines).float()
    scores[scores == -2] = -torch.inf
    values, columns = best_columns(scores, k)
    for line, found, found_values in zip(scores.numpy(), columns.tolist(), values.tolist(), strict=True):
        allowed = int(np.isfinite(line).sum())
        expected = np.argsort(-line, kind="stable")[:k]
        assert found[:allowed] == expected[:allowed].tolist()
        assert found_values == line[expected].tolist()


@pytest.mark.parametrize("chunk", [1, 7, 2**23])
def test_ties_across_chunks_go_to_the_lower_row(chunk, monkeypatch):
    monkeypatch.setattr(item_recommender, "MAX_SCORES", chunk)
    items = torch.ones(10, 2)
    items[7] = 2
    places, values = ReaRecForNextItem._best(torch.ones(3, 2), items, 4)
    assert places.tolist() == [[7, 0, 1, 2]] * 3
    assert values.tolist() == [[4, 2, 2, 2]] * 3


def test_scores_are_the_logits(model, processor):
    histories = [["item-3", "item-9"], [], ["item-1"]]
    logits = model(**processor(histories=histories, return_tensors="pt")).logits
    torch.testing.assert_close(model.score_items(histories), logits, rtol=1e-5, atol=1e-5)
    chosen = model.score_items(histories[0], ["item-12", "item-0"])
    torch.testing.assert_close(chosen, logits[0, [12, 0]], rtol=1e-5, atol=1e-5)
    model.num_steps = 1
    fewer = model(**processor(histories=histories, return_tensors="pt"), num_steps=1).logits
    torch.testing.assert_close(model.score_items(histories), fewer, rtol=1e-5, atol=1e-5)


def test_a_single_history_gives_flat_lists(model):
    item_ids, scores = model.recommend(["item-3"], k=4)
    assert len(item_ids) == len(scores) == 4
    assert isinstance(item_ids[0], str)
    assert model.recommend([], k=4)[0] == model.recommend([[]], k=4)[0][0]


def test_an_empty_history_is_the_same_alone_and_in_a_batch(model):
    alone, together = model.score_items([]), model.score_items([[], ["item-1", "item-2", "item-3"]])[0]
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-5)


def test_the_mode_is_kept_and_dropout_off(model):
    model.train()
    assert model.recommend(["item-3"]) == model.recommend(["item-3"])
    assert torch.equal(model.score_items(["item-3"]), model.score_items(["item-3"]))
    assert model.training


def test_unknown_items(model, caplog):
    with pytest.raises(ValueError, match="'nobody' in the history"):
        model.recommend(["item-1", "nobody"])
    with pytest.raises(ValueError, match="in candidates"):
        model.recommend(["item-1"], candidates=["nobody"])
    with caplog.at_level(logging.WARNING):
        assert model.recommend(["item-1", "nobody"], unknown="skip") == model.recommend(["item-1"])
    assert "1 unknown item(s) left out" in caplog.text


def test_arguments_that_make_no_sense(model):
    for arguments in ({"k": 0}, {"candidates": []}):
        with pytest.raises(ValueError, match="at least 1"):
            model.recommend(["item-1"], **arguments)
    model.processor = None
    with pytest.raises(ValueError, match=r"set model\.processor = ItemProcessor"):
        model.recommend(["item-1"])
