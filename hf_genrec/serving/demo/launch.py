"""Starts the demo: on a terminal by `hf-genrec demo`, in a Space by its `app.py`."""

import os
from collections.abc import Sequence


def launch(places: Sequence[str], host: str | None = None, port: int | None = None) -> None:
    """
    Open runs, show their page and wait until interrupted.

    Args:
        places: a run folder, saved model or repository on the Hub; or two.
        host, port: where to listen, by default where `GRADIO_SERVER_NAME` and `GRADIO_SERVER_PORT` say.

    Raises:
        ImportError: if Gradio is not installed.
        ValueError, OSError: if a run does not open, or the port is taken.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is imported: it would report to its makers
    try:
        from hf_genrec.serving.demo.page import build_page, serve_page
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise ImportError('the demo needs Gradio: pip install "hf_genrec[demo]"') from None
    from hf_genrec.serving.demo.desk import open_desk

    page = build_page(open_desk(places))
    print(f"the demo is at {serve_page(page, host, port)}; Ctrl-C ends it", flush=True)
    page.block_thread()
