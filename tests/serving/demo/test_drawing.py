"""Whatever a title says, it is text on the page."""

from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest

from hf_genrec.catalogue.processing_rows import ItemProcessor
from hf_genrec.explanation import CodePath, Explanation, HeatMap, Rankings
from hf_genrec.serving.demo.drawing import (
    MAX_LETTERS,
    buttons,
    draw_answer,
    draw_explanations,
    draw_history,
    escaped,
)
from hf_genrec.serving.demo.opened_run import Answer, OpenedRun
from hf_genrec.terminal import shown

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "</button></li></ol><h1>owned",
    "\"><svg onload='alert(1)'>",
    "' onmouseover='alert(1)",
    "&lt;b&gt; &amp; &#60;",
    "${alert(1)} {{constructor}} @children",
    "\x00\x1b[2J\r\n\x7f\u202egnp.exe\u2066\ud800",
    "javascript:alert(1)",
    "<!-- <style>*{display:none}</style>",
    "x" * 100_000,
    "",
    " ",
    "Amélie アキラ 🎬",
]


class Page(HTMLParser):
    """What a browser would make of it: tags, attributes and text."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.text, self.open = set(), set(), [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attributes}
        self.values = [value for _, value in attributes]
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def handle_comment(self, data):
        raise AssertionError(data)

    handle_decl = handle_pi = unknown_decl = handle_comment


def check(text: str, *names: str) -> None:
    page = Page(text)
    tags = {
        "button",
        "br",
        "code",
        "div",
        "em",
        "h3",
        "h4",
        "h5",
        "li",
        "ol",
        "p",
        "section",
        "small",
        "span",
        "b",
        "table",
    }
    assert page.tags <= tags | {"tbody", "td", "th", "thead", "tr", "ul"}
    attributes = {"aria-label", "aria-pressed", "class", "scope", "style", "type"}
    assert page.attributes <= attributes | {"data-add", "data-user", "data-out", "data-run", "data-row"}
    said = "".join(page.text)
    for name in names:
        assert shown(name if len(name) <= MAX_LETTERS else f"{name[: MAX_LETTERS - 1]}…") in said
    assert all(letter.isprintable() for letter in said)


def run_of(titles, name="runs", title="Title") -> OpenedRun:
    processor = ItemProcessor(3).set_catalogue([f"<i>{place}" for place in range(len(titles))], titles)
    method = SimpleNamespace(title=title, score_name="<u>score")
    return OpenedRun(name, SimpleNamespace(processor=processor), method)


@pytest.mark.parametrize("title", HOSTILE)
def test_titles_are_text_everywhere(title):
    titles = [title, "plain", title]
    name = title or "<i>0"
    run, other = run_of(titles, name=title, title=title), run_of(titles)
    check(buttons("add", titles, [0, 1]), title)
    check(draw_history([title] * 5, [run]), title)
    answer = Answer([0, 1], [-1.0, -2.0], np.array([0]), 2, False)
    check(draw_answer(run, answer, 0, [(other, answer)], 0), name, title)
    rows = np.array([0, 1])
    heat = HeatMap([title, "b"], ["", title], rows, np.array([[0.5, 0.25], [0.0, 1.0]]), np.array([0.25, 0]), title)
    ranks = Rankings([title, "b"], np.array([[0, 1], [1, -1]]), np.zeros((2, 2)), [1, 0], 1)
    path = CodePath([title, "<b_1>"], [title, ""], [np.arange(3), np.array([0, 2])])
    for picture in (heat, ranks, path):
        check(draw_explanations(run, 0, [Explanation(title, "about", picture)]), name)
    check(draw_explanations(run, 0, []), name)


def test_text_for_people():
    assert escaped("a<b>\n") == "a&lt;b&gt;\\n"
    assert len(escaped("x" * 1000)) == MAX_LETTERS


def test_numbers_and_marks_are_the_answers():
    run, other = run_of(["one", "two", "three", "four"]), run_of(["one", "two", "three", "four"])
    answer = Answer([2, 0], [-1.25, -3.0], np.array([2]), 1, False)
    text = "".join(Page(draw_answer(run, answer, 0, [(other, Answer([3, 0], [1, 0], np.array([]), 0, False))], 2)).text)
    assert "1three in the history-1.25" in text
    assert "2one also no. 2-3.00" in text
    assert "Unknown to this model and left out: 1 of" in text
    assert draw_answer(run, answer, 0, [], 2).count('aria-pressed="true"') == 1

    ranks = Rankings(["step 0", "step 1"], np.array([[0, 1, 2], [2, 0, 3]]), np.zeros((2, 3)), [3, 1], 1)
    text = "".join(Page(draw_explanations(run, 2, [Explanation("t", "a", ranks)])).text)
    assert "step 0this item: no. 3onetwothree" in text
    assert "step 1 recommendedthis item: no. 1three▲2one▼1fournew" in text


def test_neighbours_stand_beside_the_code_they_leave_at():
    run = run_of([f"t{place}" for place in range(12)])
    path = CodePath(["<a_0>", "<b_0>"], ["", "noted"], [np.arange(10), np.array([4, 9])])
    text = "".join(Page(draw_explanations(run, 4, [Explanation("t", "a", path)])).text)
    assert "all 12 items<a_0> 10 itemst0t1t2t3t5and 3 more<b_0> 2 items · notedt4with the same codes: t9" in text


def test_a_long_history_says_what_is_read():
    text = "|".join(Page(draw_history([f"t{place}" for place in range(100)], [run_of(["a"])])).text)
    assert text.startswith("t99|")
    assert "|t40|" in text
    assert "|t39|" not in text
    assert "and 40 older ones" in text
    assert "Title reads the newest 3 of 100." in text
    assert draw_history([f"t{place}" for place in range(5)], [run_of(["a"])]).count("gr-unread") == 2
