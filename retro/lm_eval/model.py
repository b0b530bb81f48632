"""A Retro model as lm-evaluation-harness wants one: its LM class over the engine.

What the encoder reads is the caller's choice, the same for every request: nothing, or what a search for each finished
chunk finds. Prompts are the harness's own; retrieval changes nothing in them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, cast

from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from retro.common.artifacts import fingerprint
from retro.common.errors import ConfigError, DataError
from retro.common.progress import Progress
from retro.common.response_cache import ResponseCache
from retro.generate.request import Completion, Reading, Request
from retro.generate.request_checks import LONGER
from retro.generate.scoring import Score, Scored
from retro.lm_eval.generation_kwargs import draws, sampling_of
from retro.lm_eval.response_cache import key_of
from retro.tokenizers.chat_template import ChatTemplate

log = logging.getLogger(__name__)

# Requests handed to the engine at once: progress is shown after each such block.
_BLOCK = 256

Pair = tuple[list[int], list[int]]
"""Token ids of a context and of its continuation."""


class Engine(Protocol):
    """The part of an engine that is needed here."""

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Answer all of them, in their order."""

    def score(self, asked: Sequence[Scored]) -> list[Score]:
        """How likely given continuations are, in their order."""


class Tokenizer(Protocol):
    """The part of a tokenizer that is needed here."""

    @property
    def eod(self) -> int:
        """Id that ends a document."""

    def encode(self, text: str) -> list[int]:
        """Token ids of one text, without any that is not in it."""


class RetroLM(TemplateLM):  # type: ignore[misc]  # lm_eval has no types
    """A Retro model; see the harness's own LM for what its methods mean."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        *,
        sequence_length: int,
        reading: Reading = None,
        seed: int = 1234,
        precision: str = "float32",
        prefix: Sequence[int] = (),
        begin: int | None = None,
        chat: ChatTemplate | None = None,
        cache: ResponseCache | None = None,
    ) -> None:
        """Wrap an engine.

        Args:
            engine: Generates and scores.
            tokenizer: The model's.
            sequence_length: Most tokens of context and continuation together.
            reading: What the encoder reads; None: nothing.
            seed: Of tasks that draw tokens; each request has a stream of its own.
            precision: What the engine computes in, for the results.
            prefix: What every text begins with, as the model's tokenizer adds it.
            begin: The token before a text without a context; None: that which ends a document.
            chat: The model's chat template. Once the harness has it written, texts have real special tokens where they
                spell one, in a task's own texts as well.
            cache: Responses that are known, and where new ones are kept.
        """
        super().__init__()
        self.engine, self.tokens = engine, tokenizer
        self.sequence_length, self.reading, self.seed = sequence_length, reading, seed
        self.precision, self.prefix, self.begin, self.cache = precision, tuple(prefix), begin, cache
        self.chat, self._chats = chat, False
        self.truncated: list[int] = []
        """Tokens that contexts lost at their beginning, one number for each that did not fit."""
        self._asked: dict[tuple[str, str], Any] = {}
        self._told = 0

    @property
    def eot_token_id(self) -> int:
        """The token that ends a document."""
        return self.tokens.eod

    @property
    def prefix_token_id(self) -> int:
        """The token before a text that has no context, as the harness's `hf` model takes it."""
        return self.eot_token_id if self.begin is None else self.begin

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Token ids of a text, after the prefix unless none is wanted."""
        prefix = () if add_special_tokens is False else self.prefix
        if self.chat is None or not self._chats:
            return [*prefix, *self.tokens.encode(string)]
        ids = self.chat.encode_text(string)
        return ids if tuple(ids[: len(prefix)]) == prefix else [*prefix, *ids]

    @property
    def tokenizer_name(self) -> str:
        """The name under which the harness keeps what it asked."""
        return "retro" if self.chat is None else f"retro_{fingerprint(self.chat.text)}"

    def chat_template(self, chat_template: bool | str = False) -> str:
        """The model's chat template, for the results."""
        return "" if self.chat is None or not chat_template else self.chat.text

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A task's question as a conversation; without `add_generation_prompt` the last message is gone on with.

        A template that refuses a system turn gets none, as with the harness's `hf` model.

        Raises:
            ConfigError: The model has no chat template.
            DataError: The template refuses the conversation.
        """
        if self.chat is None:
            need = "needs a model whose tokenizer has a chat template, in a tokenizer.json's directory"
            raise ConfigError("--apply-chat-template", True, need)
        self._chats = True
        if chat_history[0]["role"] == "system" and not self.chat.takes_system:
            log.warning("the chat template has no system turn: the one that was asked for is left out")
            chat_history = chat_history[1:]
        text = self.chat.render(chat_history, begin_answer=add_generation_prompt)
        last = chat_history[-1]["content"].strip()
        return text if add_generation_prompt else text[: text.rindex(last) + len(last)]

    def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> list[Any]:
        """How likely each continuation is, and whether it is the likeliest: pairs.

        Raises:
            DataError: A continuation has no tokens; its task and question are named.
        """
        self._asked = {request.args: request for request in requests}

        def new(rest: list[Any]) -> list[Any]:
            found: list[Any] = super(RetroLM, self).loglikelihood(rest, disable_tqdm=disable_tqdm)
            return found

        # As the harness has them, whether or not they come from a file.
        return [tuple(one) for one in self._remembered("loglikelihood", requests, new)]

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        for pair, _, continuation in requests:
            if not continuation:
                raise _empty(self._asked.get(pair), *pair)
        pairs = [self._fitting(context, continuation) for _, context, continuation in requests]
        self._tell_truncated(len(pairs))
        found = self._score(pairs)
        results = [(one.logprob, one.greedy) for one in found]
        for (pair, _, _), result in zip(requests, results, strict=True):
            self.cache_hook.add_partial("loglikelihood", pair, result)
        return results

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts, cut into windows of which each token is asked for once.

        Each window begins again; the last reads again as much before it as it has room for.
        """
        return self._remembered("loglikelihood_rolling", requests, self._rolling)

    def _rolling(self, requests: Any) -> list[float]:
        texts = [cast(str, request.args[0]) for request in requests]
        windows = [list(self._windows(text)) for text in texts]
        found = iter(self._score([window for mine in windows for window in mine]))
        results = [sum(next(found).logprob for _ in mine) for mine in windows]
        for text, result in zip(texts, results, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), result)
        return results

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        """Go on from each context until one of its task's texts, or its most tokens."""
        asked = {
            id(request): self._request(number, request.args[0], dict(request.args[1]), _name(request))
            for number, request in enumerate(requests)
        }
        self._tell_truncated(len(asked))
        return self._remembered(
            "generate_until", requests, lambda rest: self._generate(rest, [asked[id(one)] for one in rest])
        )

    def _generate(self, requests: Any, asked: Sequence[Request]) -> list[str]:
        results: list[str] = []
        with Progress(len(asked), what="lm-eval", unit="answers") as bar:
            for start in range(0, len(asked), _BLOCK):
                done = self.engine.generate(asked[start : start + _BLOCK])
                results += [completion.text for completion in done]
                bar.advance(len(done))
        for request, text in zip(requests, results, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, text)
        return results

    def _remembered(self, kind: str, requests: Any, new: Callable[[list[Any]], list[Any]]) -> list[Any]:
        """Responses to all requests, those that are not known from `new`, kept block by block."""
        if self.cache is None:
            return new(list(requests))
        keys = [None if _draws(request) else key_of(kind, request.args) for request in requests]
        left = [place for place, key in enumerate(keys) if key is None or key not in self.cache]
        found: dict[int, Any] = {}
        for start in range(0, len(left), _BLOCK):
            places = left[start : start + _BLOCK]
            responses = new([requests[place] for place in places])
            found |= dict(zip(places, responses, strict=True))
            kept = [(key, found[place]) for place in places if (key := keys[place]) is not None]
            self.cache.add([key for key, _ in kept], [response for _, response in kept])
        return [found[place] if place in found else self.cache[str(key)] for place, key in enumerate(keys)]

    def _tell_truncated(self, asked: int) -> None:
        """Log how many contexts did not fit, since the last time."""
        lost = self.truncated[self._told :]
        self._told = len(self.truncated)
        if lost:
            log.warning(
                "%d of %d contexts are longer than the model's %d tokens leave room for%s, and lost their beginning: "
                "%d tokens at most",
                *(len(lost), asked, self.sequence_length, LONGER, max(lost)),
            )

    def _windows(self, text: str) -> Iterator[Pair]:
        windows = get_rolling_token_windows(
            self.tok_encode(text), prefix_token=self.prefix_token_id, max_seq_len=self.sequence_length, context_len=1
        )
        yield from map(make_disjoint_window, windows)

    def _fitting(self, context: list[int], continuation: list[int]) -> Pair:
        """Both cut from the left, so that what is asked for is kept as long as it can be."""
        # The last token is asked for and never read.
        most = self.sequence_length + 1
        if len(continuation) >= most:
            log.warning("a continuation of %d tokens is cut to %d", len(continuation), most - 1)
            continuation = continuation[-(most - 1) :]
        return self._cut(context, most - len(continuation)), continuation

    def _cut(self, context: list[int], room: int) -> list[int]:
        if len(context) > room:
            self.truncated.append(len(context) - room)
        return context[-room:]

    def _score(self, pairs: Sequence[Pair]) -> list[Score]:
        asked = [Scored(prompt=one, continuation=other, reading=self.reading) for one, other in pairs]
        found: list[Score] = []
        with Progress(len(asked), what="lm-eval", unit="continuations") as bar:
            for start in range(0, len(asked), _BLOCK):
                found += self.engine.score(asked[start : start + _BLOCK])
                bar.advance(len(found) - start)
        return found

    def _request(self, number: int, context: str, settings: dict[str, Any], task: str | None) -> Request:
        sampling = sampling_of(settings, task, seed=self.seed + number, sequence_length=self.sequence_length)
        room = self.sequence_length - sampling.max_new_tokens
        prompt = self.tok_encode(context) or [self.prefix_token_id]
        return Request(prompt=self._cut(prompt, room), sampling=sampling, reading=self.reading)


def _draws(request: Any) -> bool:
    """Whether the response to a request is drawn, and so another one each time."""
    return len(request.args) > 1 and isinstance(request.args[1], dict) and draws(request.args[1])


def _name(request: Any) -> str | None:
    """The task that a request of the harness belongs to; None where it does not say."""
    name: str | None = getattr(request, "task_name", None)
    return name


def _empty(request: Any, context: str, continuation: str) -> DataError:
    whose = f"the task {_name(request)!r}" if _name(request) else "a task"
    number = getattr(request, "doc_id", None)
    question = "a question" if number is None else f"question {number}"
    problem = f"{question} has the answer {continuation!r} after '…{context[-60:]}', and that has no tokens to score"
    return DataError(whose, problem, "Each answer needs text: look at the task's doc_to_choice and doc_to_target")
