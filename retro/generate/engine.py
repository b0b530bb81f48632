"""Continuous batching: requests join and leave between steps, and each step chooses one token for all.

**Shared prefixes.** Requests that begin in the same step with the same prompt and reading compute it once: the others
are forks of the first (`Decoder.fork`). So `n` samples of a prompt cost its prefill once. Continuations with different
tokens share a prefix that the caller names:

    prefix = engine.prefill(prompt)
    completions = engine.generate([Request(prefix=prefix, prompt=passage, keep=True) for passage in passages])
    scores = engine.score([Scored(prefix=prefix, prompt=[], continuation=option) for option in options])
    best = completions[0].prefix                     # a beam: fork the best, release the others
    following = engine.generate([Request(prefix=best, prompt=passage) for passage in passages])
    for held in (prefix, *(one.prefix for one in completions)):
        engine.release(held)

Every rank of a model that is spread over processes runs the same engine with the same requests: the decoder gives all
of them the same logits, a request has its own stream of random numbers, and what is found must be the same on all of
them (`retro.generate.ranks.search_once`). So all choose the same tokens without communication.
"""

# Dims in this file.
#   B sequences of a step   V vocabulary

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from retro.common.errors import ConfigError
from retro.generate.chunk_retrieval import NeighborFinder, Tokenizer
from retro.generate.forward import BatchForward
from retro.generate.generation import Generation
from retro.generate.prefix import PrefixCache
from retro.generate.request import Completion, Decoder, Event, Knowledge, Prefix, Reading, Request
from retro.generate.request_checks import require_request
from retro.generate.sampling import Probabilities, choose
from retro.generate.scoring import Score, Scored, score
from retro.qa.passages import NeighborText, Retrieve


class BatchEngine:
    """A decoder that answers requests as they come; see `retro.generate.request.Engine`."""

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: Tokenizer,
        retrieve: Retrieve | None = None,
        max_running: int = 16,
        *,
        neighbor_text: NeighborText = "title_and_text",
    ) -> None:
        """Set up, with nothing to do.

        Args:
            decoder: The model.
            tokenizer: The model's.
            retrieve: Finds passages for texts, for requests that search while they generate.
            max_running: Requests answered at once; more wait.
            neighbor_text: What of a passage the encoder reads; as the model was tuned.

        Raises:
            ConfigError: `max_running` is below 1.
        """
        if max_running < 1:
            raise ConfigError("max_running", max_running, "needs at least 1")
        self.decoder, self.tokenizer = decoder, tokenizer
        self.max_running = max_running
        self._finder = NeighborFinder(
            tokenizer, retrieve, retrieved_length=decoder.retrieved_length, neighbor_text=neighbor_text
        )
        self._waiting: deque[tuple[int, Request]] = deque()
        self._running: dict[int, Generation] = {}
        self._prefixes = PrefixCache(decoder)
        self._forward = BatchForward(decoder, self._finder)
        self._cancelled: set[int] = set()
        self._next_number = 0

    @property
    def retrieve(self) -> Retrieve | None:
        """Finds passages for texts; None where nothing is searched."""
        return self._finder.retrieve

    @property
    def waiting(self) -> int:
        """Requests submitted and not begun."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Requests begun and not ended."""
        return len(self._running)

    def submit(self, request: Request) -> int:
        """Queue a request; it begins in one of the next steps.

        Returns:
            Its number.

        Raises:
            ConfigError: A setting is out of range, or the prompt does not fit.
        """
        self.require(request)
        self._next_number += 1
        self._waiting.append((self._next_number, _whole(request)))
        return self._next_number

    def require(self, request: Request) -> None:
        """Check a request without queueing it.

        Raises:
            ConfigError: A setting is out of range, the prompt does not fit, or its prefix is not held.
        """
        held, prefix = self._prefixes.find(request.prefix), request.prefix
        asks = held is not None and prefix is not None and held.logits_V is None and held.read == len(prefix.tokens)
        if asks and not request.prompt:
            raise ConfigError("prompt", [], "needs a token after a prefix whose last one was dropped")
        self._prefixes.require_adapter(prefix, request.adapter)
        self._prefixes.require_knowledge(prefix, request.knowledge)
        require_request(_whole(request), self.decoder, searches=self._finder.retrieve is not None)

    @torch.inference_mode()
    def prefill(
        self,
        prompt: Sequence[int],
        *,
        reading: Reading = None,
        prefix: Prefix | None = None,
        adapter: str = "",
        knowledge: Knowledge | None = None,
    ) -> Prefix:
        """Compute a prompt once, for any number of requests and scores that continue it.

        What it holds is beside `max_running`, in the memory of the decoder, until `release`.

        Args:
            prompt: At least one token, or none after a prefix.
            reading: What the encoder reads for chunks that end in the prompt; the last of them with its last token.
            prefix: Tokens before it.
            adapter: What it is read with, as `Request.adapter`.
            knowledge: Documents that it attends to, as `Request.knowledge`.

        Raises:
            ConfigError: The prompt does not fit, or cannot be read with what is asked for.
            RetroError: The search failed.
        """
        request = Request(prompt=prompt, reading=reading, prefix=prefix, adapter=adapter, knowledge=knowledge)
        self.require(request)
        generation = self._generation(_whole(request))
        try:
            generation.logits_V = self._forward.logits([generation])[0]
        except BaseException:
            self._close(generation)
            raise
        return self._prefixes.hold(generation.ids, generation.held_state())

    def without_last(self, prefix: Prefix) -> Prefix:
        """The prefix that a request kept, less its last token: what was chosen there is decided otherwise.

        Args:
            prefix: Of a completion; no longer valid after this.

        Raises:
            ConfigError: It is not held.
            ValueError: It is not of a completion.
        """
        return self._prefixes.without_last(prefix)

    def release(self, prefix: Prefix) -> None:
        """Forget a prefix; requests that have begun to continue it continue.

        Raises:
            ConfigError: It is not held.
            ValueError: A request that continues it waits.
        """
        if any(request.prefix == prefix for _, request in self._waiting):
            raise ValueError("a prefix is released that a waiting request continues; release it once that has begun")
        self._prefixes.release(prefix)

    def cancel(self, number: int) -> None:
        """End a request early, in the next step; unknown or finished numbers are ignored."""
        if number in self._running or any(number == waiting for waiting, _ in self._waiting):
            self._cancelled.add(number)

    def step(self) -> list[tuple[int, Event]]:
        """Choose one more token for every running request.

        Returns:
            Their events, by number. Empty when nothing is left.

        Raises:
            TrainingError: The model's logits are not finite.
            RetroError: The search failed.
        """
        self._begin()
        for number in self._cancelled:
            self._running[number].finish("cancelled")
        self._cancelled.clear()
        self._choose([one for one in self._running.values() if one.ended is None])
        ended = [number for number, one in self._running.items() if one.ended is not None]
        for one in map(self._running.__getitem__, ended):
            if one.request.keep and one.row >= 0:
                one.prefix = self._prefixes.hold(one.ids, one.held_state())
        events = [(number, one.event()) for number, one in self._running.items()]
        for number in ended:
            self._close(self._running.pop(number))
        return events

    def _close(self, generation: Generation) -> None:
        if generation.row >= 0 and generation.prefix is None:
            self.decoder.close(generation.row)

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Answer all of them, in their order.

        Raises:
            ConfigError: As `submit`; then nothing is begun.
            ValueError: The engine is in the middle of other requests.
        """
        for request in requests:
            self.require(request)
        self._require_idle()
        numbers = [self.submit(request) for request in requests]
        done: dict[int, Completion] = {}
        try:
            while self._waiting or self._running:
                done |= {number: event.completion for number, event in self.step() if event.completion is not None}
        except BaseException:
            for completion in done.values():
                if completion.prefix is not None:
                    self.release(completion.prefix)
            raise
        finally:
            self.abandon()
        return [done[number] for number in numbers]

    def stream(self, request: Request) -> Iterator[Event]:
        """Answer one, step by step. A reader that stops reading ends the request.

        Raises:
            ConfigError, ValueError: As `generate`; at once, not with the first event.
        """
        self._require_idle()
        self.submit(request)
        return self._events()

    def score(self, asked: Sequence[Scored]) -> list[Score]:
        """How likely the model finds given continuations, in their order.

        Raises:
            ConfigError: A prompt or continuation is empty, does not fit, or cannot be read to.
            TrainingError: The model's logits are not finite.
        """
        return score(asked, self.decoder, self._finder, self._prefixes, at_once=self.max_running)

    def _events(self) -> Iterator[Event]:
        try:
            while self._waiting or self._running:
                for _, event in self.step():
                    yield event
        finally:
            self.abandon()

    def _require_idle(self) -> None:
        if self._waiting or self._running:
            raise ValueError("the engine is in the middle of other requests; drive it by submit and step")

    def abandon(self) -> None:
        """Drop all requests, without events; after an error nothing of them may stay. Prefixes are held on."""
        self._waiting.clear()
        self._cancelled.clear()
        while self._running:
            self._close(self._running.popitem()[1])

    def _begin(self) -> None:
        """Let waiting requests join. Cancelled ones only pass through."""
        room = self.max_running - len(self._running.keys() - self._cancelled)
        for _ in range(len(self._waiting)):
            number, request = self._waiting.popleft()
            if number not in self._cancelled and room <= 0:
                self._waiting.append((number, request))
                continue
            room -= number not in self._cancelled
            self._running[number] = self._generation(request)

    def _generation(self, request: Request) -> Generation:
        return Generation(request, self.decoder, self.tokenizer, self._prefixes.find(request.prefix))

    @torch.inference_mode()
    def _choose(self, generations: Sequence[Generation]) -> None:
        """The next token of each, after the decoder has read what is new of it."""
        if not generations:
            return
        logits_BV = self._forward.logits(generations)
        for row, one in enumerate(generations):
            one.logits_V = logits_BV[row] if one.request.keep else None
        rows = [row for row, one in enumerate(generations) if one.ended is None]
        if not rows:
            return
        logits_BV = logits_BV[rows]
        going_on = [generations[row] for row in rows]
        choices = [one.choice(logits_BV.device) for one in going_on]
        probabilities = Probabilities(logits_BV)
        ids = choose(logits_BV, choices, self.decoder.ends).tolist()
        for row, (one, id_, logprob) in enumerate(zip(going_on, ids, probabilities.of(ids), strict=True)):
            request = one.request
            one.take(probabilities.token(row, id_, logprob, request.top_logprobs, request.named_tokens))


def _whole(request: Request) -> Request:
    """Prefix and prompt as one prompt."""
    return request if request.prefix is None else replace(request, prompt=(*request.prefix.tokens, *request.prompt))
