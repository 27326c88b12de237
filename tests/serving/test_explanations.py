"""How a model came to an item, as lines of text."""

from types import SimpleNamespace

import numpy as np
from conftest import make_model

from hf_genrec.explanation import CodePath, Explanation, HeatMap, Rankings
from hf_genrec.method import load_method
from hf_genrec.serving.explanations import as_text, explanations

TITLES = ["Alien", "Heat\x1b[2J", "Fargo", "Big", "Babe"]


def test_steps():
    rows = np.array([[1, 0, 2, 3], [0, 2, -1, -1]])
    picture = Rankings(["step 0", "step 1"], rows, np.zeros((2, 4)), [1_200, 0], 1)
    assert as_text(TITLES, Explanation("Steps", "Read so.", picture)) == [
        "Steps",
        "Read so.",
        "  step 0: 1. Heat\\x1b[2J; 2. Alien; 3. Fargo (this item is no. 1,200)",
        "  step 1, recommended: 1. Alien; 2. Fargo (this item is left out)",
    ]


def test_readers():
    shares = np.array([[0.1, 0.2, 0.3, 0.15], [0.0, 0.5, 0.0, 0.0]])
    picture = HeatMap(["a", "b"], ["", "sure"], np.array([4, 3, 2, 0]), shares, np.array([0.25, 0.5]), "elsewhere")
    assert as_text(TITLES, Explanation("Reading", "Shares.", picture))[2:] == [
        "  a: 30% Fargo; 20% Big; 15% Alien; 25% elsewhere",
        "  b (sure): 50% Big; 0% Babe; 0% Fargo; 50% elsewhere",
    ]


def test_codes():
    picture = CodePath(["<a_1>", "<b_2>"], ["", "0.5"], [np.array([0, 2, 3, 4]), np.array([2])])
    assert as_text(TITLES, Explanation("Codes", "Left.", picture))[2:] == [
        "  <a_1>: 4 items: Alien; Fargo; Big; ...",
        "  <b_2>, 0.5: 1 item: Fargo",
    ]


def test_the_place_among_ordered_codes_is_added(processor):
    model = make_model(processor)
    method = load_method("care")
    shown = explanations(method, model, np.array([3, 1]), 5)
    assert [type(explanation.picture) for explanation in shown][-1] is CodePath
    assert len(shown) == len(method.explain(model, np.array([3, 1]), 5, False)) + 1
    silent = SimpleNamespace(explain=lambda *_: [], codes="sets")
    assert explanations(silent, model, np.array([3, 1]), 5) == []
