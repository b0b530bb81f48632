"""What short and long answers share: whether to search, passages as tokens, what is told of an answer.

A question's prompt is computed once. Whatever continues it, passages side by side or segments one after another, forks
its caches (`BatchEngine.prefill`).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from retro.common.errors import ConfigError
from retro.generate.engine import BatchEngine
from retro.generate.request import Completion, Prefix, Request, Sampling
from retro.qa.passages import Retrieve
from retro.qa.question import PassageLike, Segment
from retro.recipes.self_rag.config import DecodeConfig, Mode
from retro.recipes.self_rag.scores import SegmentScore, retrieval_probability, segment_score
from retro.recipes.self_rag.tokens import (
    BEGIN,
    END,
    NO_RETRIEVAL,
    RETRIEVAL,
    Vocabulary,
    clean_text,
    passage_text,
)

Asking = Generator[Sequence[Request], Sequence[Completion], Any]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question, and all that answering it needs."""

    engine: BatchEngine
    vocabulary: Vocabulary
    config: DecodeConfig
    mode: Mode
    question: str
    prompt: Sequence[int]
    passages: tuple[PassageLike, ...]
    """Best first."""
    sampling: Sampling
    search: Retrieve | None = None
    """Finds passages anew for each segment; None: `passages` serve for all."""

    def continued(self, prefix: Prefix, prompt: Sequence[int], **changes: Any) -> Request:
        """A request after a prefix that says the probabilities of all reflection tokens at each step."""
        return Request(
            prefix=prefix, prompt=prompt, sampling=self.sampling, named_tokens=self.vocabulary.named, **changes
        )

    def token(self, name: str) -> int:
        """The id of a reflection token."""
        return self.vocabulary.ids[name]


@dataclass
class Told:
    """What is told of an answer beside its text; becomes `Completion.details`."""

    mode: Mode
    retrieved: bool = False
    """Whether passages were read."""
    retrieval_probability: float | None = None
    """p([Retrieval]) against p([No Retrieval]) before the first word; None where nobody asked."""
    segments: list[dict[str, Any]] = field(default_factory=list)
    """The pieces of the answer: text, tokens, its passage's place among `passages` (null: none), scores."""
    candidates: list[dict[str, Any]] = field(default_factory=list)
    """short: the answers from each passage, of which one was taken."""
    votes: dict[str, float] = field(default_factory=dict)
    """short, with `vote`: the scores of each answer, added."""
    passages: list[dict[str, str]] = field(default_factory=list)
    """The passages that were tried, `{id, title, text}`."""
    cited: str = ""
    """long: the answer with citations `[1]`, and"""
    docs: list[dict[str, str]] = field(default_factory=list)
    """long: what these cite, `[1]` the first."""
    notes: list[str] = field(default_factory=list)
    """What did not go as asked: `nothing_found`, `no_room`, `passages_cut`, `all_unsupported`."""

    def details(self) -> dict[str, Any]:
        """As JSON values, without what is empty."""
        kept = {name: value for name, value in asdict(self).items() if value not in ([], {}, "", None)}
        return {"self_rag": kept}

    def note(self, word: str) -> None:
        """Note something, once."""
        if word not in self.notes:
            self.notes.append(word)


def wants_passages(
    asked: Asked, prefix: Prefix, told: Told
) -> Generator[Sequence[Request], Sequence[Completion], tuple[bool, Completion | None]]:
    """Whether passages are to be read, before the first word.

    Returns:
        That; and, where the model's own words decided against it, the whole answer that it began with.
    """
    if asked.mode != "adaptive_retrieval":
        return asked.mode == "always_retrieve", None
    config = asked.config
    if config.threshold is None:
        [plain] = yield [asked.continued(prefix, ())]
        said = [asked.vocabulary.name(one) for one in plain.tokens]
        return RETRIEVAL in said, None if RETRIEVAL in said else plain
    # An end token as the first one would leave no step to look at.
    sampling = replace(asked.sampling, max_new_tokens=1, min_new_tokens=1, stop=())
    [first] = yield [replace(asked.continued(prefix, ()), sampling=sampling)]
    told.retrieval_probability = retrieval_probability(asked.vocabulary.logprobs(first.tokens[0]))
    return told.retrieval_probability > config.threshold, None


def passage_prompts(asked: Asked, passages: Sequence[PassageLike], used: int, told: Told) -> list[tuple[int, ...]]:
    """Tokens of `[Retrieval]<paragraph>…</paragraph>` for each passage, cut where a sequence has no room for more.

    Args:
        asked: The question.
        passages: Best first.
        used: Tokens of the sequence before them.
        told: Notes what is cut.

    Returns:
        One for each passage; none at all where not a token of a passage fits.
    """
    marks = 3
    room = asked.engine.decoder.sequence_length - used - asked.sampling.max_new_tokens - marks
    if room < 1:
        told.note("no_room")
        return []
    found = []
    for passage in passages:
        text = asked.vocabulary.encode([Segment(text=passage_text(passage))])
        if len(text) > room:
            told.note("passages_cut")
        found.append((asked.token(RETRIEVAL), asked.token(BEGIN), *text[:room], asked.token(END)))
    return found


def require_long_enough(asked: Asked) -> None:
    """Check that the model's sequences have room for a question, a passage and an answer at all.

    Raises:
        ConfigError: They have none, whatever the question.
    """
    length = asked.engine.decoder.sequence_length
    if asked.sampling.max_new_tokens + 4 >= length:
        need = f"needs fewer than the {length} tokens of a sequence, which has question, passage and answer"
        raise ConfigError("recipe.self_rag.decode.max_new_tokens", asked.sampling.max_new_tokens, need)


def at_least_one(sampling: Sampling) -> Sampling:
    """The same, with at least one token: relevance is judged at the first one."""
    return replace(sampling, min_new_tokens=max(1, sampling.min_new_tokens))


def scored(asked: Asked, completion: Completion) -> SegmentScore:
    """The score of what was written after a passage."""
    return segment_score(completion.tokens, asked.vocabulary, asked.config.weights)


def piece_record(
    asked: Asked,
    completion: Completion,
    pieces: Sequence[Segment],
    passage: int | None,
    score: SegmentScore | None,
) -> dict[str, Any]:
    """What is told of a piece of an answer."""
    text = clean_text(pieces)
    if completion.ended == "stop":
        # Its tokens have the stop text, its text does not.
        text = text[: min((at for stop in asked.sampling.stop if (at := text.find(stop)) >= 0), default=len(text))]
    record: dict[str, Any] = {
        "text": text.strip(),
        "tokens": [one.token for one in pieces if one.token],
        "passage": passage,
    }
    if score is not None:
        record |= {name: round(value, 6) for name, value in asdict(score).items()}
    return record


def passage_records(passages: Sequence[PassageLike]) -> list[dict[str, str]]:
    """Passages as published files have them."""
    return [{"id": one.document_id, "title": one.title, "text": one.text} for one in passages]


def plain_answer(asked: Asked, prefix: Prefix, told: Told, begun: Completion | None = None) -> Asking:
    """An answer without passages: `[No Retrieval]`, then whatever the model writes.

    Args:
        asked: The question.
        prefix: Its prompt.
        told: Takes the answer's pieces.
        begun: The answer, where it is there already.
    """
    completion = begun
    if completion is None:
        [completion] = yield [asked.continued(prefix, (asked.token(NO_RETRIEVAL),))]
    pieces = asked.vocabulary.pieces(completion.tokens)
    told.segments = [piece_record(asked, completion, pieces, None, None)]
    return completion


def answered(completion: Completion, text: str, told: Told) -> Completion:
    """The answer as the stage and the server have it: nothing held, no tokens in its text."""
    return replace(completion, text=text, prefix=None, details=told.details())
