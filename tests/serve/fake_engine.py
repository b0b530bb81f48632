"""An engine without a model, and a tokenizer without a vocabulary: answers depend on prompt and seed alone."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from retro.common.errors import ArtifactError, ConfigError
from retro.generate.request import (
    ChosenToken,
    Completion,
    Ended,
    Event,
    GivenPassages,
    LiveRetrieval,
    Request,
    Retrieved,
    TokenProbability,
)
from retro.qa.question import Context, PassageLike
from retro.tokenizers.tokenizer import TokenIds

CHUNK, SEQUENCE, END = 16, 400, 256
WORDS = ("amber", "birch", "cobalt", "dune", "ember", "fjord", "grove", "harbor", "isle", "juniper", "köln", "lagoon")


class ByteTokenizer:
    """Every byte is a token; 256 ends a document."""

    vocab_size = 257
    eod = END
    fingerprint = "bytes"

    def encode(self, text: str) -> list[int]:
        return list(text.encode("utf-8"))

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: TokenIds) -> str:
        return bytes(int(id_) for id_ in ids if int(id_) < END).decode("utf-8", errors="replace")

    def decode_batch(self, ids: Sequence[TokenIds]) -> list[str]:
        return [self.decode(row) for row in ids]


TOKENIZER = ByteTokenizer()


def fake_answer(prompt: Sequence[int], seed: int, words: int = 40) -> str:
    """What the engine says to a prompt, before limits and stop strings: words drawn by prompt and seed."""
    digest = hashlib.sha512(repr((list(prompt), seed)).encode()).digest()
    return "".join(f" {WORDS[digest[place % 64] % len(WORDS)]}{place}" for place in range(words))


def fake_retrieve(texts: list[str]) -> list[list[PassageLike]]:
    """Passages that name what was asked."""
    return [[_passage(text.strip()[:30], k) for k in range(3)] for text in texts]


def _passage(asked: str, k: int) -> Context:
    number = 3 * (sum(asked.encode()) % 5) + k
    text = f"Passage {number} about {asked!r}"
    return Context(title=f"Page {number}", text=text, document_id=f"d{number}", score=0.9 - k / 10, row=number)


@dataclass
class _Running:
    request: Request
    answer: bytes
    held: int = 0
    tokens: list[ChosenToken] = field(default_factory=list)
    retrieved: list[Retrieved] = field(default_factory=list)
    given_out: int = 0
    cancelled: bool = False


class FakeEngine:
    """Says `fake_answer(prompt, seed)` a byte at a time; a text that names a failure fails in that way."""

    def __init__(
        self, *, max_running: int = 8, step_seconds: float = 0.0, words: int = 40, gate: threading.Event | None = None
    ) -> None:
        self.max_running, self.step_seconds, self.words, self.gate = max_running, step_seconds, words, gate
        self._next = 0
        self._waiting: deque[int] = deque()
        self._by_number: dict[int, _Running] = {}
        self.most_at_once = 0
        self.steps = 0

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._by_number) - len(self._waiting)

    def submit(self, request: Request) -> int:
        prompt = bytes(id_ for id_ in request.prompt if id_ < END)
        if b"lose a file" in prompt:
            raise ArtifactError(Path("/secret/db.h5"), "is missing", "Run `retro db` again")
        if len(request.prompt) > SEQUENCE or b"refuse me" in prompt:
            raise ConfigError("Request.prompt", f"{len(request.prompt)} tokens", f"needs at most {SEQUENCE}")
        number, self._next = self._next, self._next + 1
        answer = fake_answer(request.prompt, request.sampling.seed, self.words).encode()
        self._by_number[number] = _Running(request, answer)
        self._waiting.append(number)
        return number

    def cancel(self, number: int) -> None:
        if number in self._by_number:
            self._by_number[number].cancelled = True

    def step(self) -> list[tuple[int, Event]]:
        time.sleep(self.step_seconds)
        if self.gate is not None:
            self.gate.wait(timeout=60)
        self.steps += 1
        while self._waiting and self.running < self.max_running:
            self._waiting.popleft()
        self.most_at_once = max(self.most_at_once, self.running)
        waiting = {number for number in self._waiting if not self._by_number[number].cancelled}
        events = [(number, self._advance(one)) for number, one in self._by_number.items() if number not in waiting]
        for number, event in events:
            if event.completion is not None:
                del self._by_number[number]
                if number in self._waiting:
                    self._waiting.remove(number)
        return events

    def _advance(self, one: _Running) -> Event:
        request, limit = one.request, one.request.sampling.max_new_tokens
        prompt = bytes(id_ for id_ in request.prompt if id_ < END)
        if b"break the step" in prompt and len(one.tokens) == 5:
            raise RuntimeError("secret of the inside")
        if one.cancelled:
            return self._ended(one, "cancelled", len(one.tokens), (), ())
        found = tuple(self._read(one))
        one.retrieved += found
        place = len(one.tokens)
        top = tuple(TokenProbability(id=97 + rank, logprob=-1.0 - rank) for rank in range(request.top_logprobs))
        token = ChosenToken(id=one.answer[place], logprob=-0.5, top=top)
        one.tokens.append(token)
        text = one.answer[: place + 1].decode("utf-8", errors="ignore")
        stops = [at for stop in request.sampling.stop if (at := text.find(stop)) >= 0]
        if stops:
            return self._ended(one, "stop", len(text[: min(stops)].encode()), found, (token,))
        if place + 1 == len(one.answer):
            return self._ended(one, "end", place + 1, found, (token,))
        if place + 1 == limit or place + 1 + len(request.prompt) >= SEQUENCE:
            return self._ended(one, "length", place + 1, found, (token,))
        # Held back as long as a stop string could begin in it.
        longest = max((len(stop) for stop in request.sampling.stop), default=1) - 1
        new = text[one.given_out : max(one.given_out, len(text) - longest)]
        one.given_out += len(new)
        return Event(text=new, tokens=(token,), retrieved=found)

    def _read(self, one: _Running) -> Iterator[Retrieved]:
        reading, length, new = one.request.reading, len(one.request.prompt), len(one.tokens)
        every = (reading.interval if isinstance(reading, LiveRetrieval) else None) or CHUNK
        if reading is None or new % every:
            return
        if isinstance(reading, GivenPassages):
            yield Retrieved(position=length - 1 + new, passages=reading.passages)
            return
        asked = TOKENIZER.decode([*one.request.prompt, *(token.id for token in one.tokens)][-CHUNK:])
        question = reading.question if not new and reading.question else asked
        yield Retrieved(position=length - 1 + new, passages=tuple(fake_retrieve([question])[0][: reading.passages]))

    def _ended(
        self, one: _Running, ended: Ended, length: int, found: tuple[Retrieved, ...], tokens: tuple[ChosenToken, ...]
    ) -> Event:
        text = one.answer[:length].decode("utf-8", errors="replace")
        completion = Completion(
            tokens=tuple(one.tokens),
            text=text,
            ended=ended,
            retrieved=tuple(one.retrieved),
            prompt_tokens=len(one.request.prompt),
        )
        return Event(text=text[one.given_out :], tokens=tokens, retrieved=found, completion=completion)

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        numbers = [self.submit(request) for request in requests]
        done: dict[int, Completion] = {}
        while len(done) < len(numbers):
            done |= {number: event.completion for number, event in self.step() if event.completion is not None}
        return [done[number] for number in numbers]

    def stream(self, request: Request) -> Iterator[Event]:
        number = self.submit(request)
        while True:
            for mine, event in self.step():
                if mine == number:
                    yield event
                    if event.completion is not None:
                        return
