"""Around every request: its size, its token, a line of the log, and the farewell of a server that stops."""

import hmac
import json
import logging
import time
import uuid
from datetime import UTC, datetime
from typing import Any

from fastapi import HTTPException
from starlette.responses import JSONResponse

from hf_genrec.serving.metrics import ServerMetrics
from hf_genrec.serving.settings import ServerSettings

logger = logging.getLogger("hf_genrec.serving.requests")

# Whoever watches over the server has no token, and a browser that opens the documentation cannot send one.
OPEN_PATHS = frozenset(("/health", "/ready", "/", "/docs", "/openapi.json"))


class Requests:
    """
    An ASGI application around another one.

    Attributes:
        closing: whether the server stops: answers then tell clients to open another connection, to another server.
    """

    def __init__(self, app: Any, settings: ServerSettings, metrics: ServerMetrics, paths: frozenset[str]):
        self.app, self.settings, self.metrics, self.paths = app, settings, metrics, paths
        self.closing = False

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500
        headers = dict(scope["headers"])
        facts: dict[str, Any] = {}
        scope.setdefault("state", {})["facts"] = facts
        request_id = uuid.uuid4().hex[:16]

        async def send_on(message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                more = [(b"x-request-id", request_id.encode())]
                if self.closing:
                    more.append((b"connection", b"close"))
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        try:
            refused = self._refusal(scope["path"], headers)
            await (refused or self.app)(scope, self._limited(receive), send_on)
        finally:
            seconds = time.perf_counter() - began
            path = scope["path"] if scope["path"] in self.paths else "other"
            if scope["path"].startswith("/items/"):
                path = "/items/{id}"
            self.metrics.requests.labels(path, str(status)).inc()
            self.metrics.seconds.labels(path).observe(seconds)
            line = {
                "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "request": request_id,
                "method": scope["method"],
                "path": path,
                "status": status,
                "ms": round(1000 * seconds, 2),
            }
            logger.info(json.dumps(line | facts))

    def _refusal(self, path: str, headers: dict[bytes, bytes]) -> JSONResponse | None:
        token = self.settings.token
        if token is not None and path not in OPEN_PATHS:
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, b"Bearer " + token.encode()):
                return JSONResponse(
                    {"detail": "give the server's token: Authorization: Bearer ..."},
                    401,
                    headers={"WWW-Authenticate": "Bearer"},
                )
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length[:20]) > self.settings.max_body_bytes:
            return self._too_large()
        return None

    def _too_large(self) -> JSONResponse:
        detail = (
            f"the body is larger than {self.settings.max_body_bytes} bytes: send fewer histories or items at a time"
        )
        return JSONResponse({"detail": detail}, 413, headers={"Connection": "close"})

    def _limited(self, receive):
        """`receive`, for bodies that do not say how long they are."""
        total = 0

        async def limited():
            nonlocal total
            message = await receive()
            total += len(message.get("body", b""))
            if total > self.settings.max_body_bytes:
                raise HTTPException(413, self._too_large, {"Connection": "close"})
            return message

        return limited
