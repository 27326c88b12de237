"""The order in which codes are said to be written is the search's own."""

import numpy as np
import pytest
import torch
from tiny_reg4rec import log_probs_after, make_reg4rec, make_set_processor, surest_codebook

from hf_genrec.methods.reg4rec import reg4rec_search
from hf_genrec.methods.reg4rec.explain_reg4rec import explain, written_order
from hf_genrec.methods.reg4rec.reg4rec_search import CrssSearch

HISTORIES = [np.array([3, 9, 1]), np.array([], dtype=np.int64), np.arange(8)]


@pytest.mark.parametrize("history", HISTORIES, ids=len)
def test_the_order_is_that_of_the_search(history, monkeypatch):
    """With one beam and lookahead the search writes its item's codes one by one, and its choices are looked at."""
    model = make_reg4rec(make_set_processor())
    written = []
    choose = CrssSearch._choose

    def recorded(self, step, hidden):
        choose(self, step, hidden)
        written.append(int(self.tokens[0, 0]))

    monkeypatch.setattr(CrssSearch, "_choose", recorded)
    monkeypatch.setattr(CrssSearch, "_settled", lambda self: False)  # to the last code
    rows, scores = model.recommend_rows([history], k=1, num_beams=1)
    monkeypatch.undo()
    order, chosen, surest = written_order(model, history, int(rows[0, 0]))
    tokens = model.processor.token_ids[rows[0, 0]]
    assert [int(tokens[codebook]) for codebook in order] == written[:3]
    assert chosen.sum() == pytest.approx(float(scores[0, 0]), abs=1e-5)
    assert (surest >= chosen).all()


@pytest.mark.parametrize("fixed", [False, True])
def test_order_and_probabilities_without_a_cache(fixed):
    processor = make_set_processor()
    model = make_reg4rec(processor, code_order="fixed" if fixed else "confidence")
    orders = set()
    for history in HISTORIES:
        for item in range(0, 30, 5):
            order, chosen, surest = written_order(model, history, item)
            left, path = [0, 1, 2], []
            starts = np.cumsum([0, *processor.codebook_sizes])
            for step, codebook in enumerate(order):
                log_probs = log_probs_after(model, history, path)
                assert codebook == (
                    left[0] if fixed else surest_codebook(log_probs.tolist(), processor.codebook_sizes, left)
                )
                token = int(processor.token_ids[item, codebook])
                assert chosen[step] == pytest.approx(float(log_probs[token]), abs=1e-5)
                best = log_probs[starts[codebook] : starts[codebook + 1]].max()
                assert surest[step] == pytest.approx(float(best), abs=1e-5)
                path.append(token)
                left.remove(codebook)
            score = model.score_rows([history], np.array([item]))[0, 0]
            assert chosen.sum() == pytest.approx(float(score), abs=1e-5)
            orders.add(tuple(order))
    assert (orders == {(0, 1, 2)}) == fixed


def test_confidence_orders_agree():
    processor = make_set_processor()
    model = make_reg4rec(processor)
    items = np.arange(12)
    prompts = processor.prompts([HISTORIES[0]] * len(items))
    labels = torch.from_numpy(processor.token_ids[items])
    expected = reg4rec_search.confidence_orders(model, **prompts, labels=labels).tolist()
    assert [written_order(model, HISTORIES[0], int(item))[0] for item in items] == expected


def test_the_path_is_of_that_order():
    processor = make_set_processor()
    model = make_reg4rec(processor)
    order, *_ = written_order(model, HISTORIES[0], 4)
    (explanation,) = explain(model, HISTORIES[0], 4)
    path = explanation.picture
    assert path.tokens == [f"<{'abc'[codebook]}_{processor.codes[4, codebook]}>" for codebook in order]
    assert [note.split(",")[0] for note in path.notes] == [f"codebook {codebook + 1}" for codebook in order]
    for step, rows in enumerate(path.left):
        has = (processor.codes[:, order[: step + 1]] == processor.codes[4, order[: step + 1]]).all(1)
        assert set(rows.tolist()) == set(np.flatnonzero(has).tolist())
