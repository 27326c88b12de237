"""What `/metrics` tells Prometheus."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from hf_genrec.serving.batching import Batcher
from hf_genrec.serving.served_model import ServedModel

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
HISTORIES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class ServerMetrics:
    """Counts of one server, in a registry of its own: several may run in a process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "hf_genrec_requests", "Requests by what became of them", ["path", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "hf_genrec_request_seconds",
            "From a request's arrival to its answer",
            ["path"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.batch = Histogram(
            "hf_genrec_batch_histories",
            "Histories answered in one call of the model",
            ["model"],
            buckets=HISTORIES,
            registry=self.registry,
        )
        self.model_seconds = Histogram(
            "hf_genrec_model_seconds", "A call of the model", ["model"], buckets=SECONDS, registry=self.registry
        )

        self.queued = self._gauge("queued_histories", "Histories that wait")
        self.items = self._gauge("catalogue_items", "Items that can be recommended")
        self.cache = (
            self._gauge("cached_histories", "Histories in the user cache"),
            self._gauge("cached_bytes", "Bytes of the user cache"),
            self._gauge("cache_hits", "Requests that began with a known history"),
            self._gauge("cache_misses", "Requests that did not"),
        )

    def watch(self, served: ServedModel, batcher: Batcher) -> None:
        """Figures of a model that are read when they are asked for."""
        self.queued.labels(served.name).set_function(lambda: batcher.queued)
        self.items.labels(served.name).set_function(lambda: len(served.processor.item_ids))
        cache = served.cache
        if cache is not None:
            reads: list[Callable[[], float]] = [
                lambda: len(cache),
                lambda: cache.num_bytes,
                lambda: cache.hits,
                lambda: cache.misses,
            ]
            for gauge, read in zip(self.cache, reads, strict=True):
                gauge.labels(served.name).set_function(read)

    def _gauge(self, name: str, about: str) -> Gauge:
        return Gauge(f"hf_genrec_{name}", about, ["model"], registry=self.registry)

    def text(self) -> bytes:
        """All of them, as Prometheus reads it."""
        return generate_latest(self.registry)
