"""What the demo answers is what the models answer, and a browser may send anything."""

import re
from dataclasses import replace
from html import unescape

import numpy as np
import pytest
from conftest import make_model, make_processor
from tiny_rearec import tiny_rearec
from tiny_reg4rec import make_reg4rec, make_set_processor

from hf_genrec.catalogue.processing_rows import ItemProcessor
from hf_genrec.explanation import CodePath, HeatMap, Rankings
from hf_genrec.method import Method, load_method
from hf_genrec.serving.demo.desk import Desk, open_desk, place_clicked
from hf_genrec.serving.demo.opened_run import OpenedRun, open_run

HISTORY = ["item-3", "item-9", "item-1"]
USERS = {"<b>u": HISTORY, "u2": ["item-5"]}


def opened(model, users=None) -> OpenedRun:
    return OpenedRun(model.config.model_type, model, load_method(model.config.model_type), users or {})


def rearec_run(num_items=30, first="item-") -> OpenedRun:
    model = tiny_rearec(num_items=num_items)
    ids = [f"{first}{row}" for row in range(num_items)]
    model.processor = ItemProcessor(9).set_catalogue(ids, [f"Title {row}" for row in range(num_items)])
    return opened(model)


RUNS = [
    opened(make_model(make_processor(num_items=30)), USERS),
    rearec_run(),
    opened(make_reg4rec(make_set_processor())),
]


def titles_in(html: str) -> list[str]:
    return [unescape(title.rstrip()) for title in re.findall(r'class="gr-title">([^<]*)', html)]


def test_the_page_begins_as_the_first_model_does_by_default():
    run = rearec_run()
    assert Desk([run, RUNS[0]]).exclude_seen is False
    run.model.processor.exclude_seen = True
    assert Desk([run, RUNS[0]]).exclude_seen is True
    assert Desk([RUNS[0], run]).exclude_seen is False


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
@pytest.mark.parametrize("exclude_seen", [False, True])
@pytest.mark.parametrize("history", [HISTORY, []])
def test_lists_are_the_models(run, exclude_seen, history):
    desk = Desk([run])
    answers, (drawn, _) = desk.recommend(history, 5, exclude_seen)
    ids, scores = run.model.recommend(history, k=5, exclude_seen=exclude_seen)
    assert titles_in(drawn) == [run.model.processor.title(item_id) for item_id in ids]
    assert re.findall(r'class="gr-score">([^<]*)', drawn) == [f"{score:.2f}" for score in scores]
    (answer,) = answers
    assert [run.item_ids[row] for row in answer.items] == ids
    redrawn, why = desk.explain(answers, {"run": "0", "row": str(answer.items[2])})
    assert titles_in(redrawn) == titles_in(drawn)
    assert f"Why “{run.titles[answer.items[2]]}”?" in why


def test_each_method_shows_its_own():
    pictures = []
    for run in RUNS:
        answer = run.recommend(HISTORY, 3, True)
        explanations = run.explain(answer, answer.items[0])
        pictures.append([type(explanation.picture) for explanation in explanations])
        for explanation in explanations:
            if isinstance(explanation.picture, Rankings):  # as they were asked for: without the history's items
                rows = explanation.picture.rows
                assert not np.isin(rows, answer.history).any()
                assert rows[explanation.picture.chosen][:3].tolist() == answer.items
    assert pictures == [[HeatMap, CodePath], [Rankings], [CodePath]]


def test_a_method_that_shows_nothing_of_its_own_has_the_tree():
    method = replace(RUNS[0].method, explain=Method.__dataclass_fields__["explain"].default)
    run = replace(RUNS[0], method=method)
    (explanation,) = run.explain(run.recommend(HISTORY, 3, False), 7)
    assert isinstance(explanation.picture, CodePath)
    run = replace(RUNS[1], method=replace(RUNS[1].method, explain=method.explain))
    answers, _ = Desk([run]).recommend(HISTORY, 3, False)
    assert run.explain(answers[0], 7) == []


def test_two_models_side_by_side():
    runs = [RUNS[0], rearec_run(20)]
    desk = Desk(runs)
    history = ["item-3", "item-25", "item-1"]
    (left, right), drawn = desk.recommend(history, 20, False)
    assert left.left_out == 0
    assert right.left_out == 1
    ids, _ = runs[1].model.recommend(["item-3", "item-1"], k=20)
    assert titles_in(drawn[1]) == [f"Title {item_id[5:]}" for item_id in ids]
    assert "Unknown to this model and left out: 1 of" in drawn[1]
    assert "Unknown to this model" not in drawn[0]
    shared = [row for row in right.items if row in left.items]
    assert drawn[1].count("also no. ") == len(shared)
    redrawn = desk.explain([left, right], {"run": "1", "row": str(right.items[0])})
    assert redrawn[0].count('aria-pressed="true"') == 0
    assert redrawn[1].count('aria-pressed="true"') == 1
    with pytest.raises(ValueError, match="no item in common"):
        Desk([RUNS[0], rearec_run(first="other-")])
    with pytest.raises(ValueError, match="3 runs: the demo shows one model, or two"):
        open_desk(["a", "b", "c"])


def test_a_history_is_built_and_taken_apart():
    desk = Desk([RUNS[0]])
    matches = desk.find_titles("title 7")
    place, *_ = re.findall(r'data-add="(\d+)"', matches)
    history = desk.add(["item-3"], {"add": place})
    assert history == ["item-3", "item-7"]
    assert desk.take_out(history, {"out": "0"}) == ["item-7"]
    assert re.findall(r"<span>([^<]*)", desk.show_history(history)) == ["Title 7", "Title 3"]
    assert re.findall(r'data-user="(\d+)">([^<]*)', desk.find_users("b")) == [("0", "&lt;b&gt;u")]
    assert desk.take_user({"user": "0"}) == ("<b>u", HISTORY)
    assert desk.any_user()[0] in USERS
    assert desk.name_user("<b>u") == ("<b>u", HISTORY)
    assert [desk.name_user(nobody) for nobody in ("", " ", "nobody at all", None, 7)] == [None] * 5
    assert desk.find_users(" ") == desk.find_users(None) == ""
    assert desk.find_titles(["title 7"]) == desk.find_titles("")


SENSELESS = (None, 3, -1, True, "-1", "1e3", "²", "30", "9" * 5000, ["1"], {"add": "1"}, " 1", "")


@pytest.mark.parametrize("clicked", [None, {}, [], "0", *({"add": value} for value in SENSELESS)])
def test_clicks_that_make_no_sense_change_nothing(clicked):
    desk = Desk([RUNS[0]])
    assert desk.add(HISTORY, clicked) == HISTORY
    others = clicked
    if isinstance(clicked, dict) and clicked:
        others = {name: clicked["add"] for name in ("out", "user", "run", "row")}
    assert desk.take_out(HISTORY, others) == HISTORY
    assert desk.take_user(others) is None
    answers, _ = desk.recommend(HISTORY, 3, False)
    assert desk.explain(answers, others) is None
    assert desk.explain([], {"run": "0", "row": "0"}) is None
    assert place_clicked(clicked, "add", 30) is None


def test_an_item_that_was_not_recommended_is_not_explained():
    desk = Desk([RUNS[0]])
    answers, _ = desk.recommend(HISTORY, 3, False)
    row = next(row for row in range(30) if row not in answers[0].items)
    assert desk.explain(answers, {"run": "0", "row": str(row)}) is None


def test_lengths_are_bounded():
    desk = Desk([RUNS[0]])
    for k, expected in ((-3, 1), (0, 1), (7.9, 7), (1e9, 20), (np.inf, 20), (np.nan, 10), ("5", 10), (None, 10)):
        assert len(desk.recommend(HISTORY, k, False)[0][0].items) == expected
    everything = [f"item-{row}" for row in range(30)]
    answers, (drawn, why) = desk.recommend(everything, 5, True)
    assert answers[0].items == []
    assert "No item is left to recommend." in drawn
    assert why == ""


def test_what_opens(tmp_path):
    RUNS[0].model.save_pretrained(tmp_path / "mine/model")
    for folder in ("mine", "mine/model"):
        run = open_run(str(tmp_path / folder))
        assert run.name == "mine"
        assert run.users == {}
        assert run.recommend(HISTORY, 5, False).items == RUNS[0].recommend(HISTORY, 5, False).items
    with pytest.raises(OSError, match=r"config\.json"):
        open_run(str(tmp_path))


def test_users_are_those_of_the_data(tmp_path):
    import pyarrow as pa

    from hf_genrec.data.prepared import PreparedData

    RUNS[0].model.save_pretrained(tmp_path / "model")
    ids = [f"item-{row}" for row in range(30)]
    counts = np.array([0, 0])
    sequences = [np.array([3, 9, 1]), np.array([5])]
    PreparedData(["a", "b"], ids, pa.table({"item_id": ids}), sequences, counts, counts, {}).save(tmp_path / "data")
    assert open_run(str(tmp_path)).users == {"a": HISTORY, "b": ["item-5"]}
    ids[4] = "new"
    PreparedData(["a", "b"], ids, pa.table({"item_id": ids}), sequences, counts, counts, {}).save(tmp_path / "data")
    with pytest.raises(ValueError, match=r"holds items that .* was not trained on \('new' is one of 1\)"):
        open_run(str(tmp_path))
