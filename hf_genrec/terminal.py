"""What a command shows on the terminal."""

import logging
import os
import sys
import unicodedata

NO_BARS = "TQDM_DISABLE"

# Marks that turn the order of all that follows. Letters that are written from right to left need none of them.
_BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def shown(text: str) -> str:
    """
    Text of somebody else's file (a title, an id, a name) as a terminal may show it: control characters, line ends
    among them, marks of direction and halves of characters are written as escapes. All other letters stay.

    ```python
    >>> shown("Alien\\x1b[2J"), shown("Amélie")
    ('Alien\\\\x1b[2J', 'Amélie')
    ```
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_shown, text))


def _shown(letter: str) -> str:
    if letter in _BIDI or unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp"):
        return letter.encode("unicode_escape").decode()
    return letter


def in_table(text: str) -> str:
    """Text of somebody else's file, as [`shown`], in a cell of a Markdown table."""
    return shown(text).replace("|", "\\|").replace("<", "&lt;")


class ShownFormatter(logging.Formatter):
    """Log lines as [`shown`]; a message may have several."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(map(shown, super().format(record).split("\n")))


def log_to_terminal(level: int) -> None:
    """Log lines on the terminal, as [`shown`], unless they go somewhere already."""
    handler = logging.StreamHandler()
    handler.setFormatter(ShownFormatter("%(message)s"))
    logging.basicConfig(level=level, handlers=[handler])


def bars_for_people() -> None:
    """No progress bars, of this library or another, where nobody watches: errors go into a file or a pipe. To be called
    before tqdm is imported, which reads the variable then."""
    if not sys.stderr.isatty():
        os.environ.setdefault(NO_BARS, "1")


def shows_bars() -> bool:
    """For what takes yes or no and does not ask tqdm."""
    return not os.environ.get(NO_BARS)


def quiet() -> None:
    """Our own log lines on the terminal; no progress bars for reading and writing a few weights."""
    from transformers.utils import logging as transformers_logging

    log_to_terminal(logging.WARNING)
    logging.getLogger("hf_genrec").setLevel(logging.INFO)
    transformers_logging.disable_progress_bar()
