"""A server without a model, in a process of its own: `python -m tests.serve.fake_server port=0 step_seconds=0.01`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import yaml

from retro.common.progress import set_up_logging
from retro.generate.request import Engine
from retro.serve.app import Service
from retro.serve.config import ServeConfig
from retro.serve.middleware import Metrics
from retro.serve.model_info import ModelInfo
from retro.serve.request_body import BodyTimeouts
from retro.serve.run import listen, serve, with_key
from retro.serve.scheduler import Scheduler
from tests.serve.fake_engine import CHUNK, SEQUENCE, TOKENIZER, FakeEngine, fake_retrieve


def fake_service(
    config: ServeConfig | None = None, *, open_engine: Callable[[], Engine] = FakeEngine, **facts: Any
) -> Service:
    """A service over a fake engine; `facts` change the served model."""
    config, metrics = config or ServeConfig(), Metrics()
    known: dict[str, Any] = {
        "name": "fake",
        "created": 1_700_000_000,
        "tokenizer": TOKENIZER,
        "token_bytes": [bytes([byte]) for byte in range(256)] + [b""],
        "sequence_length": SEQUENCE,
        "chunk_length": CHUNK,
        "neighbors": 2,
        "reads_neighbors": True,
        "retrieve": metrics.counted(fake_retrieve),
        "style": "plain",
        "kind": "conversation",
        "contexts_in_prompt": 0,
    }
    capacity = config.max_running + config.max_queued
    scheduler = Scheduler(open_engine, capacity=capacity, stall_seconds=config.seconds_per_request)
    return Service(
        config=config,
        model=ModelInfo(**(known | facts)),
        scheduler=scheduler,
        metrics=metrics,
        body_timeouts=BodyTimeouts(config.arrival_seconds),
    )


def main(words: list[str]) -> None:
    """Serve until a signal comes."""
    given = {name: yaml.safe_load(value) for name, _, value in (word.partition("=") for word in words)}
    step_seconds = float(given.pop("step_seconds", 0.0))
    set_up_logging()
    config = with_key(ServeConfig(**given))
    service = fake_service(config, open_engine=lambda: FakeEngine(step_seconds=step_seconds))
    serve(service, listen(config))


if __name__ == "__main__":
    main(sys.argv[1:])
