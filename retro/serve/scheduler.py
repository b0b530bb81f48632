"""One thread drives the engine; any thread submits jobs to it and is notified of each step.

    submit(job) → the thread submits its requests → events, step by step → the last completion

A job is everything that one HTTP request asks for: it is accepted, fails, and is cancelled as a whole.

When a step fails nobody knows which job caused it. Jobs whose events were reported already end in an error, because a
second run might not begin with the same text. The others are retried one at a time on a new engine: the job that fails
alone is the cause, and only that one ends in an error. Choices that were finished are kept and reported once.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from retro.common.errors import ConfigError
from retro.generate.request import Engine, Event, Request

log = logging.getLogger(__name__)

_FAILURES_IN_A_ROW = 3
"""After this many without an answer between them the state is `failing`; it continues trying."""

State = Literal["ok", "failing", "stalled", "stopping", "dead"]
"""Answering; failing repeatedly with nothing finished; too long in one step; accepting no more; its thread ended."""


def is_of_request(error: Exception) -> bool:
    """Whether an error says what is wrong with a request. Others, and the paths in them, are the server's own."""
    return isinstance(error, ConfigError)


class Listener(Protocol):
    """The owner of a job. Its methods are called on the scheduler's thread, and must return at once."""

    def on_accepted(self) -> None:
        """All requests of the job are in the engine."""

    def on_event(self, index: int, event: Event) -> None:
        """A step of the job's request of that index."""

    def on_error(self, error: Exception) -> None:
        """The job has failed; nothing follows. `is_of_request` tells whose the error is."""


class Job:
    """Requests that belong together, and the scheduler's own record of them."""

    def __init__(self, requests: Sequence[Request], listener: Listener, *, streams: bool) -> None:
        """Hold the requests.

        Args:
            requests: At least one.
            listener: Called with their events.
            streams: Whether every step is reported, or only the last one of each request.
        """
        self.requests, self.listener, self.streams = tuple(requests), listener, streams
        self.finished: set[int] = set()
        self.reported = self.accepted = self.retried = False


class QueueFullError(Exception):
    """Too much is running and waiting already."""


class NotAcceptingError(Exception):
    """The scheduler is stopping, or its thread has ended."""


@dataclass(frozen=True)
class Health:
    """The state of the scheduler."""

    state: State
    running: int
    waiting: int
    failures: int
    """Steps that failed, since the start."""


class Scheduler:
    """The thread, and the calls that others may make."""

    def __init__(self, open_engine: Callable[[], Engine], *, capacity: int, stall_seconds: float) -> None:
        """Open the engine; `start` begins to drive it.

        Args:
            open_engine: Opens a new engine over the same model; called again after a failed step.
            capacity: Most requests in jobs that are not finished.
            stall_seconds: A step that takes longer counts as stalled.
        """
        self._open_engine, self._engine = open_engine, open_engine()
        self._capacity, self._stall_seconds = capacity, stall_seconds
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._jobs: set[Job] = set()
        self._pending: deque[Job] = deque()
        self._retries: deque[Job] = deque()
        self._by_number: dict[int, tuple[Job, int]] = {}
        self._accepting, self._dead = True, False
        self._failures = self._in_a_row = 0
        self._step_began: float | None = None
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)

    # Called from any thread.

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Accept a job; its listener gets the events.

        Raises:
            QueueFullError: It does not fit beside the jobs that are here.
            NotAcceptingError: No job is accepted any more.
        """
        with self._lock:
            if not self._accepting or self._dead:
                raise NotAcceptingError
            if self._requests_held() + len(job.requests) > self._capacity:
                raise QueueFullError
            self._jobs.add(job)
        self._calls.put(lambda: self._pending.append(job))

    def cancel(self, job: Job) -> None:
        """Drop a job; its listener gets no further event, at the latest after the current step."""
        self._calls.put(lambda: self._drop(job))

    def stop_accepting(self) -> None:
        """Refuse jobs from now on; accepted ones continue."""
        with self._lock:
            self._accepting = False

    def end(self) -> None:
        """Have the thread end after the current step; unfinished jobs fail then."""
        self.stop_accepting()
        self._calls.put(None)

    def close(self) -> None:
        """`end`, and wait for the thread."""
        self.end()
        if self._thread.is_alive():
            self._thread.join(timeout=self._stall_seconds)

    @property
    def unfinished(self) -> int:
        """Requests of jobs that are not finished."""
        with self._lock:
            return self._requests_held()

    def health(self) -> Health:
        """The current state, without waiting for a step."""
        began, running = self._step_began, self._engine.running
        state: State = "ok"
        if self._dead:
            state = "dead"
        elif began is not None and time.monotonic() - began > self._stall_seconds:
            state = "stalled"
        elif not self._accepting:
            state = "stopping"
        elif self._in_a_row >= _FAILURES_IN_A_ROW:
            state = "failing"
        return Health(state, running, max(0, self.unfinished - running), self._failures)

    def _requests_held(self) -> int:
        return sum(len(job.requests) for job in self._jobs)

    # Called from the scheduler's own thread.

    def _run(self) -> None:
        try:
            while self._run_calls():
                self._start_pending()
                if self._engine_is_busy():
                    self._step()
        # Out of memory, perhaps, when a new engine was opened: nothing can be answered any more.
        except Exception:
            log.exception("the scheduler has ended")
        finally:
            with self._lock:
                self._dead = True
            for job in list(self._jobs):
                self._fail(job, RuntimeError("the server ended"))

    def _run_calls(self) -> bool:
        """Run the calls of other threads, waiting for one where nothing else is to be done; False at the end."""
        idle = not (self._engine_is_busy() or self._pending or self._retries)
        try:
            call = self._calls.get(block=idle)
            while call is not None:
                call()
                call = self._calls.get(block=False)
        except queue.Empty:
            return True
        return False

    def _engine_is_busy(self) -> bool:
        # A cancelled request leaves the engine with its next step.
        return bool(self._by_number or self._engine.running or self._engine.waiting)

    def _start_pending(self) -> None:
        if not self._retries:
            while self._pending and not self._retrying_alone():
                self._start(self._pending.popleft())
        elif not self._by_number:
            self._start(self._retries.popleft())

    def _retrying_alone(self) -> bool:
        """Whether a retried job is running alone."""
        return any(job.retried for job, _ in self._by_number.values())

    def _start(self, job: Job) -> None:
        if job not in self._jobs:  # cancelled before it began
            return
        try:
            for index, request in enumerate(job.requests):
                if index in job.finished:  # before a step failed
                    continue
                self._by_number[self._engine.submit(request)] = job, index
        # Whatever a model, an index or a tokenizer raises must become a response.
        except Exception as error:
            if not is_of_request(error):
                log.exception("a request could not be submitted")
                self._failures += 1
            self._cancel_numbers(job)
            self._fail(job, error)
        else:
            if not job.accepted:
                job.accepted = True
                job.listener.on_accepted()

    def _step(self) -> None:
        self._step_began = time.monotonic()
        try:
            events = self._engine.step()
        except Exception as error:  # noqa: BLE001 - as above
            self._recover(error)
            return
        finally:
            self._step_began = None
        for number, event in events:
            self._report(number, event)
        if self._by_number and not self._engine.running and not self._engine.waiting:
            self._recover(RuntimeError("the engine has lost its requests"))

    def _report(self, number: int, event: Event) -> None:
        if number not in self._by_number:  # of a job that was cancelled
            return
        job, index = self._by_number[number]
        if event.completion is not None:
            del self._by_number[number]
            self._in_a_row = 0
            job.finished.add(index)
            if len(job.finished) == len(job.requests):
                self._remove(job)
        if job.streams or event.completion is not None:
            job.reported = job.streams
            job.listener.on_event(index, event)

    def _recover(self, error: Exception) -> None:
        """After a failed step: open a new engine; jobs of the old one are retried or fail."""
        self._failures += 1
        self._in_a_row += 1
        log.error("a step failed with %d requests in it", len(self._by_number), exc_info=error)
        inside = list(dict.fromkeys(job for job, _ in self._by_number.values()))
        self._by_number.clear()
        self._engine = self._open_engine()
        for job in inside:
            if job.reported or len(inside) == 1:
                self._fail(job, error)
            else:
                job.retried = True
                self._retries.append(job)

    def _drop(self, job: Job) -> None:
        self._cancel_numbers(job)
        self._remove(job)

    def _cancel_numbers(self, job: Job) -> None:
        for number in [number for number, (mine, _) in self._by_number.items() if mine is job]:
            del self._by_number[number]
            self._engine.cancel(number)

    def _remove(self, job: Job) -> None:
        with self._lock:
            self._jobs.discard(job)

    def _fail(self, job: Job, error: Exception) -> None:
        self._remove(job)
        job.listener.on_error(error)
