"""What a command shows on the terminal."""

import logging


def quiet() -> None:
    """Our own log lines on the terminal; no progress bars for reading and writing a few weights."""
    from transformers.utils import logging as transformers_logging

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("hf_genrec").setLevel(logging.INFO)
    transformers_logging.disable_progress_bar()
