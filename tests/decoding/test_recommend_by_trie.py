"""`recommend`, `score_items` and `generate` against each other and against brute force."""

import logging

import numpy as np
import pytest
import torch
from conftest import make_model, make_processor
from hypothesis import given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.libraries


def brute_force(model, history, allowed=None):
    """All items by exact score, best first."""
    scores = model.score_items(history)
    ranked = sorted(range(len(scores)), key=lambda row: -scores[row].item())
    ids = model.processor.item_ids
    return [(ids[row], scores[row].item()) for row in ranked if allowed is None or ids[row] in allowed]


def test_a_beam_as_wide_as_the_catalogue_is_exact(model, histories):
    item_ids, scores = model.recommend(histories, k=40)
    for history, found, found_scores in zip(histories, item_ids, scores, strict=True):
        expected = brute_force(model, history)
        assert found == [item_id for item_id, _ in expected]
        assert found_scores == pytest.approx([score for _, score in expected], abs=1e-5)


@pytest.mark.parametrize(
    "fields",
    [
        {"num_queries": [0, 0, 0]},
        {"num_queries": [0, 3, 1]},
        {"num_queries": [2, 2, 2], "progressive": [False, True, False]},
        {"code_sees_itself": True},
        {"attn_implementation": "eager"},
    ],
    ids=str,
)
def test_beams_in_one_row_equal_rows_of_their_own(processor, histories, fields):
    """The search's ancestry mask against teacher forcing, whatever the stages look like."""
    model = make_model(processor, **fields)
    item_ids, scores = model.recommend(histories, k=40)
    for history, found, found_scores in zip(histories, item_ids, scores, strict=True):
        exact = dict(zip(processor.item_ids, model.score_items(history).tolist(), strict=True))
        assert found_scores == pytest.approx([exact[item_id] for item_id in found], abs=1e-5)
        assert found_scores == sorted(found_scores, reverse=True)


def test_scores_are_sums_of_log_probabilities_of_the_aligned_rows(model, processor):
    history, target = ["item-3", "item-9"], "item-12"
    prompt = processor(histories=[history], return_tensors="pt")
    codes = torch.from_numpy(processor.token_ids[processor.rows([target])])
    log_probs = model(torch.cat([prompt["input_ids"], codes], 1)).logits.log_softmax(-1)[0]
    start = prompt["input_ids"].shape[1] - 1
    by_hand = sum(log_probs[start + level, code].item() for level, code in enumerate(codes[0]))
    assert model.score_items(history, [target]).item() == pytest.approx(by_hand, abs=1e-5)


def test_scores_do_not_depend_on_k(model, histories):
    for k in (1, 5, 10):
        item_ids, scores = model.recommend(histories, k=k)
        more_ids, more_scores = model.recommend(histories, k=10)
        assert [line[:k] for line in more_ids] == item_ids
        assert [line[:k] for line in more_scores] == scores


@pytest.mark.parametrize("num_beams", [1, 3, 20])
def test_generate_with_the_trie_finds_the_same_beams(model, processor, histories, num_beams):
    inputs = processor(histories=histories, return_tensors="pt")
    output = model.generate(
        **inputs,
        num_beams=num_beams,
        num_return_sequences=num_beams,
        length_penalty=0.0,
        logits_processor=[processor.trie_logits_processor()],
        return_dict_in_generate=True,
        output_scores=True,
    )
    decoded = processor.batch_decode_items(output.sequences)
    item_ids, scores = model.recommend(histories, k=num_beams, num_beams=num_beams)
    assert decoded == [item_id for line in item_ids for item_id in line]
    if num_beams > 1:
        assert output.sequences_scores.tolist() == pytest.approx([s for line in scores for s in line], abs=1e-5)


@pytest.mark.parametrize(
    "options", [{"do_sample": True, "num_return_sequences": 20}, {"cache_implementation": "static"}]
)
def test_whatever_is_generated_is_an_item(model, processor, histories, options):
    torch.manual_seed(0)
    inputs = processor(histories=histories, return_tensors="pt")
    output = model.generate(**inputs, logits_processor=[processor.trie_logits_processor()], **options)
    assert None not in processor.batch_decode_items(output)


def test_without_the_trie_a_non_item_is_decoded_as_none(model, processor):
    prompt = processor(histories=[["item-1"]], return_tensors="pt")["input_ids"]
    codes = torch.from_numpy(processor.token_ids[processor.rows(["item-4"])])
    assert processor.batch_decode_items(torch.cat([prompt, codes], 1)) == ["item-4"]
    assert processor.batch_decode_items(torch.cat([prompt, codes.flip(1)], 1)) == [None]
    assert processor.batch_decode_items(prompt) == [None]


def test_each_history_is_encoded_once(model, processor, histories):
    """Rows the backbone sees in the prefill: one per history, not one per beam."""
    batches = []
    hook = model.model.register_forward_pre_hook(
        lambda module, args, kwargs: batches.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    inputs = processor(histories=histories, return_tensors="pt")
    model.generate(**inputs, num_beams=6, logits_processor=[processor.trie_logits_processor()])
    assert batches[0] == inputs["input_ids"].shape
    assert batches[1] == (len(histories) * 6, 1)
    batches.clear()
    model.recommend(histories, k=3)
    assert batches[0] == inputs["input_ids"].shape
    hook.remove()


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_excluding_and_restricting_equal_brute_force(data):
    unique = data.draw(st.booleans())
    processor = make_processor(num_items=12, sizes=(3, 4), unique=unique, seed=data.draw(st.integers(0, 5)))
    model = make_model(processor, num_queries=[1, 1])
    items = st.sampled_from(processor.item_ids)
    histories = data.draw(st.lists(st.lists(items, max_size=12), min_size=1, max_size=3))
    candidates = data.draw(st.none() | st.lists(items, min_size=1, unique=True))
    exclude_seen = data.draw(st.booleans())
    k = data.draw(st.integers(1, 12))
    found, scores = model.recommend(histories, k=k, exclude_seen=exclude_seen, candidates=candidates, num_beams=20)
    for history, line, line_scores in zip(histories, found, scores, strict=True):
        allowed = set(processor.item_ids if candidates is None else candidates) - set(history if exclude_seen else [])
        expected = brute_force(model, history, allowed)
        assert len(line) == min(k, len(allowed)) == len(set(line))
        assert set(line) <= allowed
        assert line_scores == pytest.approx([score for _, score in expected[:k]], abs=1e-5)


def test_items_that_share_codes_stand_in_order_of_popularity():
    processor = make_processor(num_items=30, sizes=(4, 4), unique=False)
    model = make_model(processor, num_queries=[1, 1])
    found, scores = model.recommend(["item-1"], k=30)
    assert sorted(found) == sorted(processor.item_ids)
    popularity = dict(zip(processor.item_ids, processor.popularity, strict=True))
    ties = [(a, b) for (a, s), (b, t) in zip(zip(found, scores), zip(found[1:], scores[1:])) if s == t]  # noqa: B905
    assert ties
    assert all(popularity[a] >= popularity[b] for a, b in ties)


def test_a_single_history_gives_flat_lists(model):
    item_ids, scores = model.recommend(["item-3"], k=4)
    assert len(item_ids) == len(scores) == 4
    assert isinstance(item_ids[0], str)
    assert model.recommend([], k=4)[0] == model.recommend([[]], k=4)[0][0]


def test_the_batch_size_changes_nothing(model, histories):
    together, one_by_one = model.recommend(histories, k=5), model.recommend(histories, k=5, batch_size=1)
    assert together[0] == one_by_one[0]
    assert np.allclose(together[1], one_by_one[1], atol=1e-5)


def test_unknown_items(model, caplog):
    with pytest.raises(ValueError, match="'nobody' in the history is not in the catalogue"):
        model.recommend(["item-1", "nobody"])
    with pytest.raises(ValueError, match="item ids are strings"):
        model.recommend([["item-1", 5]])
    with pytest.raises(ValueError, match="in candidates"):
        model.recommend(["item-1"], candidates=["nobody"])
    with caplog.at_level(logging.WARNING):
        skipped = model.recommend(["item-1", "nobody"], unknown="skip")
    assert skipped == model.recommend(["item-1"])
    assert "1 unknown item(s) left out" in caplog.text


def test_long_histories_are_cut_to_the_newest_and_said_once(model, caplog):
    from hf_genrec.catalogue.catalogue import logger

    logger.warning_once.cache_clear()
    long = [f"item-{row}" for row in range(20)]
    with caplog.at_level(logging.WARNING):
        assert model.recommend(long) == model.recommend(long[-8:])
        model.recommend(long)
    assert caplog.text.count("cut to their newest 8") == 1


def test_dropout_is_off_and_the_mode_is_kept(processor):
    model = make_model(processor, attention_dropout=0.5).train()
    assert model.recommend(["item-3"]) == model.recommend(["item-3"])
    assert model.training


def test_a_model_without_a_processor_says_how_to_attach_it(model):
    model.processor = None
    with pytest.raises(ValueError, match=r"set model\.processor"):
        model.recommend(["item-1"])


def test_arguments_that_make_no_sense(model):
    for arguments in ({"k": 0}, {"k": 10, "num_beams": 5}, {"candidates": []}):
        with pytest.raises(ValueError, match="at least"):
            model.recommend(["item-1"], **arguments)
