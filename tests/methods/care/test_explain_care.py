"""What CARE is said to have read is what its attention layers weighed."""

import copy

import numpy as np
import pytest
import torch
from conftest import make_model, make_processor
from torch.nn.functional import scaled_dot_product_attention

from hf_genrec.methods.care import care_layers
from hf_genrec.methods.care.care_layout import HISTORY, QUERY, attention_allowed
from hf_genrec.methods.care.explain_care import explain, stage_attention

HISTORY_ROWS = np.array([3, 9, 1, 9, 30])


class Recorder:
    """In the place of the attention of transformers: weights computed here, from the queries and keys of each layer."""

    def __init__(self):
        self.weights = []

    def get_interface(self, *args):
        return self.attend

    def attend(self, module, query, key, value, mask, dropout, scaling, **kwargs):
        key, value = (states.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for states in (key, value))
        scores = (query @ key.transpose(2, 3) * scaling).masked_fill(~mask, -torch.inf)
        self.weights.append(scores.softmax(-1)[0])
        read = scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)
        return read.transpose(1, 2), None


@pytest.mark.parametrize("queries", [[1, 1, 1], [2, 3, 1], [1, 0, 2], [0, 0, 0]])
@pytest.mark.parametrize("progressive", [[True, True, True], [False, True, False]])
def test_attention_is_what_the_layers_weighed(queries, progressive, monkeypatch):
    processor = make_processor()
    model = make_model(processor, num_queries=queries, progressive=progressive)
    found = stage_attention(model, HISTORY_ROWS, 7)
    assert found.values.shape == (sum(max(number, 1) for number in queries), 5)
    np.testing.assert_array_equal(found.items, HISTORY_ROWS)
    np.testing.assert_allclose(found.values.sum(1) + found.rest, 1, atol=1e-6)

    codes = torch.from_numpy(processor.token_ids[7])[None]
    ids = torch.cat([processor.prompts([HISTORY_ROWS])["input_ids"], codes[:, :-1]], dim=1)
    recorder = Recorder()
    monkeypatch.setattr(care_layers, "ATTENTION", recorder)
    with torch.no_grad():
        model(ids, output_hidden_states=True)  # of all slots, in the last layer too
    weights = torch.stack(recorder.weights).mean((0, 1))
    layout = model.model.layout(ids)
    line = 0
    for level, number in enumerate(queries):
        slots = ((layout.kind[0] == QUERY) & (layout.stage[0] == level)).nonzero()[:, 0].tolist()
        for slot in slots if number else [int(layout.token_slot[0, -3 + level])]:
            for place in range(5):
                of_item = weights[slot, 3 * place : 3 * place + 3].sum()  # history slots come first, code by code
                assert found.values[line, place] == pytest.approx(float(of_item), abs=1e-5)
            line += 1
    assert line == len(found.values)


def test_what_a_stage_must_not_see_has_no_share():
    """Of two histories that differ in finer codes alone, the coarse stage of a one-layer model reads the same."""
    processor = make_processor()
    model = make_model(processor, num_queries=[1, 1, 1], num_hidden_layers=1, progressive=[True, True, True])
    before = stage_attention(model, HISTORY_ROWS, 7)
    changed = copy.deepcopy(processor)
    changed.token_ids[HISTORY_ROWS, 2] = changed.code_token_ids[2][0]
    model.processor = changed
    after = stage_attention(model, HISTORY_ROWS, 7)
    np.testing.assert_allclose(before.values[:2], after.values[:2], atol=1e-6)
    assert np.abs(before.values[2] - after.values[2]).max() > 1e-3
    layout = model.model.layout(processor.prompts([HISTORY_ROWS])["input_ids"])
    allowed = attention_allowed(layout, [True] * 3)[0]
    query = (layout.kind[0] == QUERY).nonzero()[0, 0]
    assert not (allowed[query] & (layout.kind[0] == HISTORY) & (layout.stage[0] > 0)).any()


def test_probabilities_are_those_of_the_score():
    model = make_model(make_processor(), num_queries=[1, 1, 1])
    found = stage_attention(model, HISTORY_ROWS, 7)
    shares = [float(note.split()[1].rstrip("%")) / 100 for note in found.notes]
    score = float(model.score_items([f"item-{row}" for row in HISTORY_ROWS], ["item-7"])[0])
    assert np.prod(shares) == pytest.approx(np.exp(score), abs=2e-3)
    codes = [f"<{letter}_{code}>" for letter, code in zip("abc", model.processor.codes[7], strict=True)]
    assert [note.split()[0] for note in found.notes] == codes
    assert found.readers == ["stage 1", "stage 2", "stage 3"]


def test_only_what_is_read_is_shown_and_the_model_stays_as_it_was():
    model = make_model(make_processor(max_history=4), max_history=4)
    before = model.recommend(["item-3"], k=5)
    found = stage_attention(model, np.arange(10), 7)
    np.testing.assert_array_equal(found.items, [6, 7, 8, 9])
    assert model.config._attn_implementation == "sdpa"
    assert model.recommend(["item-3"], k=5) == before
    assert explain(model, np.array([], dtype=np.int64), 7) == []
    (explanation,) = explain(model, np.array([3]), 7)
    assert "stage 1, 2, 3" in explanation.about
