"""Programs: answers of several requests, side by side on one engine."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import replace
from typing import Any

import pytest

from retro.common.errors import ConfigError
from retro.generate.engine import BatchEngine
from retro.generate.program import Program, ProgramEngine
from retro.generate.request import Completion, Request, Sampling
from tests.generate.fake import FakeDecoder, LetterTokenizer, letters, random_rule

TWO = ("one ", "two ")


def longest_of(engine: BatchEngine, request: Request, passages: Sequence[str] = TWO) -> Program:
    """Continue each passage, then continue the longest continuation."""
    prefix = engine.prefill(request.prompt)
    try:
        asked = [replace(request, prompt=letters(passage), prefix=prefix, keep=True) for passage in passages]
        found = yield asked
        held = [one.prefix for one in found if one.prefix is not None]
        try:
            best = max(found, key=lambda one: len(one.tokens))
            [last] = yield [replace(request, prompt=letters(" b "), prefix=best.prefix)]
        finally:
            for one in held:
                engine.release(one)
    finally:
        engine.release(prefix)
    return replace(last, text=f"{best.text}|{last.text}", details={"tried": len(found)})


def asked(prompt: str, seed: int = 0) -> Request:
    return Request(prompt=letters(prompt), sampling=Sampling(temperature=1.5, seed=seed, max_new_tokens=6))


def program_engine(decoder: FakeDecoder, **settings: Any) -> ProgramEngine:
    engine = BatchEngine(decoder, LetterTokenizer(), max_running=8)
    return ProgramEngine(engine, lambda request: longest_of(engine, request), **settings)


def alone(prompt: str, seed: int) -> str:
    """The same by hand, with nothing shared."""
    engine = BatchEngine(FakeDecoder(random_rule), LetterTokenizer())
    request = asked(prompt, seed)
    found = engine.generate([replace(request, prompt=letters(prompt + text)) for text in TWO])
    place = max(range(2), key=lambda number: len(found[number].tokens))
    ids = [*letters(prompt + TWO[place]), *(one.id for one in found[place].tokens), *letters(" b ")]
    return f"{found[place].text}|{engine.generate([replace(request, prompt=ids)])[0].text}"


def test_programs_answer_as_each_does_alone_and_leave_nothing_open() -> None:
    decoder = FakeDecoder(random_rule)
    prompts = ["what is it", "who", "where is it", "why", "when"]
    found = program_engine(decoder).generate([asked(one, seed) for seed, one in enumerate(prompts)])
    assert [one.text for one in found] == [alone(one, seed) for seed, one in enumerate(prompts)]
    assert all(one.details == {"tried": 2} for one in found)
    assert decoder.rows == {}


def test_requests_of_several_programs_share_a_step() -> None:
    decoder = FakeDecoder(random_rule)
    program_engine(decoder, max_running=3).generate([asked("what", seed) for seed in range(3)])
    assert max(decoder.calls) == 3 * len(TWO)


def test_events_are_of_programs_and_a_cancelled_one_lets_go_of_everything() -> None:
    decoder = FakeDecoder(random_rule)
    engine = program_engine(decoder, max_running=2)
    numbers = [engine.submit(asked("what", seed)) for seed in range(3)]
    assert engine.waiting == 3
    first = dict(engine.step())
    assert set(first) == {1, 2}
    assert (engine.running, engine.waiting) == (2, 1)
    engine.cancel(numbers[0])
    engine.cancel(numbers[2])
    engine.cancel(99)
    ended: dict[int, Completion] = {}
    while engine.running or engine.waiting:
        ended |= {number: event.completion for number, event in engine.step() if event.completion is not None}
    assert [ended[number].ended for number in (numbers[0], numbers[2])] == ["cancelled", "cancelled"]
    assert ended[numbers[1]].text == alone("what", 1)
    assert decoder.rows == {}
    assert engine.step() == []


def test_a_stream_gives_the_whole_answer_with_its_last_event() -> None:
    events = list(program_engine(FakeDecoder(random_rule)).stream(asked("what")))
    assert events[-1].completion is not None
    assert "".join(one.text for one in events) == events[-1].completion.text == alone("what", 0)


def test_a_reader_that_stops_ends_its_program() -> None:
    decoder = FakeDecoder(random_rule)
    for _ in program_engine(decoder).stream(asked("what")):
        break
    gc.collect()
    assert decoder.rows == {}


def test_a_request_that_does_not_fit_is_an_error_in_its_program_which_lets_go() -> None:
    decoder = FakeDecoder(random_rule)
    engine = BatchEngine(decoder, LetterTokenizer())
    programs = ProgramEngine(engine, lambda request: longest_of(engine, request, ["a" * 100]))
    with pytest.raises(ConfigError, match="prompt"):
        programs.generate([asked("what")])
    assert decoder.rows == {}
    # A prompt that no engine takes is refused before any program begins.
    with pytest.raises(ConfigError, match="prompt"):
        programs.submit(asked("a" * 100))


def test_a_program_that_fails_drops_the_others() -> None:
    decoder = FakeDecoder(random_rule)
    engine = BatchEngine(decoder, LetterTokenizer())

    def fails(request: Request) -> Program:
        prefix = engine.prefill(request.prompt)
        try:
            yield [replace(request, prompt=letters("a"), prefix=prefix)]
            raise ConfigError("setting", 1, "needs another")
        finally:
            engine.release(prefix)

    programs = ProgramEngine(engine, fails)
    with pytest.raises(ConfigError, match="needs another"):
        programs.run([lambda: longest_of(engine, asked("what")), lambda: fails(asked("who"))])
    assert (decoder.rows, programs.running, programs.waiting) == ({}, 0, 0)


def test_a_program_may_ask_nothing_and_must_return_a_completion() -> None:
    def nothing(said: Any) -> Program:
        yield []
        return said

    programs = ProgramEngine(BatchEngine(FakeDecoder(random_rule), LetterTokenizer()), nothing)
    said = Completion(tokens=(), text="nothing found", ended="end")
    assert programs.run([lambda: nothing(said)]) == [said]
    with pytest.raises(ValueError, match="ended with str"):
        programs.run([lambda: nothing("text")])
    with pytest.raises(ConfigError, match="max_running = 0"):
        ProgramEngine(BatchEngine(FakeDecoder(random_rule), LetterTokenizer()), nothing, 0)


def looked_up(engine: BatchEngine, request: Request, future: Future[str]) -> Program:
    """Hold a prefix, wait for a text, and answer with it; an error of the search is the answer too."""
    prefix = engine.prefill(request.prompt)
    try:
        found: str = yield future
    except OSError as error:
        found = str(error)
    finally:
        engine.release(prefix)
    return Completion(tokens=(), text=found, ended="end")


def test_programs_go_on_while_one_waits_for_a_future() -> None:
    decoder = FakeDecoder(random_rule)
    engine = BatchEngine(decoder, LetterTokenizer())
    programs, future = ProgramEngine(engine), Future[str]()
    slow = programs.submit_program(lambda: looked_up(engine, asked("who"), future))
    quick = programs.submit_program(lambda: longest_of(engine, asked("what", 1)))
    done: dict[int, Completion] = {}
    while quick not in done:
        done |= {number: event.completion for number, event in programs.step() if event.completion is not None}
    assert done[quick].text == alone("what", 1)
    # Nothing is left but to wait, and a step does not wait for ever: others may come.
    assert [(number, event.completion) for number, event in programs.step()] == [(slow, None)]
    future.set_result("found")
    [(number, event)] = programs.step()
    assert (number, event.text, decoder.rows) == (slow, "found", {})


def test_the_error_of_a_future_is_one_in_its_program() -> None:
    decoder = FakeDecoder(random_rule)
    engine = BatchEngine(decoder, LetterTokenizer())
    known, unknown = Future[str](), Future[str]()
    known.set_exception(OSError("no server"))
    [found] = ProgramEngine(engine).run([lambda: looked_up(engine, asked("who"), known)])
    assert found.text == "no server"
    unknown.set_exception(ConfigError("setting", 1, "needs another"))
    with pytest.raises(ConfigError, match="needs another"):
        ProgramEngine(engine).run([lambda: looked_up(engine, asked("who"), unknown)])
    gone = Future[str]()
    gone.cancel()
    with pytest.raises(CancelledError):
        ProgramEngine(engine).run([lambda: looked_up(engine, asked("who"), gone)])
    assert decoder.rows == {}


def test_a_program_that_waits_is_cancelled_at_once_and_so_is_its_future() -> None:
    decoder = FakeDecoder(random_rule)
    engine = BatchEngine(decoder, LetterTokenizer())
    programs, futures = ProgramEngine(engine), [Future[str](), Future[str]()]
    for future in futures:
        programs.submit_program(lambda future=future: looked_up(engine, asked("who"), future))  # type: ignore[misc]
    programs.step()
    programs.cancel(1)
    ended = [event.completion.ended for _, event in programs.step() if event.completion is not None]
    assert (ended, [one.cancelled() for one in futures]) == (["cancelled"], [True, False])
    programs.abandon()
    assert (futures[1].cancelled(), decoder.rows) == (True, {})
