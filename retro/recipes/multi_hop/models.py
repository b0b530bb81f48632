"""Models behind the protocol: our engine, and any chat model that a teacher can be. Programs of them for the server."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from retro.common.errors import ConfigError, RetroError, short_reason
from retro.generate.request import Action, ChosenToken, Completion, Progress, Request, Sampling
from retro.qa.question import Segment
from retro.qa.segments import encode_segments
from retro.recipes.multi_hop.conversation import TOKENS
from retro.recipes.multi_hop.protocol import Ask, Found, Outcome, Reply, Retriever, Search, Steps
from retro.teacher.request import TeacherRequest
from retro.tokenizers.added_tokens import token_ids

if TYPE_CHECKING:
    from retro.generate.engine import BatchEngine
    from retro.generate.program import Program
    from retro.teacher.engine import Encode
    from retro.teacher.teacher import Teacher

SETTING = "sft.special_tokens"


class EngineModel:
    """A model of this toolkit, or any folder that it opens."""

    def __init__(
        self,
        engine: BatchEngine,
        identity: Mapping[str, Any],
        *,
        prefix: Sequence[int] = (),
        chat: Encode | None = None,
        sampling: Sampling = Sampling(),
    ) -> None:
        """Set up.

        Args:
            engine: Answers requests.
            identity: Its weights, and what else shapes what it writes.
            prefix: Tokens that every prompt begins with.
            chat: Encodes the messages of a chat; None: the model is asked in segments alone.
            sampling: How tokens are chosen, but for how many.
        """
        self.engine, self.identity = engine, identity
        self._prefix, self._chat, self._sampling = tuple(prefix), chat, sampling

    def generate(self, asks: Sequence[Ask]) -> list[Reply]:
        """See `LanguageModel`."""
        return reply_to_all(asks, self.request, lambda requests: map(self.reply, self.engine.generate(requests)))

    def request(self, ask: Ask) -> Request | Reply:
        """What the engine is asked; a reply where the prompt cannot be asked.

        Raises:
            ConfigError: The tokenizer lacks a special token, or a chat is asked of a model that takes none.
        """
        prompt = self._prompt(ask)
        room = self.engine.decoder.sequence_length - len(prompt)
        if room < ask.max_new_tokens:
            return Reply(excess=ask.max_new_tokens - room)
        stops = tuple(token_ids(self.engine.tokenizer, ask.stop_tokens, SETTING).values())
        sampling = Sampling(**{**vars(self._sampling), "max_new_tokens": ask.max_new_tokens})
        return Request(prompt=prompt, sampling=sampling, hook=_stop_at(stops) if stops else None)

    def reply(self, completion: Completion) -> Reply:
        """What it wrote, in segments."""
        return Reply(segments=self._segments(completion.tokens), cut=completion.ended == "length")

    def _prompt(self, ask: Ask) -> list[int]:
        if ask.segments:
            return [*self._prefix, *encode_segments(ask.segments, self.engine.tokenizer)[0]]
        if self._chat is None:
            raise ConfigError("answer.dialog", "chat", "needs a model that is asked in chats; this one is not")
        return self._chat(ask.messages)

    def _segments(self, tokens: Sequence[ChosenToken]) -> tuple[Segment, ...]:
        tokenizer = self.engine.tokenizer
        names = {tokenizer.token_id(name): name for name in TOKENS} if hasattr(tokenizer, "token_id") else {}
        found: list[Segment] = []
        words: list[int] = []
        for token in tokens:
            name = names.get(token.id)
            if name is None:
                words.append(token.id)
                continue
            found += [Segment(text=tokenizer.decode(words))] if words else []
            found, words = [*found, Segment(token=name)], []
        return (*found, *([Segment(text=tokenizer.decode(words))] if words else []))


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
            completions = list(self._teacher.complete_all(requests, what="multi_hop"))
        except RetroError as error:
            if len(requests) > 1:
                # One by one, so that only the one that is refused has no reply. What was replied is in the cache.
                return [reply for one in asks for reply in self.generate([one])]
            return [Reply(problem=short_reason(error))]
        return [
            Reply(segments=(Segment(text=one.text),), cut=one.finish_reason == "length") for one in completions
        ]

    def _request(self, ask: Ask) -> TeacherRequest:
        if not ask.messages:
            raise ConfigError("answer.dialog", "function_calls", "needs chat: a teacher is asked in chats")
        return TeacherRequest(
            messages=ask.messages, temperature=self._temperature, max_tokens=ask.max_new_tokens
        )


def as_program(steps: Steps, model: EngineModel, retriever: Retriever) -> Program:
    """A way to answer as a program of the engine, so that many share its steps: for `retro serve`."""
    given: Reply | Found | None = None
    begun, tokens, prompt_tokens = False, list[ChosenToken](), 0
    try:
        while True:
            step = steps.send(given) if begun else next(steps)
            begun, given = True, None
            if isinstance(step, Search):
                [given] = retriever.find([step])
            elif isinstance(step, Ask):
                request = model.request(step)
                if isinstance(request, Reply):
                    given = request
                    continue
                [completion] = yield [request]
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
        steps.close()
