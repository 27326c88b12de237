"""A decoder that reads the codes so far as a set: their order leaves no trace, in whatever way they are read."""

import itertools

import numpy as np
import pytest
import torch
from tiny_reg4rec import log_probs_after, make_reg4rec, make_set_processor, model_path_score

HISTORIES = [["item-3", "item-9", "item-1"], [], ["item-5"], [f"item-{row}" for row in range(6)]]
CODES = [2, 7, 10]  # one of each codebook


@pytest.fixture(scope="module")
def processor():
    return make_set_processor()


@pytest.fixture(scope="module")
def model(processor):
    return make_reg4rec(processor, code_reading="set")


def test_the_order_of_the_codes_leaves_no_trace(model, processor):
    """As a path it does."""
    for count in (2, 3):
        of_sets = [log_probs_after(model, np.arange(4), list(path)) for path in itertools.permutations(CODES[:count])]
        for other in of_sets[1:]:
            torch.testing.assert_close(other, of_sets[0], atol=1e-5, rtol=0)
        paths = make_reg4rec(processor)
        first, *others = [
            log_probs_after(paths, np.arange(4), list(path)) for path in itertools.permutations(CODES[:count])
        ]
        assert all((first - other).abs().max() > 0.01 for other in others)


def test_every_code_is_read(model):
    before = [log_probs_after(model, np.arange(4), CODES[:count]) for count in range(4)]
    for one, other in itertools.combinations(before, 2):
        assert (one - other).abs().max() > 0.01
    changed = log_probs_after(model, np.arange(4), [CODES[0], 6, CODES[2]])
    assert (changed - before[3]).abs().max() > 0.01


def test_cached_decoding_equals_uncached(model, processor):
    inputs = processor(histories=HISTORIES, return_tensors="pt")
    path = torch.tensor([[12, 3, 8, 9], [12, 0, 10, 5], [12, 5, 1, 11], [12, 11, 6, 2]])
    with torch.no_grad():
        whole = model(**inputs, decoder_input_ids=path)
        assert whole.logits.shape[1] == whole.category_logits.shape[1] == 4
        for cuts in ([1, 1, 1, 1], [1, 3], [2, 1, 1], [2, 2]):
            cache, parts, start = None, [], 0
            for width in cuts:
                cached = {} if cache is None else {"past_key_values": cache}
                output = model(**inputs, decoder_input_ids=path[:, start : start + width], use_cache=True, **cached)
                cache, start = output.past_key_values, start + width
                parts.append(output.logits)
            torch.testing.assert_close(torch.cat(parts, 1), whole.logits, rtol=1e-5, atol=1e-5)


def test_it_recommends_generates_and_scores(model, processor):
    items, scores = model.recommend(HISTORIES, k=30, num_beams=60)
    for line, history in enumerate(HISTORIES):
        rows = processor.rows(items[line])
        expected = [model_path_score(model, processor.rows(history), processor.token_ids[row].tolist()) for row in rows]
        assert sorted(items[line]) == sorted(processor.item_ids)
        assert list(scores[line]) == pytest.approx(expected, abs=1e-4)
    inputs = processor(histories=HISTORIES, return_tensors="pt")
    output = model.generate(**inputs, logits_processor=[processor.set_logits_processor()])
    greedy, _ = model.recommend(HISTORIES, k=1, num_beams=1, lookahead=False)
    assert processor.batch_decode_items(output) == [line[0] for line in greedy]


def test_it_learns_and_is_saved(model, processor, tmp_path):
    """Labels in any order of their codebooks are the same example: what a state tells depends on the codes before."""
    inputs = processor(histories=HISTORIES, return_tensors="pt")
    labels = torch.from_numpy(processor.token_ids[[3, 8, 20, 11]])
    losses = []
    for orders in ([0, 1, 2], [1, 0, 2]):
        output = model(**inputs, labels=labels, orders=torch.tensor(orders).expand(4, 3))
        losses.append(output.logits[:, 2])
    torch.testing.assert_close(*losses, atol=1e-5, rtol=0)
    model(**inputs, labels=labels).loss.backward()
    assert all(weight.grad is not None for weight in model.model.decoder.parameters())
    model.zero_grad()
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert again.config.code_reading == "set"
    np.testing.assert_array_equal(again.recommend(HISTORIES, k=5)[0], model.recommend(HISTORIES, k=5)[0])
