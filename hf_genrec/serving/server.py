"""The application behind a port of this machine."""

import asyncio
import logging
import sys
from typing import Any

import uvicorn

from hf_genrec.serving.settings import ServerSettings


class DrainingServer(uvicorn.Server):
    """
    Stops in three steps: it is not ready any more and takes no new connection; for `drain_seconds` it answers what
    arrives on those it has, and tells their clients to go elsewhere; then it ends, once all is answered.
    """

    def __init__(self, config: uvicorn.Config, around: Any, drain_seconds: float):
        super().__init__(config)
        self._around, self._drain_seconds = around, drain_seconds

    async def shutdown(self, sockets=None) -> None:
        """Called by uvicorn after SIGTERM or SIGINT."""
        self._around.closing = True
        for server in self.servers:
            server.close()
        for listening in sockets or []:
            listening.close()
        await asyncio.sleep(self._drain_seconds)
        await super().shutdown(sockets)


def serve(application: Any, settings: ServerSettings, host: str, port: int) -> None:
    """
    Answer requests until SIGTERM or Ctrl-C; a line of JSON on standard output for each.

    Raises:
        OSError: if the port is taken.
    """
    lines = logging.getLogger("hf_genrec.serving.requests")
    lines.propagate = False
    lines.setLevel(logging.INFO)
    lines.addHandler(logging.StreamHandler(sys.stdout))
    config = uvicorn.Config(
        application,
        host=host,
        port=port,
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=int(settings.timeout_seconds) + 1,
        backlog=2048,
    )
    listening = config.bind_socket()
    server = DrainingServer(config, application, settings.drain_seconds)
    try:
        server.run(sockets=[listening])
    finally:
        listening.close()
