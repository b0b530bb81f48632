"""Metrics of the server, in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from retro.qa.passages import Retrieve
from retro.qa.question import PassageLike

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class Metrics:
    """All metrics; each server has its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "retro_requests", "HTTP requests that were answered.", ("route", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "retro_request_seconds",
            "From the first byte of a request to the last of its answer.",
            ("route",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.first_token = Histogram(
            "retro_first_token_seconds",
            "From a streamed request's prompt to its first token.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.prompt_tokens = Counter("retro_prompt_tokens", "Tokens of accepted prompts.", registry=self.registry)
        self.new_tokens = Counter("retro_new_tokens", "Tokens of finished answers.", registry=self.registry)
        self.ended = Counter(
            "retro_answers", "Finished answers, by the reason for their end.", ("ended",), registry=self.registry
        )
        self.cancelled = Counter(
            "retro_cancelled_answers",
            "Answers that were cancelled: the client left, time was up, or they failed.",
            registry=self.registry,
        )
        self.searches = Counter("retro_searches", "Texts that the index was searched for.", registry=self.registry)
        self.search_seconds = Histogram(
            "retro_search_seconds", "Of one search, for one or more texts.", buckets=_SECONDS, registry=self.registry
        )

    def watch(self, name: str, meaning: str, read: Callable[[], float]) -> None:
        """Add a gauge that is read on demand."""
        Gauge(name, meaning, registry=self.registry).set_function(read)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def counted(self, retrieve: Retrieve) -> Retrieve:
        """The same retriever, with its searches counted."""

        def search(texts: list[str]) -> Sequence[Sequence[PassageLike]]:
            began = monotonic()
            found = retrieve(texts)
            self.searches.inc(len(texts))
            self.search_seconds.observe(monotonic() - began)
            return found

        return search
