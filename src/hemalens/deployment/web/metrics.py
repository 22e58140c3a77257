"""What the server counts, for Prometheus.

Needs prometheus-client.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, start_http_server

from hemalens.core.errors import ConfigError

__all__ = ["Metrics"]

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SIZES = (1, 2, 4, 8, 16, 32)


class Metrics:
    """Counters of one server, in a registry of its own."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self.requests = Counter(
            "hemalens_requests", "Requests answered.", ("path", "method", "status"), registry=registry
        )
        self.seconds = Histogram(
            "hemalens_request_seconds", "From headers to answer.", ("path",), buckets=_SECONDS, registry=registry
        )
        self.pictures = Counter(
            "hemalens_pictures", "Pictures answered, abstained from or unreadable.", ("outcome",), registry=registry
        )
        for outcome in ("answered", "abstained", "unreadable"):
            self.pictures.labels(outcome)
        self.batch = Histogram("hemalens_batch_tasks", "Tasks in a batch.", buckets=_SIZES, registry=registry)
        self.replaced = Counter("hemalens_workers_replaced", "Processes that died or hung.", registry=registry)
        self._waiting = Gauge("hemalens_queue_tasks", "Tasks that wait for a process.", registry=registry)

    def watch_queue(self, length: Callable[[], int]) -> None:
        """Ask for the queue's length whenever somebody reads the metrics."""
        self._waiting.set_function(length)

    def total(self, counter: Counter) -> int:
        """Return a counter's sum over its labels."""
        samples = [sample for family in counter.collect() for sample in family.samples]
        return int(sum(sample.value for sample in samples if sample.name.endswith("_total")))

    def text(self) -> bytes:
        """Return all of it in Prometheus' text format."""
        return generate_latest(self._registry)

    @contextmanager
    def answered_at(self, host: str, port: int) -> Iterator[int]:
        """Answer for them at an address of their own, in a thread; yield the port, one that is free where 0."""
        try:
            server, thread = start_http_server(port, host, self._registry)
        except OSError as error:
            rule = f"cannot be used ({error.strerror})"
            raise ConfigError(f"metrics address {host}:{port}", rule, "choose another --metrics-address") from error
        try:
            yield server.server_port
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
