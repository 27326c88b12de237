"""The site: every page has its place, nothing is fetched from elsewhere, nothing is wider than the screen."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml
from test_readme import blocks

from hf_genrec import cli

ROOT = Path(__file__).parents[1]
CHROMIUM = Path("/usr/bin/chromium")
TUTORIAL = (ROOT / "docs/tutorial.md").read_text(encoding="utf-8")


def places(entries) -> list[str]:
    """The pages of a navigation, in order."""
    found = []
    for entry in entries:
        value = next(iter(entry.values())) if isinstance(entry, dict) else entry
        found += [value] if isinstance(value, str) else places(value)
    return found


def test_every_page_stands_in_the_navigation():
    pages = places(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    assert len(pages) == len(set(pages))
    there = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert set(pages) - {"CONTRIBUTING.md", "CHANGELOG.md"} == there


def test_every_picture_is_shown():
    text = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.md"))
    for picture in (ROOT / "docs/pictures").iterdir():
        assert f"](pictures/{picture.name})" in text
        assert picture.stat().st_size < 300_000


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    pytest.importorskip("material", reason="the site needs hf_genrec[docs]")
    pytest.importorskip("mkdocstrings", reason="the site needs hf_genrec[docs]")
    place = tmp_path_factory.mktemp("site") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", place]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    finished = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert not finished.stderr
    return place


@pytest.mark.slow
def test_it_is_built_without_a_warning_and_asks_nothing_of_others(site):
    pages = {path.relative_to(site): path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    assert len(pages) > 20
    for path, page in pages.items():
        loaded = re.findall(r"<(?:script|img|link|iframe|source)\b[^>]*?(?:src|href)=\"([^\"]+)\"", page)
        assert not [address for address in loaded if re.match(r"(?:https?:)?//", address)], path
    assert 'id="hf_genrec.load"' in pages[Path("api.html")]
    assert (site / "benchmarks/results/scaling.png").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 375])
def test_no_page_is_wider_than_the_screen(site, width):
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.is_file():
        pytest.skip(f"there is no {CHROMIUM}")
    options = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=options)
        page = browser.new_page(viewport={"width": width, "height": 900})
        elsewhere: list[str] = []
        page.on("request", lambda request: elsewhere.append(request.url) if "://" in request.url else None)
        for path in sorted(site.glob("*.html")):
            page.goto(path.as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= width, path.name
            page.wait_for_timeout(50)
        browser.close()
    assert not [address for address in elsewhere if not address.startswith(("file:", "data:", "blob:"))]


@pytest.mark.slow
def test_the_tutorial_runs(tmp_path):
    known = set(typer.main.get_command(cli.app).commands)
    make_files, recommend = blocks("python", TUTORIAL)
    (tmp_path / "films.yaml").write_text(*blocks("yaml", TUTORIAL))
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

    def run(command) -> str:
        finished = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert finished.returncode == 0, finished.stderr[-3000:]
        return finished.stdout + finished.stderr

    run([sys.executable, "-c", make_files])
    lines = [line for block in blocks("bash", TUTORIAL) for line in block.splitlines()]
    commands = [shlex.split(line) for line in lines if line.startswith("hf-genrec")]
    assert {words[1] for words in commands} - known <= {"serve"}
    printed = {}
    for words in commands:
        if words[1] != "serve":
            printed.setdefault(words[1], run([sys.executable, "-m", "hf_genrec.cli", *words[1:]]))
    assert "200 users, 60 items, 2000 interactions; 200 validation and 200 test users" in printed["prepare"]
    assert "60 items, codebooks [8, 8, 8], used [8, 8, 8], items with shared codes 0" in printed["tokenize"]
    assert printed["recommend"].count("A space film") == 3 + 5
    assert run([sys.executable, "-c", recommend]).count("A space film") == 3
