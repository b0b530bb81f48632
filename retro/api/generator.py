"""A model from Python: answers with passages or without, piece by piece, and log-probabilities of continuations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self, TypedDict, overload

from typing_extensions import Unpack

from retro.common.errors import ConfigError
from retro.corpus.reader import Corpus
from retro.generate.config import GenerateConfig, ModelPaths, SamplingConfig, Setting
from retro.generate.engine import BatchEngine
from retro.generate.loading import for_model, prompt_texts
from retro.generate.one_question import question_of, requests_of
from retro.generate.open_model import OpenModel, open_model
from retro.generate.questions import Passages, find_passages
from retro.generate.request import Ended, Request
from retro.generate.runner import passages_read, question_seed, reading_of, sampling_of
from retro.generate.scoring import Score as Score
from retro.generate.scoring import Scored
from retro.generate.task_prompt import warn_of_other_prompts
from retro.mcore import parallel
from retro.qa.answer_files import passage_record
from retro.qa.passages import Retrieve
from retro.qa.question import Context, PassageLike, Question
from retro.qa.task import load_task

OnePassages = Literal["retrieve", "live"] | Sequence[str | PassageLike] | None
"""Passages of one text: found by a search with it; searched for while the answer grows too; given; or none."""
ManyPassages = Literal["retrieve", "live"] | Sequence[Sequence[str | PassageLike]] | None
"""Passages of several texts: given ones as a list for each."""
_SETTINGS: dict[Any, Setting] = {"retrieve": "retrieved_passages", "live": "live_retrieval", None: "closed_book"}


class SamplingOptions(TypedDict, total=False):
    """How tokens are chosen; what is left out is as the run's `generate` section says."""

    max_tokens: int
    temperature: float
    """0 takes the likeliest token."""
    top_p: float
    """Draw from the likeliest tokens that together have this probability."""
    top_k: int
    """Draw from so many of the likeliest tokens; 0: from all."""
    seed: int
    """Each text of a call draws from a stream of its own."""
    stop: Sequence[str]
    """Texts that end an answer, beside those of the run's task; they are not part of it."""


@dataclass(frozen=True, kw_only=True)
class Completion:
    """What the model wrote."""

    text: str
    """Without a stop text; an answer to a question without the space around it."""
    passages: tuple[Context, ...]
    """What was read: in the prompt, then by the encoder, each once."""
    ended: Ended
    """Why: `end` (the model ended it), `stop` (a stop text) or `length`."""
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    """Of each token, in nats, before temperature."""
    prompt_tokens: int


class Generator:
    """A model that answers; from `Run.generator`. Used by one thread at a time. `with` or `close` frees its memory.

    A question is asked as the run asks: in the prompt style (`generate.style`, of which `chat` is the tokenizer's chat
    template) and with the instruction of its task. `generate.contexts_in_prompt` passages stand in the prompt, and the
    encoder of a Retro reads `generate.passages`. With `raw=True` a text is not a question but a prompt, continued as it
    is; then passages reach the encoder alone, and without an encoder need to be None.
    """

    def __init__(self, config: GenerateConfig, paths: ModelPaths) -> None:
        """Load a model. Corpus, database and index are opened for the first search.

        Raises:
            ConfigError: A setting does not fit the model, or there are several processes.
            DataError: The file of prompt texts or of the task is missing or broken.
            TrainingError: The checkpoint was trained with another tokenizer than the corpus has.
            ArtifactError: There is no checkpoint, or it is damaged.
        """
        if parallel.world_size() > 1:
            raise ConfigError("WORLD_SIZE", parallel.world_size(), "needs to be 1: a Generator is one process")
        self._task, self._interval = load_task(config.task), config.retrieval_interval
        self._search: Retrieve | None = None
        self._texts = prompt_texts(config, self._task)
        # Nothing is searched yet: a model with its own tokenizer needs no corpus until passages are wanted.
        update = {"settings": ("closed_book",), "retrieval_interval": None, "start": 0, "count": None}
        self._model: OpenModel | None = open_model(config.model_copy(update=update), paths)
        self._model.retrieve = self._retrieve
        warn_of_other_prompts(self.model.config, self.model.info.path, self._texts)
        self.engine  # noqa: B018 loaded now, so that the first answer does not wait for it

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the model's memory. A closed generator answers no more; closing it again does nothing."""
        self._model = self._search = None

    @property
    def model(self) -> OpenModel:
        """Checkpoint, tokenizer and settings of the model; ValueError once it is closed."""
        if self._model is None:
            raise ValueError("the generator is closed")
        return self._model

    @property
    def engine(self) -> BatchEngine:
        """What answers, for requests of your own; see `retro.generate.engine`."""
        return self.model.engine

    @overload
    def generate(  # type: ignore[overload-overlap]  # a text is a sequence of texts too
        self, texts: str, *, passages: OnePassages = ..., raw: bool = ..., **options: Unpack[SamplingOptions]
    ) -> Completion: ...
    @overload
    def generate(
        self, texts: Sequence[str], *, passages: ManyPassages = ..., raw: bool = ..., **options: Unpack[SamplingOptions]
    ) -> list[Completion]: ...
    def generate(
        self,
        texts: str | Sequence[str],
        *,
        passages: OnePassages | ManyPassages = "retrieve",
        raw: bool = False,
        **options: Unpack[SamplingOptions],
    ) -> Completion | list[Completion]:
        """Answer a question, or several, `generate.batch_size` at once.

        Args:
            texts: Questions; with `raw` prompts.
            passages: "retrieve": those that a search with the text finds; "live": the encoder also reads what a search
                with each chunk of the growing answer finds; a list of texts or passages, for several questions one
                list each; None: none.
            raw: Continue texts as they are.
            options: See `SamplingOptions`.

        Returns:
            An answer; for several texts a list of them, in order.

        Raises:
            ConfigError: A text is empty or does not fit the model, or an option is out of range.
            ArtifactError: Passages are to be searched for, and there is no database or index.
        """
        made = self._requests(texts, passages, raw, options)
        completions = self.engine.generate([request for request, _ in made])
        found = [
            Completion(
                text=one.text if raw else one.text.strip(),
                passages=passages_read(shown, one),
                ended=one.ended,
                tokens=tuple(token.id for token in one.tokens),
                logprobs=tuple(token.logprob for token in one.tokens),
                prompt_tokens=one.prompt_tokens,
            )
            for (_, shown), one in zip(made, completions, strict=True)
        ]
        return found[0] if isinstance(texts, str) else found

    def stream(
        self, text: str, *, passages: OnePassages = "retrieve", raw: bool = False, **options: Unpack[SamplingOptions]
    ) -> Iterator[str]:
        """The text of `generate` in pieces, each final when it comes; an answer with the space around it.

        A reader that stops ends the answer. Arguments and errors as `generate`.
        """
        ((request, _),) = self._requests(text, passages, raw, options)
        return (event.text for event in self.engine.stream(request) if event.text)

    def score(
        self, text: str, continuations: Sequence[str], *, passages: OnePassages = "retrieve", raw: bool = False
    ) -> list[Score]:
        """How likely the model finds continuations of a question's prompt, or of a `raw` one.

        Args:
            text: Question or prompt; it is computed once.
            continuations: Each encoded by itself: begin it with a space where a word begins.
            passages: As in `generate`.
            raw: As there.

        Returns:
            For each continuation its log-probability in nats (`logprob`), those of its tokens (`logprobs`), and whether
            they are the likeliest ones (`greedy`).

        Raises:
            ConfigError: Text or continuation is empty, or does not fit.
            ArtifactError: As `generate`.
        """
        ((request, _),) = self._requests(text, passages, raw, {})
        ids = self.model.tokenizer.encode_batch(list(continuations))
        scored = [Scored(prompt=request.prompt, continuation=one, reading=request.reading) for one in ids]
        return self.engine.score(scored)

    def _retrieve(self, texts: list[str]) -> Sequence[Passages]:
        model, config = self.model, self.model.config
        if self._search is None:
            corpus = model.corpus or Corpus.open(model.paths.corpus)
            self._search = model.open_search(corpus, max(config.passages, config.contexts_in_prompt))
        return self._search(texts)

    def _requests(
        self, texts: str | Sequence[str], passages: Any, raw: bool, options: SamplingOptions
    ) -> list[tuple[Request, Passages]]:
        """The requests of texts, each with the passages that stand in its prompt."""
        named = passages is None or isinstance(passages, str)
        if named and passages not in _SETTINGS:
            raise ConfigError("passages", passages, "needs 'retrieve', 'live', None, or a list of passages")
        config = self._config(_SETTINGS[passages] if named else "with_passages", **options)
        if isinstance(texts, str):
            texts, passages = [texts], passages if named else [passages]
        elif not named and len(passages) != len(texts):
            raise ConfigError("passages", f"{len(passages)} lists", f"needs one for each of {len(texts)} texts")
        questions = [
            Question(id=str(number), question=text, answers=()) if raw else question_of(text, number)
            for number, text in enumerate(texts)
        ]
        if not named:
            contexts = [tuple(map(_context, given)) for given in passages]
            questions = [replace(one, contexts=mine) for one, mine in zip(questions, contexts, strict=True)]
        if raw and passages is not None and not config.encoder:
            raise ConfigError("passages", passages, "needs to be None with raw=True: no encoder reads them")
        if raw:
            return self._raw_requests(config, questions)
        return requests_of(self.engine, config, self._task, self._texts, questions, self._retrieve)

    def _config(
        self,
        setting: Setting,
        *,
        max_tokens: int | None = None,
        seed: int | None = None,
        stop: Sequence[str] | None = None,
        **sampling: float,
    ) -> GenerateConfig:
        """The settings of one call, checked."""
        config, live = self.model.config, setting == "live_retrieval"
        if max_tokens is not None and max_tokens < 1:
            raise ConfigError("max_tokens", max_tokens, "needs at least 1")
        chosen = config.sampling.model_dump() | sampling | ({} if stop is None else {"stop": tuple(stop)})
        update = {
            "settings": (setting,),
            "passages_from": "contexts",
            "sampling": SamplingConfig(**chosen),
            "max_new_tokens": config.max_new_tokens if max_tokens is None else max_tokens,
            "seed": config.seed if seed is None else seed,
            "retrieval_interval": self._interval if live else None,
        }
        config = config.model_copy(update=update)
        return for_model(config, self.model.info) if live else config

    def _raw_requests(self, config: GenerateConfig, questions: Sequence[Question]) -> list[tuple[Request, Passages]]:
        """Requests that continue texts as they are, without the task's prompt and stop texts."""
        (setting,) = config.settings
        found = find_passages(config, questions, self._retrieve, needed=False)[setting]
        longest, model = config.max_new_tokens or self._task.max_new_tokens, self.model
        made: list[tuple[Request, Passages]] = []
        for number, (question, passages) in enumerate(zip(questions, found, strict=True)):
            sampling = sampling_of(config.sampling, self._task, longest, seed=question_seed(config.seed, number))
            request = Request(
                prompt=(*model.prefix, *model.tokenizer.encode(question.question)),
                sampling=replace(sampling, stop=config.sampling.stop),
                reading=reading_of(config, setting, question, passages),
            )
            made.append((request, ()))
        return made


def _context(passage: str | PassageLike) -> Context:
    return Context(title="", text=passage) if isinstance(passage, str) else passage_record(passage)
