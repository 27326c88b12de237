"""Starts the demo: on a terminal by `hf-genrec demo`, in a Space by its `app.py`."""

import os
import socket
import threading
from collections.abc import Sequence
from importlib.util import find_spec


def launch(places: Sequence[str], host: str | None = None, port: int | None = None) -> None:
    """
    Open runs, show their page and wait until interrupted.

    Args:
        places: a run folder, saved model or repository on the Hub; or two.
        host, port: where to listen, by default where `GRADIO_SERVER_NAME` and `GRADIO_SERVER_PORT` say.

    Raises:
        ImportError: if Gradio is not installed.
        ValueError, OSError: if a run does not open, or nothing can listen there.
    """
    if host is not None and port is not None:
        _require_free(host, port)  # it takes a while to open the runs
    if find_spec("gradio") is None:
        raise ImportError('the demo needs Gradio: pip install "hf_genrec[demo]"')
    from hf_genrec.serving.demo.desk import open_desk

    desk = open_desk(places)  # before Gradio, which takes seconds to import
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # it would report to its makers
    from hf_genrec.serving.demo.page import build_page, serve_page

    page = build_page(desk)
    print(f"the demo is at {serve_page(page, host, port)}; Ctrl-C ends it", flush=True)
    threading.Event().wait()  # Gradio's own wait ends as if nothing had happened


def _require_free(host: str, port: int) -> None:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        socket.create_server((host, port), family=family).close()
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OSError(
            f"nothing can listen at port {port} of {host} ({reason}): name another --port or --host"
        ) from None
