"""What operators scrape: counters that all processes share through Redis, and the length of the queues."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from redis.exceptions import RedisError

from rightrank.service.jobs.dispatch import Parts
from rightrank.service.jobs.engine import QUEUES, SEPARATE
from rightrank.service.registry.cache import Cache

# Name in Redis → (help, labels). Exposed as `rightrank_<name>_total`.
COUNTERS = {
    "requests": ("HTTP requests answered.", ("method", "route", "status")),
    "request_seconds": ("Time spent on HTTP requests.", ("route",)),
    "artifacts": ("Artifacts served, by whether they were ready.", ("cache",)),
    "artifact_bytes": ("Bytes of artifacts served.", ()),
    "uploads": ("Checkpoints received.", ()),
    "upload_bytes": ("Bytes of uploads received.", ()),
    "jobs": ("Jobs ended.", ("kind", "outcome")),
    "job_seconds": ("Time spent on jobs that succeeded.", ("kind",)),
}


class Tally:
    """Counts in this process, sent to Redis now and then, so that no request waits for its own counting."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, tuple[tuple[str, str], ...]], float] = defaultdict(float)

    def add(self, name: str, amount: float = 1, **labels: str) -> None:
        with self._lock:
            self._counts[name, tuple(labels.items())] += amount

    def flush(self, cache: Cache) -> None:
        """Adds what was counted to the shared counters; what Redis does not take now stays for the next time."""
        with self._lock:
            counts, self._counts = self._counts, defaultdict(float)
        while counts:
            (name, labels), amount = counts.popitem()
            try:
                cache.count(name, amount, **dict(labels))
            except RedisError:
                self.add(name, amount, **dict(labels))
                break
        for (name, labels), amount in counts.items():
            self.add(name, amount, **dict(labels))


class Shared(Collector):
    """Reads the shared counters when asked."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts

    def collect(self) -> Iterator[Metric]:
        found = self.parts.cache.counters()
        for name, (help, labels) in COUNTERS.items():
            family = CounterMetricFamily(f"rightrank_{name}", help, labels=labels)
            for (key, *values), amount in found.items():
                if key == name and len(values) == len(labels):
                    family.add_metric(values, amount)
            yield family
        queues = GaugeMetricFamily("rightrank_queue_length", "Jobs waiting for a worker.", labels=["queue"])
        for queue in (*QUEUES, *SEPARATE):
            queues.add_metric([queue], self.parts.engine.length(queue))
        yield queues
        memory = self.parts.cache.redis.info("memory")
        yield GaugeMetricFamily("rightrank_cache_bytes", "Memory in use by the cache.", value=memory["used_memory"])


def expose(parts: Parts) -> bytes:
    """The metrics in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(Shared(parts))
    return generate_latest(registry)
