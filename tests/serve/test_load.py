"""Many clients at once, some of them bad: a few seconds of the load test, with an engine of tests and a real model."""

from __future__ import annotations

import asyncio
import time

from benchmarks.serving_load import Load, answers_alone, put_load, questions
from retro.run.config import RunConfig
from retro.run.pipeline import model_paths
from retro.serve.app import Service
from retro.serve.config import ServeConfig
from retro.serve.loading import load_service
from tests.serve.fake_engine import FakeEngine
from tests.serve.fake_server import fake_service
from tests.serve.running import running


def apply_load(service: Service, *, clients: int, seconds: float, tokens: int) -> Load:
    with running(service) as server:
        asked = questions([f"text {number}" for number in range(6)], tokens)
        alone = asyncio.run(answers_alone(server.port, asked))
        load = asyncio.run(put_load(server.port, asked, alone, clients=clients, seconds=seconds))
        for _ in range(500):
            if service.scheduler.unfinished == service.scheduler.health().running == 0:
                break
            time.sleep(0.02)
        assert service.scheduler.unfinished == service.scheduler.health().running == 0
        assert asyncio.run(answers_alone(server.port, asked)) == alone
        assert server.get("/health").json["failed_steps"] == 0
        return load


def test_under_load_every_answer_is_the_one_given_alone() -> None:
    load = apply_load(
        fake_service(open_engine=lambda: FakeEngine(step_seconds=0.001)), clients=25, seconds=3, tokens=30
    )
    assert load.wrong == []
    assert load.answered
    assert load.counts["left half way"] > 0
    assert load.counts["malformed, refused"] > 0


def test_a_full_server_refuses_requests_and_mixes_up_none() -> None:
    config = ServeConfig(max_running=2, max_queued=2)
    service = fake_service(config, open_engine=lambda: FakeEngine(step_seconds=0.02, max_running=2))
    load = apply_load(service, clients=20, seconds=2, tokens=30)
    assert load.wrong == []
    assert load.counts["refused, full"] > 0


def test_a_real_model_under_load_answers_as_it_does_alone(road: RunConfig) -> None:
    service = load_service(road.serve, road.generate, model_paths(road), "tiny")
    load = apply_load(service, clients=8, seconds=3, tokens=12)
    assert load.wrong == []
    assert load.answered
