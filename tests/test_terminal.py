"""Text of others on the terminal: what turns or hides other text is written as an escape."""

import json
import logging
import os
import subprocess
import sys

import pytest
from conftest import exit_code, make_model, make_processor, run_command

from hf_genrec.terminal import ShownFormatter, shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Alien\x1b[2J\x1b]0;title\x07", "Alien\\x1b[2J\\x1b]0;title\\x07"),
        ("a\nb\rc\td\x9b31m", "a\\nb\\rc\\td\\x9b31m"),
        ("exe\u202etxt\u2066\u2028", "exe\\u202etxt\\u2066\\u2028"),
        ("half \ud800", "half \\ud800"),
        ("Amélie, 千と千尋, شهر, עיר, 👩\u200d🚀", "Amélie, 千と千尋, شهر, עיר, 👩\u200d🚀"),
    ],
)
def test_shown(text, expected):
    assert shown(text) == expected
    shown(text).encode()


def test_log_lines_keep_their_lines_and_nothing_else():
    record = logging.LogRecord("hf_genrec", logging.INFO, "", 0, "| %s |\n| b |", ("\x1b[1m",), None)
    assert ShownFormatter("%(message)s").format(record) == "| \\x1b[1m |\n| b |"


def test_recommended_titles_and_ids(tmp_path, monkeypatch, capsys):
    model = make_model(make_processor())
    processor = model.processor
    item_ids = [f"{item_id}\x1b[31m" for item_id in processor.item_ids]
    titles = [f"{title}\x1b]52;c;aGk=\x07\u202e" for title in processor.titles]
    processor.set_catalogue(item_ids, processor.codes, titles)
    model.save_pretrained(tmp_path / "model")
    printed = run_command(monkeypatch, capsys, "recommend", tmp_path, "--history", item_ids[3])
    assert "\\x1b]52;c;aGk=\\x07\\u202e  (item item-" in printed
    assert all(letter.isprintable() or letter == "\n" for letter in printed)


def test_an_error_is_one_line(tmp_path, capsys):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text(json.dumps({"model_type": "x\x1b[2J\ny", "auto_map": {}}))
    assert exit_code("recommend", tmp_path, "--history", "a") == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert "\x1b[2J" not in printed


def test_the_help_of_stranger_says_that_code_is_run(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    assert "only for one you trust" in _words(run_command(monkeypatch, capsys, "recommend", "--help"))


def _words(printed: str) -> str:
    return " ".join(printed.replace("│", " ").split())


# A command, and then whether a progress bar would be shown.
WATCHED = """
from hf_genrec import cli
try:
    cli.main()
finally:
    from tqdm.auto import tqdm
    from hf_genrec.terminal import shows_bars
    print(tqdm(total=1).disable, shows_bars())
"""


@pytest.mark.parametrize("watched", [True, False])
def test_progress_bars_are_for_people(own_data, tmp_path, watched):
    command = [sys.executable, "-c", WATCHED, "prepare", "--config", own_data / "mine.yaml", "--output-dir", tmp_path]
    environment = {name: value for name, value in os.environ.items() if name != "TQDM_DISABLE"}
    if not watched:
        finished = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert finished.returncode == 0, finished.stderr
        assert finished.stdout == "True False\n"
        assert "\r" not in finished.stderr
        assert "examples/s" not in finished.stderr
        assert "test users" in finished.stderr
        return
    ours, theirs = os.openpty()
    try:
        finished = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, env=environment)
        assert finished.stdout == b"False True\n"
    finally:
        os.close(ours)
        os.close(theirs)
