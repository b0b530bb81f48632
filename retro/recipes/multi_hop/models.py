"""Models behind the protocol: our engine, and any chat model that a teacher can be. Programs of them for the server."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from retro.common.errors import ConfigError, short_reason
from retro.generate.request import Action, ChosenToken, Completion, Prefix, Progress, Request, Sampling
from retro.qa.question import Segment
from retro.recipes.multi_hop.codec import Codec
from retro.recipes.multi_hop.protocol import Ask, Found, Outcome, Reply, Search, Steps
from retro.recipes.multi_hop.shared_searches import SharedSearches
from retro.teacher.request import RefusedError, TeacherRequest

if TYPE_CHECKING:
    from retro.generate.engine import BatchEngine
    from retro.generate.program import Program
    from retro.teacher.teacher import Teacher


class EngineModel:
    """A model of this toolkit, or any folder that it opens."""

    def __init__(
        self, engine: BatchEngine, codec: Codec, identity: Mapping[str, Any], sampling: Sampling | None = None
    ) -> None:
        """Set up.

        Args:
            engine: Answers requests.
            codec: Of the model's tokenizer.
            identity: Its weights, and what else shapes what it writes.
            sampling: How tokens are chosen, but for how many; None: the likeliest.
        """
        self.identity = identity
        self._engine, self._codec, self._sampling = engine, codec, sampling or Sampling()

    def generate(self, asks: Sequence[Ask]) -> list[Reply]:
        """See `LanguageModel`."""
        return reply_to_all(asks, self.request, lambda requests: map(self.reply, self._engine.generate(requests)))

    def request(self, ask: Ask) -> Request | Reply:
        """What the engine is asked; a reply where the prompt is too long.

        Raises:
            ConfigError: The tokenizer lacks a special token or a chat template, or a reply leaves no room for any
                prompt.
        """
        most = self._engine.decoder.sequence_length
        if ask.max_new_tokens >= most:
            need = f"needs fewer than the {most} tokens of the model's sequences, which hold the conversation too"
            raise ConfigError("answer.model.max_new_tokens", ask.max_new_tokens, need)
        prompt, stops = self._codec.prompt(ask), self._codec.stops(ask)
        excess = len(prompt) + ask.max_new_tokens - most
        if excess > 0:
            return Reply(excess=excess)
        sampling = replace(self._sampling, max_new_tokens=ask.max_new_tokens)
        return Request(prompt=prompt, sampling=sampling, hook=_stop_at(stops) if stops else None)

    def release(self, held: Prefix | None) -> None:
        """Let go of what the engine holds for a conversation, if it does."""
        if held is not None:
            self._engine.release(held)

    def reply(self, completion: Completion) -> Reply:
        """What it wrote, in segments."""
        segments = self._codec.segments([one.id for one in completion.tokens])
        return Reply(segments=segments, cut=completion.ended == "length")


def _stop_at(stops: Sequence[int]) -> Callable[[Progress], Action | None]:
    def hook(progress: Progress) -> Action | None:
        return Action(stop=True) if progress.tokens[-1].id in stops else None

    return hook


def reply_to_all(
    asks: Sequence[Ask],
    prepare: Callable[[Ask], Any | Reply],
    answer: Callable[[list[Any]], Any],
) -> list[Reply]:
    """Replies to those that can be asked, in one batch, in the places of those that can, beside the others' own.

    Args:
        asks: What is wanted.
        prepare: A request for one, or its reply where it cannot be asked.
        answer: Replies to requests, in their order.
    """
    prepared = [prepare(one) for one in asks]
    requests = [one for one in prepared if not isinstance(one, Reply)]
    replies = iter(answer(requests) if requests else ())
    return [one if isinstance(one, Reply) else next(replies) for one in prepared]


class ChatModel:
    """Any chat model behind a teacher: an OpenAI-compatible address, a run's model, a script. Replies are kept."""

    def __init__(self, teacher: Teacher, identity: Mapping[str, Any], temperature: float = 0.0) -> None:
        """Set up.

        Args:
            teacher: Replies.
            identity: What it is.
            temperature: Divides the logits.
        """
        self.identity = identity
        self._teacher, self._temperature = teacher, temperature

    def generate(self, asks: Sequence[Ask]) -> list[Reply]:
        """See `LanguageModel`."""
        requests = [self._request(one) for one in asks]
        try:
            completions = list(self._teacher.complete_all(requests, what=""))
        except RefusedError as error:
            if len(requests) > 1:
                # One by one, so that only the one that is refused has no reply. What was replied is in the cache.
                return [reply for one in asks for reply in self.generate([one])]
            return [Reply(problem=short_reason(error))]
        return [Reply(segments=(Segment(text=one.text),), cut=one.finish_reason == "length") for one in completions]

    def _request(self, ask: Ask) -> TeacherRequest:
        if not ask.messages:
            raise ConfigError("answer.form", "function_calls", "needs to be chat: a teacher is asked in chats")
        return TeacherRequest(messages=ask.messages, temperature=self._temperature, max_tokens=ask.max_new_tokens)


def as_program(steps: Steps, model: EngineModel, searches: SharedSearches) -> Program:
    """A way to answer as a program of the engine, so that many share its steps and searches: for `retro serve`.

    A conversation that grows is computed once: each turn goes on from the caches of the one before.
    """
    given: Reply | Found | None = None
    begun, tokens, prompt_tokens = False, list[ChosenToken](), 0
    held: Prefix | None = None
    try:
        while True:
            step = steps.send(given) if begun else next(steps)
            begun, given = True, None
            if isinstance(step, Search):
                given = yield searches.find(step)
            elif isinstance(step, Ask):
                request = model.request(step)
                if isinstance(request, Reply):
                    given = request
                    continue
                [completion] = yield [replace(_after(request, held), keep=True)]
                model.release(held)
                held = completion.prefix
                tokens += completion.tokens
                prompt_tokens += completion.prompt_tokens
                given = model.reply(completion)
    except StopIteration as ended:
        outcome: Outcome = ended.value
        text = outcome.answer or outcome.failed
        return Completion(
            tokens=tuple(tokens), text=text, ended="end", prompt_tokens=prompt_tokens, details=outcome.details()
        )
    finally:
        model.release(held)
        steps.close()


def _after(request: Request, held: Prefix | None) -> Request:
    """The request as one that goes on from a prefix, where it begins with that; else as it is."""
    count = 0 if held is None else len(held.tokens)
    if held is None or len(request.prompt) <= count or tuple(request.prompt[:count]) != held.tokens:
        return request
    return replace(request, prefix=held, prompt=request.prompt[count:])
