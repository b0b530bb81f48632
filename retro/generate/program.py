"""Answers that take several requests: a program asks, is given completions, asks again, and ends with its answer.

    def program(engine, request):
        prefix = engine.prefill(request.prompt)
        try:
            candidates = yield [Request(prefix=prefix, prompt=passage) for passage in passages]
            return best(candidates)
        finally:
            engine.release(prefix)

Many programs run side by side: the requests of all of them share the engine's steps. What takes time elsewhere, as a
search does, a program yields as a future, and the others go on meanwhile. `ProgramEngine` is an engine whose
every request is a program, so a server or a stage that drives an engine drives a recipe's decoding as well.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from retro.common.errors import ConfigError
from retro.generate.engine import BatchEngine
from retro.generate.request import Completion, Event, Request

Program = Generator[Sequence[Request] | Future[Any], Any, Completion]
"""Yields requests, is sent their completions in the same order; yields a future, is sent its result or thrown its
error; returns the answer. A future that it no longer needs is cancelled. It may call `prefill`, `release`
and `score` of the engine, and nothing else of it; what it holds it releases when it is closed."""
Begin = Callable[[], Program]
BeginRequest = Callable[[BatchEngine, Request], Program]
"""The program that answers a request. It has no `question` where a plain continuation is asked for."""
_WAIT_SECONDS = 0.02
"""How long a step waits where every program waits for a future; then it returns, so that others may be submitted."""


@dataclass(eq=False)
class _Running:
    """A program, and the requests or the future that it waits for."""

    program: Program
    completions: list[Completion | None] = field(default_factory=list)
    future: Future[Any] | None = None
    cancelled: bool = False

    @property
    def waits(self) -> bool:
        """Whether it cannot go on, or end, before a request or a future has ended."""
        if self.future is not None:
            return not (self.cancelled or self.future.done())
        return any(one is None for one in self.completions)

    def go_on(self) -> Sequence[Request] | Future[Any]:
        """Send it what it waited for: what it asks for next.

        Raises:
            StopIteration: It has ended, with its answer.
        """
        done, future = [one for one in self.completions if one is not None], self.future
        self.completions, self.future = [], None
        if future is None:
            return self.program.send(done)
        error = CancelledError() if future.cancelled() else future.exception()
        return self.program.send(future.result()) if error is None else self.program.throw(error)


class ProgramEngine:
    """Runs programs over an engine; see `retro.generate.request.Engine`. Nobody else drives that engine meanwhile."""

    def __init__(
        self, engine: BatchEngine, begin: Callable[[Request], Program] | None = None, max_running: int = 4
    ) -> None:
        """Set up, with nothing to do.

        Args:
            engine: Answers the requests of the programs.
            begin: The program that answers a request; without it programs are run, and no requests submitted.
            max_running: Programs at once; each holds the caches of its prefixes, beside what the engine runs.

        Raises:
            ConfigError: `max_running` is below 1.
        """
        if max_running < 1:
            raise ConfigError("max_running", max_running, "needs at least 1")
        self._engine, self._begin_program, self._max_running = engine, begin, max_running
        self._waiting: deque[tuple[int, Begin]] = deque()
        self._running: dict[int, _Running] = {}
        self._owners: dict[int, tuple[int, int]] = {}
        """From a request's number in the engine to its program, and its place among that program's requests."""
        self._cancelled: set[int] = set()
        self._next_number = 0

    @property
    def waiting(self) -> int:
        """Programs submitted and not begun."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Programs begun and not ended."""
        return len(self._running)

    def submit(self, request: Request) -> int:
        """Queue the program of a request.

        Raises:
            ConfigError: The request cannot be answered by the engine, or by its program.
        """
        self._engine.require(request)
        program = self._program_of(request)
        return self.submit_program(lambda: program)

    def submit_program(self, begin: Begin) -> int:
        """Queue a program; it begins in one of the next steps.

        Returns:
            Its number.
        """
        self._next_number += 1
        self._waiting.append((self._next_number, begin))
        return self._next_number

    def cancel(self, number: int) -> None:
        """End a program early; its last event says "cancelled". Unknown or finished numbers are ignored."""
        if number in self._running or any(number == waiting for waiting, _ in self._waiting):
            self._cancelled.add(number)

    def step(self) -> list[tuple[int, Event]]:
        """One step of the engine for all programs.

        Returns:
            An event for each program; its last one has the whole answer. Empty when nothing is left.

        Raises:
            RetroError: A program or a request failed.
        """
        done = dict(self._begin())
        for number in self._cancelled:
            self._cancel_requests(number)
        self._cancelled.clear()
        if self._owners:
            for inner, event in self._engine.step():
                if event.completion is not None:
                    number, place = self._owners.pop(inner)
                    self._running[number].completions[place] = event.completion
        elif self._running and all(one.waits for one in self._running.values()):
            futures = [one.future for one in self._running.values() if one.future is not None]
            wait(futures, _WAIT_SECONDS, FIRST_COMPLETED)
        for number, one in list(self._running.items()):
            if not one.waits:
                completion = self._advance(number, one)
                if completion is not None:
                    done[number] = completion
        working = [(number, Event()) for number in self._running]
        return working + [(number, _last(completion)) for number, completion in done.items()]

    def run(self, begins: Sequence[Begin]) -> list[Completion]:
        """Run programs to their ends: their answers, in order.

        Raises:
            RetroError: A program or a request failed; the others are dropped.
            ValueError: Other programs are running.
        """
        if self._waiting or self._running:
            raise ValueError("the engine is in the middle of other programs; drive it by submit and step")
        numbers = [self.submit_program(begin) for begin in begins]
        done: dict[int, Completion] = {}
        try:
            while self._waiting or self._running:
                done |= {number: event.completion for number, event in self.step() if event.completion is not None}
        finally:
            self.abandon()
        return [done[number] for number in numbers]

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Answer all of them, in their order; as `run`."""
        for request in requests:
            self._engine.require(request)
        return self.run([partial(self._program_of, request) for request in requests])

    def stream(self, request: Request) -> Iterator[Event]:
        """Answer one; all of its text comes with the last event."""
        self.submit(request)
        return self._events()

    def abandon(self) -> None:
        """Drop all programs, without events, and what they asked for."""
        self._waiting.clear()
        self._cancelled.clear()
        self._owners.clear()
        self._engine.abandon()
        while self._running:
            self._close(self._running.popitem()[1])

    def _program_of(self, request: Request) -> Program:
        if self._begin_program is None:
            raise ValueError("this engine runs programs, and was not told which one answers a request")
        return self._begin_program(request)

    def _events(self) -> Iterator[Event]:
        try:
            while self._waiting or self._running:
                for _, event in self.step():
                    yield event
        finally:
            self.abandon()

    def _begin(self) -> Iterator[tuple[int, Completion]]:
        while self._waiting and (len(self._running) < self._max_running or self._waiting[0][0] in self._cancelled):
            number, begin = self._waiting.popleft()
            if number in self._cancelled:
                self._cancelled.discard(number)
                yield number, Completion(tokens=(), text="", ended="cancelled")
                continue
            self._running[number] = _Running(begin())
            completion = self._advance(number, self._running[number], begun=False)
            if completion is not None:
                yield number, completion

    def _advance(self, number: int, one: _Running, *, begun: bool = True) -> Completion | None:
        """Go on with a program that no longer waits: its answer, or None while it asks for more."""
        if one.cancelled:
            del self._running[number]
            self._close(one)
            return Completion(tokens=(), text="", ended="cancelled")
        try:
            asked = one.go_on() if begun else next(one.program)
            while not asked:
                asked = one.go_on()
        except StopIteration as ended:
            del self._running[number]
            return _require_completion(ended.value)
        except BaseException:
            del self._running[number]
            raise
        if isinstance(asked, Future):
            one.future = asked
            return None
        # A request that cannot be answered is an error inside the program, which releases what it holds.
        try:
            for request in asked:
                self._engine.require(request)
        except ConfigError as error:
            del self._running[number]
            with suppress(StopIteration):
                one.program.throw(error)
            raise
        one.completions = [None] * len(asked)
        for place, request in enumerate(asked):
            self._owners[self._engine.submit(request)] = number, place
        return None

    def _close(self, one: _Running) -> None:
        """End a program early, and let go of what it asked for and never saw."""
        for completion in one.completions:
            if completion is not None and completion.prefix is not None:
                self._engine.release(completion.prefix)
        if one.future is not None:
            one.future.cancel()
        one.program.close()

    def _cancel_requests(self, number: int) -> None:
        one = self._running.get(number)
        if one is None:
            return
        one.cancelled = True
        for inner, (owner, _) in self._owners.items():
            if owner == number:
                self._engine.cancel(inner)


def _require_completion(value: object) -> Completion:
    if not isinstance(value, Completion):
        raise ValueError(f"a program ended with {type(value).__name__}, needs to return a Completion")
    return value


def _last(completion: Completion) -> Event:
    return Event(text=completion.text, tokens=completion.tokens, retrieved=completion.retrieved, completion=completion)
