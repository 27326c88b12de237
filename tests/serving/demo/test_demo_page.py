"""The demo as people use it: in a browser, on a desk and on a phone, offline, with titles that mean harm."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from conftest import make_model, make_processor
from loopback_hub import LoopbackHub
from tiny_rearec import tiny_rearec

from hf_genrec.catalogue.processing_rows import ItemProcessor
from hf_genrec.data.prepared import PreparedData
from hf_genrec.method import load_model
from hf_genrec.serving.demo.space import write_space
from hf_genrec.terminal import shown

CHROMIUM = Path("/usr/bin/chromium")
OPTIONS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
OPTIONS += ["--disable-component-update", "--disable-sync"]
PLACES = {"desk": (1280, 900), "phone": (375, 812)}
OWN = "window.owned = 1"
TITLES = {
    0: f"<script>{OWN}</script>",
    1: f"<img src=x onerror='{OWN}'> picture",
    2: f"${{{OWN}}} {{{{constructor}}}}",
    3: "\u202etxt\x1b[2J\x00 turned",
    4: "An endless title of " + "Donaudampfschifffahrtsgesellschaft" * 20,
    5: f'\'" onmouseover="{OWN}" x=\'',
}
USER = f"<img src=x onerror='{OWN}'>"
WAIT = 60_000  # milliseconds, of a busy machine

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason="Chromium is not installed: apt install chromium"),
]
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[Path]:
    """Two runs on one catalogue, the first with data; its folder's name is markup, too."""
    folder = tmp_path_factory.mktemp("runs")
    processor = make_processor()
    processor.titles = [TITLES.get(row, f"Title {row}") for row in range(40)]
    first = folder / f"<img src=x onerror='{OWN}'>"
    make_model(processor).save_pretrained(first / "model")
    ids, counts = processor.item_ids, np.zeros(2, dtype=np.int64)
    items = pa.table({"item_id": ids, "title": [shown(title) for title in processor.titles]})
    sequences = [np.array([0, 1, 2, 3, 4, 5, 20]), np.array([7])]
    PreparedData([USER, "u2"], ids, items, sequences, counts, counts, {}).save(first / "data")
    model = tiny_rearec(num_items=40)
    model.processor = ItemProcessor(9).set_catalogue(ids, processor.titles, processor.popularity)
    model.save_pretrained(folder / "second/model")
    return [first, folder / "second"]


WATCH = """
import sys

def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        with open({path!r}, "a") as file:
            print(arguments, file=file)

sys.addaudithook(watch)
"""


@pytest.fixture(scope="module")
def connections(tmp_path_factory) -> Path:
    """Where the server writes down whom it connects to; beside it what makes it do so."""
    path = tmp_path_factory.mktemp("watch") / "connections.txt"
    path.with_name("sitecustomize.py").write_text(WATCH.format(path=str(path)))
    return path


@pytest.fixture(scope="module")
def address(runs, connections):
    port = free_port()
    command = [sys.executable, "-m", "hf_genrec.cli", "demo", *map(str, runs), "--port", str(port)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(connections.parent)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    line = process.stdout.readline()
    assert line == f"the demo is at http://127.0.0.1:{port}/; Ctrl-C ends it\n"
    yield f"http://127.0.0.1:{port}"
    process.send_signal(signal.SIGINT)
    assert process.wait(30) is not None


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=OPTIONS)
        yield browser
        browser.close()


@pytest.fixture(params=PLACES)
def page(request, browser, address):
    width, height = PLACES[request.param]
    page = browser.new_context(viewport={"width": width, "height": height}).new_page()
    page.set_default_timeout(WAIT)
    elsewhere, errors = [], []
    page.on("request", lambda request: None if _is_here(request.url, address) else elsewhere.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address)
    page.wait_for_selector("#gr-list-1 ol button")
    yield page
    assert page.evaluate("window.owned") is None
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert page.locator("img, #gr-list-0 script").count() == 0
    assert not elsewhere
    assert not errors
    page.context.close()


def _is_here(url: str, address: str) -> bool:
    return url.startswith((address, "data:", "blob:"))


def listed(page, place: int = 0) -> list[str]:
    """The titles of a list, without what is said beside them."""
    program = "all => all.map(one => one.firstChild.textContent.trimEnd())"
    return page.eval_on_selector_all(f"#gr-list-{place} .gr-title", program)


def histories(page) -> list[str]:
    """The history, oldest first."""
    return page.locator("#gr-history li > span").all_inner_texts()[::-1]


def until(ask, expected) -> None:
    deadline = time.monotonic() + WAIT / 1000
    while (found := ask()) != expected:
        assert time.monotonic() < deadline, (found, expected)
        time.sleep(0.1)


def titles_of(model, history: list[str], **options) -> list[str]:
    found, _ = model.recommend(history, **options)
    titles = [shown(model.processor.title(item_id)) for item_id in found]
    return [title if len(title) <= 160 else f"{title[:159]}…" for title in titles]


def add(page, query: str, title: str) -> None:
    page.locator("#gr-query textarea").fill(query)
    page.locator("#gr-matches button", has_text=title).first.click()


def test_search_add_recommend(page, runs):
    models = [load_model(run / "model") for run in runs]
    for place, model in enumerate(models):
        until(lambda place=place: listed(page, place), titles_of(model, []))
    add(page, "title 12", "Title 12")
    until(lambda: histories(page), ["Title 12"])
    until(lambda: page.locator("#gr-query textarea").input_value(), "")
    add(page, "30", "Title 30")
    until(lambda: histories(page), ["Title 12", "Title 30"])
    for place, model in enumerate(models):
        until(lambda place=place: listed(page, place), titles_of(model, ["item-12", "item-30"]))
    page.locator("#gr-seen input").check()
    for place, model in enumerate(models):
        expected = titles_of(model, ["item-12", "item-30"], exclude_seen=True)
        until(lambda place=place: listed(page, place), expected)
    page.locator("#gr-history button").first.click()
    until(lambda: histories(page), ["Title 12"])
    until(lambda: listed(page, 1), titles_of(models[1], ["item-12"], exclude_seen=True))
    page.locator("#gr-clear").click()
    until(lambda: histories(page), [])


def test_reasons(page):
    add(page, "title 12", "Title 12")
    until(lambda: histories(page), ["Title 12"])
    until(lambda: page.locator("#gr-why h4").all_inner_texts()[:1], ["What each stage attended to"])
    chosen = page.locator("#gr-list-0 button").nth(2)
    title = chosen.locator(".gr-title").evaluate("one => one.firstChild.textContent.trimEnd()")
    chosen.focus()
    page.keyboard.press("Enter")
    until(lambda: page.locator("#gr-why h3").inner_text().split("”")[0], f"Why “{title}")
    assert page.locator("#gr-list-0 button[aria-pressed=true]").count() == 1
    assert page.locator("#gr-why .gr-leaf").inner_text() == title
    assert page.locator("#gr-why .gr-heat tbody tr").count() == 2
    page.locator("#gr-list-1 button").first.click()
    until(lambda: page.locator("#gr-why h4").all_inner_texts(), ["The ranking after each thinking step"])
    assert page.locator("#gr-why .gr-step").count() == 3
    if page.viewport_size["width"] < 700:  # what was asked for is in sight
        until(lambda: 0 <= page.locator("#gr-why").bounding_box()["y"] < 400, True)


def test_enter_takes_the_user_who_is_named(page):
    box = page.locator("#gr-user textarea")
    box.fill("u2")
    box.press("Enter")
    until(lambda: histories(page), ["Title 7"])
    until(box.input_value, "")
    box.fill("nobody at all")
    box.press("Enter")
    until(lambda: page.locator("#gr-users").inner_text().strip(), "No user of that name.")
    assert histories(page) == ["Title 7"]


def test_what_is_wider_than_the_screen_says_so(page):
    add(page, "title 12", "Title 12")
    until(lambda: histories(page), ["Title 12"])
    page.locator("#gr-list-1 button").first.click()
    until(lambda: page.locator("#gr-why .gr-step").count(), 3)
    wide = page.locator("#gr-why .gr-scroll:has(.gr-steps)")
    phone = page.viewport_size["width"] < 700
    assert wide.evaluate("one => one.scrollWidth > one.clientWidth + 4") == phone
    until(lambda: page.locator("#gr-why .gr-more").count(), int(phone))
    if phone:
        assert wide.evaluate("one => getComputedStyle(one, '::after').content") == '"\u203a"'
        wide.evaluate("one => one.scrollTo(one.scrollWidth, 0)")
        until(lambda: page.locator("#gr-why .gr-more").count(), 0)


def test_titles_and_names_that_mean_harm(page, runs):
    page.locator("#gr-user textarea").fill("img")
    page.locator("#gr-users button", has_text=USER).click()
    expected = [shown(TITLES[row]) for row in range(6)]
    expected[4] = f"{expected[4][:159]}…"
    until(lambda: histories(page), [*expected, "Title 20"])
    until(lambda: listed(page), titles_of(load_model(runs[0] / "model"), [*(f"item-{n}" for n in range(6)), "item-20"]))
    assert page.locator("#gr-why .gr-heat tbody tr").count() == 8
    assert runs[0].name in page.locator("#gr-top").inner_text()
    for row in (1, 2, 5):
        page.locator("#gr-query textarea").fill(f"item-{row}")
        until(lambda row=row: page.locator("#gr-matches button").first.inner_text().strip(), expected[row])


def test_sessions_do_not_see_each_other(page, browser, address):
    add(page, "title 12", "Title 12")
    until(lambda: histories(page), ["Title 12"])
    other = browser.new_context().new_page()
    other.goto(address)
    other.wait_for_selector("#gr-list-0 ol button", timeout=WAIT)
    assert histories(other) == []
    other.context.close()


def test_the_server_gives_no_files_and_takes_none(runs, address):
    for path in (runs[1] / "model/config.json", "/etc/passwd", Path(__file__)):
        for route in ("file=", "file/"):
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(f"{address}/gradio_api/{route}{urllib.request.pathname2url(str(path))}")
            assert refused.value.code in (403, 404)
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.txt"\r\n\r\nmany bytes\r\n--x--\r\n'
    upload = urllib.request.Request(
        f"{address}/gradio_api/upload", body, {"Content-Type": "multipart/form-data; boundary=x"}
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(upload)
    assert refused.value.code == 413


def test_requests_that_no_page_sends(page, address):
    """Whatever arrives, the page goes on answering."""
    junk = [None, "x", -1, 1e308, [], {}, "\ud800", ["a"] * 50, {"path": "/etc/passwd"}, "9" * 100_000]
    config = json.loads(urllib.request.urlopen(f"{address}/config").read())
    rng = random.Random(0)
    for number in range(150):
        body = {
            "data": [rng.choice(junk) for _ in range(rng.randrange(5))],
            "event_data": rng.choice([None, *junk, {"add": "0", "row": rng.choice(junk), "run": "0"}]),
            "fn_index": rng.choice([*range(len(config["dependencies"])), 99, -1]),
            "session_hash": f"junk{number}",
        }
        request = urllib.request.Request(
            f"{address}/gradio_api/queue/join", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with suppress(urllib.error.HTTPError):
            urllib.request.urlopen(request, timeout=60).read()
    add(page, "title 12", "Title 12")
    until(lambda: histories(page), ["Title 12"])
    until(lambda: page.locator("#gr-why .gr-heat tbody tr").count(), 2)


def test_the_server_calls_nobody(page, connections):
    assert listed(page)
    lines = connections.read_text().splitlines()
    assert lines
    assert all("127.0.0.1" in line for line in lines), lines


PUSH = """
import sys
from hf_genrec.hub import push
push(sys.argv[1], "my-org/tiny")
"""


def test_a_space_shows_the_model_of_its_repository(runs, browser, tmp_path):
    """Its `app.py`, with a Hub on this machine and no folder of the run in sight."""
    port = free_port()
    (tmp_path / "home").mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    write_space(tmp_path / "space", ["my-org/tiny"])
    with LoopbackHub() as hub:
        settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
        environment = kept | settings | {"HF_TOKEN": hub.token, "OMP_NUM_THREADS": "1"}
        pushing = [sys.executable, "-c", PUSH, str(runs[1] / "model")]
        subprocess.run(pushing, env=environment, check=True, cwd=tmp_path, capture_output=True)
        app = subprocess.Popen(
            [sys.executable, "app.py"],
            env=environment | {"GRADIO_SERVER_PORT": str(port)},
            cwd=tmp_path / "space",
            stdout=subprocess.PIPE,
            text=True,
        )
        assert app.stdout.readline().startswith("the demo is at")
        page = browser.new_context().new_page()
        page.goto(f"http://127.0.0.1:{port}")
        page.wait_for_selector("#gr-list-0 ol button", timeout=WAIT)
        assert listed(page) == titles_of(load_model(runs[1] / "model"), [])
        assert "my-org/tiny" in page.locator("#gr-top").inner_text()
        assert page.locator("#gr-user").count() == 0
        page.context.close()
        app.terminate()
        app.wait(30)
