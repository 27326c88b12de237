"""What a server allows, and how long it waits."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ServerSettings:
    """
    Attributes:
        max_batch: histories the model is asked about at a time.
        max_wait_ms: milliseconds a batch waits for as many requests as the last one had; a lone client never waits.
        max_queue: histories that may wait; beyond, requests are answered 429.
        max_k: items a history may ask for.
        max_history: items in a history.
        max_histories: histories in a request.
        max_candidates: candidates in a request.
        max_new_items: items in a request that adds some.
        max_body_bytes: bytes of a request; beyond, it is answered 413.
        timeout_seconds: seconds until a request that was not answered is answered 504.
        drain_seconds: seconds a stopping server still reads requests on the connections it has.
        cache_bytes: bytes of encoded histories kept for the users that requests name; 0 keeps none.
        token: what `Authorization: Bearer ...` must hold, if anything.
    """

    max_batch: int = 64
    max_wait_ms: float = 5.0
    max_queue: int = 512
    max_k: int = 100
    max_history: int = 1000
    max_histories: int = 256
    max_candidates: int = 10_000
    max_new_items: int = 100
    max_body_bytes: int = 2**20
    timeout_seconds: float = 30.0
    drain_seconds: float = 0.5
    cache_bytes: int = 2**28
    token: str | None = None
