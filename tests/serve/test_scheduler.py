"""The thread that drives the engine: who hears what, what fails with whom, and what is left behind."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from retro.common.errors import ConfigError
from retro.generate.request import Engine, Event, LiveRetrieval, Request, Sampling
from retro.serve.scheduler import Job, NotAcceptingError, QueueFullError, Scheduler, is_of_request
from tests.serve.fake_engine import FakeEngine, fake_answer


class Recorder:
    """A listener that keeps what it hears, in order."""

    def __init__(self, *, when: str = "", then: Callable[[], Any] | None = None) -> None:
        """Does `then`, on the scheduler's thread, when it is `accepted`, or has an `event`."""
        self.all: queue.Queue[Any] = queue.Queue()
        self._then = {when: then}

    def on_accepted(self) -> None:
        self.all.put("accepted")
        self._do("accepted")

    def on_event(self, index: int, event: Event) -> None:
        self.all.put((index, event))
        self._do("event")

    def _do(self, when: str) -> None:
        if (then := self._then.pop(when, None)) is not None:
            then()

    def on_error(self, error: Exception) -> None:
        self.all.put(error)

    def until_finished(self, choices: int = 1) -> list[Any]:
        """Everything up to the last completion, or to the error."""
        found: list[Any] = []
        while choices:
            found.append(self.all.get(timeout=20))
            if isinstance(found[-1], Exception):
                return found
            choices -= isinstance(found[-1], tuple) and found[-1][1].completion is not None
        return found

    def texts(self, choices: int = 1) -> list[str]:
        """Texts of the completions, by choice."""
        over = [one for one in self.until_finished(choices) if isinstance(one, tuple)]
        done = {index: event.completion.text for index, event in over if event.completion is not None}
        return [done[index] for index in sorted(done)]


def request(prompt: str, *, seed: int = 0, tokens: int = 30) -> Request:
    return Request(prompt=tuple(prompt.encode()), sampling=Sampling(seed=seed, max_new_tokens=tokens))


def expected(prompt: str, *, seed: int = 0, tokens: int = 30) -> str:
    return fake_answer(tuple(prompt.encode()), seed).encode()[:tokens].decode(errors="replace")


@contextmanager
def driving(
    open_engine: Callable[[], Engine] = FakeEngine, *, capacity: int = 100, start: bool = True
) -> Iterator[Scheduler]:
    scheduler = Scheduler(open_engine, capacity=capacity, stall_seconds=30)
    if start:
        scheduler.start()
    try:
        yield scheduler
    finally:
        scheduler.close()


def submit(scheduler: Scheduler, requests: Sequence[Request], *, streams: bool = False) -> tuple[Job, Recorder]:
    heard = Recorder()
    job = Job(requests, heard, streams=streams)
    scheduler.submit(job)
    return job, heard


def test_many_jobs_run_together_and_each_gets_its_own_answer() -> None:
    engine = FakeEngine(max_running=8)
    with driving(lambda: engine, start=False) as scheduler:
        offered = [submit(scheduler, [request(f"question {n}", seed=n)]) for n in range(20)]
        scheduler.start()
        assert [heard.texts() for _, heard in offered] == [[expected(f"question {n}", seed=n)] for n in range(20)]
        assert engine.most_at_once == 8
        assert scheduler.unfinished == 0


def test_a_streaming_job_gets_every_step_and_another_only_the_last() -> None:
    with driving() as scheduler:
        _, streaming = submit(scheduler, [request("a")], streams=True)
        _, whole = submit(scheduler, [request("a")])
        steps = streaming.until_finished()
        assert steps[0] == "accepted"
        assert "".join(event.text for _, event in steps[1:]) == expected("a")
        assert len(steps) == 1 + 30
        assert [type(one) for one in whole.until_finished()] == [str, tuple]


def test_choices_of_one_job_are_told_apart() -> None:
    with driving() as scheduler:
        _, heard = submit(scheduler, [request("a", seed=seed) for seed in range(3)])
        assert heard.texts(3) == [expected("a", seed=seed) for seed in range(3)]


def test_a_request_that_the_engine_refuses_fails_its_whole_job() -> None:
    with driving() as scheduler:
        _, other = submit(scheduler, [request("other")])
        _, heard = submit(scheduler, [request("fine"), request("refuse me")])
        (error,) = heard.until_finished()
        assert isinstance(error, ConfigError)
        assert other.texts() == [expected("other")]
        assert scheduler.unfinished == 0
        assert scheduler.health().failures == 0


def test_a_file_that_the_server_has_lost_fails_a_job_and_counts(caplog: pytest.LogCaptureFixture) -> None:
    with driving() as scheduler:
        _, heard = submit(scheduler, [request("lose a file")])
        (error,) = heard.until_finished()
        assert not is_of_request(error)
        assert is_of_request(ConfigError("max_tokens", 0, "needs at least 1"))
        assert scheduler.health().failures == 1
    assert "/secret/db.h5: is missing" in caplog.text


def test_what_does_not_fit_is_refused_at_once_and_fits_when_there_is_room_again() -> None:
    with driving(capacity=3, start=False) as scheduler:
        _, first = submit(scheduler, [request("a"), request("b")])
        with pytest.raises(QueueFullError):
            submit(scheduler, [request("c"), request("d")])
        _, third = submit(scheduler, [request("e")])
        scheduler.start()
        assert (len(first.texts(2)), len(third.texts())) == (2, 1)
        assert len(submit(scheduler, [request("f")] * 3)[1].texts(3)) == 3


def test_a_cancelled_job_gets_no_more_events_and_leaves_the_engine() -> None:
    engine = FakeEngine()
    with driving(lambda: engine) as scheduler:
        heard = Recorder(when="event", then=lambda: scheduler.cancel(job))
        job = Job([request("a", tokens=100)], heard, streams=True)
        scheduler.submit(job)
        # One that comes after it is answered when the cancellation has been heard.
        assert (heard.all.get(timeout=20), heard.all.get(timeout=20)[1].completion) == ("accepted", None)
        assert submit(scheduler, [request("b")])[1].texts() == [expected("b")]
        assert heard.all.empty()
        assert (engine.running, scheduler.unfinished) == (0, 0)


def test_a_job_cancelled_before_it_began_never_begins() -> None:
    engine = FakeEngine()
    with driving(lambda: engine, start=False) as scheduler:
        job, heard = submit(scheduler, [request("a")])
        scheduler.cancel(job)
        scheduler.start()
        assert submit(scheduler, [request("b")])[1].texts() == [expected("b")]
        assert heard.all.empty()


def test_of_answers_that_are_not_streamed_only_the_one_at_fault_fails() -> None:
    with driving(start=False) as scheduler:
        offered = [submit(scheduler, [request(f"good {n}")]) for n in range(4)]
        _, bad = submit(scheduler, [request("break the step")])
        scheduler.start()
        late = submit(scheduler, [request("late")])[1]
        assert [heard.texts() for _, heard in offered] == [[expected(f"good {n}")] for n in range(4)]
        assert isinstance(bad.until_finished()[-1], RuntimeError)
        assert late.texts() == [expected("late")]
        # Once together with the others, and once alone.
        assert scheduler.health().failures == 2
        assert scheduler.health().state == "ok"


def test_choices_that_were_finished_before_a_step_failed_are_reported_once() -> None:
    with driving(start=False) as scheduler:
        requests = [request("short", tokens=2), request("long"), request("short too", tokens=3)]
        _, heard = submit(scheduler, requests)
        _, bad = submit(scheduler, [request("break the step")])
        scheduler.start()
        assert isinstance(bad.until_finished()[-1], RuntimeError)
        told = [one for one in heard.until_finished(3) if isinstance(one, tuple)]
        assert [index for index, _ in told] == [0, 2, 1]
        assert [event.completion.text for _, event in told] == [
            expected("short", tokens=2), expected("short too", tokens=3), expected("long"),
        ]  # fmt: skip
        assert scheduler.unfinished == 0
        assert heard.all.empty()


def test_a_stream_with_reported_events_is_not_retried() -> None:
    bad = Recorder()
    with driving() as scheduler:
        stream = Recorder(
            when="event", then=lambda: scheduler.submit(Job([request("break the step")], bad, streams=False))
        )
        scheduler.submit(Job([request("told", tokens=100)], stream, streams=True))
        assert isinstance(stream.until_finished()[-1], RuntimeError)
        assert isinstance(bad.until_finished()[-1], RuntimeError)
        assert submit(scheduler, [request("next")])[1].texts() == [expected("next")]


def test_an_engine_that_fails_every_time_has_the_state_failing_until_it_answers() -> None:
    with driving() as scheduler:
        for _ in range(3):
            assert isinstance(submit(scheduler, [request("break the step")])[1].until_finished()[-1], RuntimeError)
        assert scheduler.health().state == "failing"
        assert submit(scheduler, [request("fine")])[1].texts() == [expected("fine")]
        assert scheduler.health().state == "ok"


def test_an_engine_that_cannot_be_opened_again_ends_every_job_with_an_error() -> None:
    engines = iter([FakeEngine()])
    with driving(lambda: next(engines), start=False) as scheduler:
        _, heard = submit(scheduler, [request("good")])
        _, bad = submit(scheduler, [request("break the step")])
        scheduler.start()
        assert str(bad.until_finished()[-1]) == str(heard.until_finished()[-1]) == "the server ended"
        scheduler._thread.join(timeout=20)
        assert scheduler.health().state == "dead"
        with pytest.raises(NotAcceptingError):
            submit(scheduler, [request("more")])


class Forgetful(FakeEngine):
    """Loses what it was given."""

    def step(self) -> list[tuple[int, Event]]:
        self._by_number.clear()
        self._waiting.clear()
        return []


def test_requests_that_an_engine_loses_are_answered_with_an_error() -> None:
    with driving(Forgetful) as scheduler:
        error = submit(scheduler, [request("a")])[1].until_finished()[-1]
        assert str(error) == "the engine has lost its requests"


class Refusing(FakeEngine):
    """Fails when it is given a request, in a way that it should not."""

    def submit(self, request: Request) -> int:
        if isinstance(request.reading, LiveRetrieval):
            raise OSError("the index is gone")
        return super().submit(request)


def test_a_request_that_cannot_be_submitted_fails_alone() -> None:
    with driving(Refusing) as scheduler:
        _, other = submit(scheduler, [request("other", tokens=100)], streams=True)
        _, heard = submit(scheduler, [Request(prompt=(1,), reading=LiveRetrieval())])
        assert isinstance(heard.until_finished()[-1], OSError)
        assert other.texts() == [expected("other", tokens=100)]


def test_while_stopping_nothing_is_accepted_and_everything_is_finished() -> None:
    with driving(start=False) as scheduler:
        _, heard = submit(scheduler, [request("a")])
        scheduler.stop_accepting()
        scheduler.start()
        assert scheduler.health().state == "stopping"
        with pytest.raises(NotAcceptingError):
            submit(scheduler, [request("b")])
        assert heard.texts() == [expected("a")]


def test_what_is_unfinished_when_the_thread_ends_fails() -> None:
    with driving() as scheduler:
        heard = Recorder(when="accepted", then=scheduler.end)
        scheduler.submit(Job([request("a")], heard, streams=False))
        assert str(heard.until_finished()[-1]) == "the server ended"
        scheduler.close()
        assert scheduler.health().state == "dead"


def test_a_step_that_takes_too_long_has_the_state_stalled() -> None:
    gate = threading.Event()
    scheduler = Scheduler(lambda: FakeEngine(gate=gate), capacity=5, stall_seconds=0.01)
    scheduler.start()
    _, heard = submit(scheduler, [request("a", tokens=1)])
    while scheduler.health().state != "stalled":
        time.sleep(0.005)
    gate.set()
    assert len(heard.texts()) == 1
    assert scheduler.health().state == "ok"
    scheduler.close()
