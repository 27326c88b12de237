"""The application behind a port of this machine."""

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, without the signal at the end: whoever has answered all that was accepted ends with 0."""
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def shutdown(self, sockets=None) -> None:
        """Called by uvicorn after SIGTERM or SIGINT."""
        self._around.closing = True
        # The kernel has connected clients that nobody has accepted yet: it would cut them off.
        last = [listening.dup() for listening in sockets or []]
        for server in self.servers:
            server.close()
        for listening in sockets or []:
            listening.close()
        for connection in [found for listening in last for found in accepted_and_closed(listening)]:
            await asyncio.get_running_loop().connect_accepted_socket(self._protocol, connection)
        await asyncio.sleep(self._drain_seconds)
        await super().shutdown(sockets)

    def _protocol(self) -> asyncio.Protocol:
        """What answers a connection, as uvicorn makes it for those it accepts itself."""
        protocol: Any = self.config.http_protocol_class
        return protocol(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)


def accepted_and_closed(listening: socket.socket) -> list[socket.socket]:
    """The connections that wait at a socket, which listens no more."""
    found: list[socket.socket] = []
    listening.setblocking(False)
    with listening:
        while True:
            try:
                connection, _ = listening.accept()
            except BlockingIOError:
                return found
            connection.setblocking(False)
            found.append(connection)


def bound_port(host: str, port: int) -> socket.socket:
    """
    A socket that listens on a port, before models are loaded for it.

    Raises:
        OSError: if the port is taken, or the address is none of this machine's.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise OSError(f"{host}, port {port}: {error.strerror or error}: give another --port or --host") from error


def serve(application: Any, settings: ServerSettings, listening: socket.socket) -> None:
    """Answer requests on a socket until SIGTERM or Ctrl-C; a line of JSON on standard output for each."""
    lines = logging.getLogger("hf_genrec.serving.requests")
    lines.propagate = False
    lines.setLevel(logging.INFO)
    lines.addHandler(logging.StreamHandler(sys.stdout))
    config = uvicorn.Config(
        application,
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=int(settings.timeout_seconds) + 1,
    )
    sys.setswitchinterval(0.0005)  # by default the thread that computes waits ten times as long for this one
    server = DrainingServer(config, application, settings.drain_seconds)
    try:
        server.run(sockets=[listening])
    finally:
        listening.close()
