"""Metrics: counts and times of all requests so far, as Prometheus reads them."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, Metric, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from edgert.serve.desk import Desk
from edgert.serve.record import Record

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
UNKNOWN = "unknown"  # addresses that nothing answers at, or that the guard let nobody through to
SPEEDS = (1, 2, 5, 10, 20, 30, 50, 75, 100, 150, 200, 300)


class Metrics:
    """A `Note`. Nothing is counted per token: a request is, at its end."""

    def __init__(self, desk: Desk) -> None:
        self._registry = registry = CollectorRegistry()
        registry.register(Now(desk))
        of, model = ("route", "model", "status"), ("model",)
        self._requests = Counter("edgert_requests", "Requests that ended.", of, registry=registry)
        self._read = Counter("edgert_prompt_tokens", "Tokens of prompts.", model, registry=registry)
        self._cached = Counter(
            "edgert_cached_prompt_tokens", "Of them, those in the cache already.", model, registry=registry
        )
        self._written = Counter("edgert_answer_tokens", "Tokens of answers.", model, registry=registry)
        self._first = Histogram(
            "edgert_time_to_first_token_seconds",
            "From the request to the first token, waiting included.",
            model,
            buckets=SECONDS,
            registry=registry,
        )
        self._speed = Histogram(
            "edgert_decode_tokens_per_second",
            "Of each answer after its first token.",
            model,
            buckets=SPEEDS,
            registry=registry,
        )

    def __call__(self, record: Record) -> None:
        model, timings = record.model or "", record.timings
        route = record.address if record.known else UNKNOWN
        self._requests.labels(route, model, str(record.status)).inc()
        if timings is None:
            return
        self._read.labels(model).inc(timings.prompt_tokens)
        self._cached.labels(model).inc(timings.cached_tokens)
        self._written.labels(model).inc(timings.answer_tokens)
        self._first.labels(model).observe(timings.time_to_first_token_s)
        if timings.decoded_tokens:
            self._speed.labels(model).observe(timings.decode_tokens_per_s)

    def text(self) -> bytes:
        """In the text format of Prometheus."""
        return generate_latest(self._registry)


class Now(Collector):
    """What is true at the moment, asked for when it is told."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def collect(self) -> Iterator[Metric]:
        """One family after another."""
        model = ["model"]
        answering = GaugeMetricFamily("edgert_answering", "Questions that are being answered.", labels=model)
        waiting = GaugeMetricFamily("edgert_waiting", "Questions that wait for their turn.", labels=model)
        loaded = GaugeMetricFamily("edgert_model_loaded", "1 while it is in memory.", labels=model)
        held = GaugeMetricFamily("edgert_kv_tokens", "Tokens in the KV cache.", labels=model)
        room = GaugeMetricFamily("edgert_kv_tokens_capacity", "Most that it can hold.", labels=model)
        for name in self._desk.models.served:
            there = self._desk.models.loaded.get(name)
            asked, at_once = self._desk.asked[name], there.model.conversations if there else 0
            answering.add_metric([name], min(asked, at_once))
            waiting.add_metric([name], max(0, asked - at_once))
            loaded.add_metric([name], int(there is not None))
            held.add_metric([name], there.model.rows.tokens if there else 0)
            room.add_metric([name], at_once * there.model.context if there else 0)
        yield from (answering, waiting, loaded, held, room)
