"""Many requests answered at once: they join and leave between steps, and each step chooses one token for all.

Every rank of a model that is spread over processes runs the same engine with the same requests: the decoder gives all
of them the same logits, a request has its own stream of random numbers, and what is found must be the same on all of
them (`retro.generate.ranks.search_once`). So all choose the same tokens without a word between them.
"""

# Dims in this file.
#   B sequences of a step   T new tokens of one sequence   V vocabulary

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from retro.common.errors import ConfigError
from retro.generate.chunk_retrieval import ChunkNeighbors, NeighborFinder, Tokenizer
from retro.generate.generation import Generation
from retro.generate.probabilities import Probabilities
from retro.generate.request import Completion, Decoder, Event, Extension, Request
from retro.generate.request_checks import require_request
from retro.generate.sampling import choose
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
        self._cancelled: set[int] = set()
        self._next_number = 0

    @property
    def waiting(self) -> int:
        """Requests submitted and not begun."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Requests begun and not ended."""
        return len(self._running)

    def submit(self, request: Request) -> int:
        """Take a request in; it is begun in one of the next steps.

        Returns:
            Its number.

        Raises:
            ConfigError: A setting is out of range, or the prompt does not fit.
        """
        self.require(request)
        self._next_number += 1
        self._waiting.append((self._next_number, request))
        return self._next_number

    def require(self, request: Request) -> None:
        """Check a request without taking it in.

        Raises:
            ConfigError: A setting is out of range, or the prompt does not fit.
        """
        require_request(request, self.decoder, searches=self._finder.retrieve is not None)

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
        events = [(number, one.event()) for number, one in self._running.items()]
        for number in [number for number, one in self._running.items() if one.ended is not None]:
            self.decoder.close(self._running.pop(number).row)
        return events

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
        return score(asked, self.decoder, self._finder, at_once=self.max_running)

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
        """Forget everything; after an error, nothing of what was begun may stay. No event tells of it."""
        self._waiting.clear()
        self._cancelled.clear()
        while self._running:
            self.decoder.close(self._running.popitem()[1].row)

    def _begin(self) -> None:
        """Let waiting requests join. Cancelled ones only pass through."""
        room = self.max_running - len(self._running.keys() - self._cancelled)
        for _ in range(len(self._waiting)):
            number, request = self._waiting.popleft()
            if number not in self._cancelled and room <= 0:
                self._waiting.append((number, request))
                continue
            room -= number not in self._cancelled
            self._running[number] = Generation(request, self.decoder, self.tokenizer, self.decoder.open())

    @torch.inference_mode()
    def _choose(self, generations: Sequence[Generation]) -> None:
        """The next token of each, after the decoder has read what is new of it."""
        if not generations:
            return
        logits_BV = self._read(generations)
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

    def _read(self, generations: Sequence[Generation]) -> Tensor:
        """Have the decoder read what is new of each sequence: logits [B, V] of what follows.

        Sequences to which a hook appended are a call of their own: only they need the logits on the way.
        """
        extensions = self._extensions(generations)
        appended = [row for row, one in enumerate(generations) if one.appended]
        if not appended:
            return self.decoder.extend(extensions)
        rows = [row for row, one in enumerate(generations) if not one.appended]
        logits: dict[int, Tensor] = {}
        if rows:
            logits = dict(zip(rows, self.decoder.extend([extensions[row] for row in rows]), strict=True))
        everything = self.decoder.extend_all([extensions[row] for row in appended])
        for row, logits_TV in zip(appended, everything, strict=True):
            _take_appended(generations[row], logits_TV)
            logits[row] = logits_TV[-1]
        return torch.stack([logits[row] for row in range(len(generations))])

    def _extensions(self, generations: Sequence[Generation]) -> list[Extension]:
        """What is new of each sequence, with the neighbors of the chunks that end in it; one search for all."""
        ends = [list(one.reader.ends(one.ids)) for one in generations]
        found: Iterator[ChunkNeighbors] = iter(self._finder.find([end for mine in ends for end in mine]))
        return [one.extension([next(found) for _ in mine]) for one, mine in zip(generations, ends, strict=True)]


def _take_appended(generation: Generation, logits_TV: Tensor) -> None:
    """Record appended tokens with the log-probabilities that the model gives them.

    Args:
        generation: Its last `appended` ids are those.
        logits_TV: After each new token; before the first appended one there is always a chosen one.
    """
    count, request = generation.appended, generation.request
    ids = generation.ids[-count:]
    probabilities = Probabilities(logits_TV[-count - 1 : -1])
    generation.take_appended(
        [
            probabilities.token(row, id_, logprob, request.top_logprobs, request.named_tokens, appended=True)
            for row, (id_, logprob) in enumerate(zip(ids, probabilities.of(ids), strict=True))
        ]
    )
