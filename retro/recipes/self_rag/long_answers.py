"""Long answers (arXiv:2310.11511, section 3.3): segment by segment, each from a passage, in a beam search.

    beam ─ passage 1 ─ segment ┐
         ─ passage 2 ─ segment ├─ the best `beam_width` unfinished ones are continued, finished ones are kept aside
         ─ …                   ┘

A segment ends where the model would search again, or with the answer. An answer's score is the product of its segments'
scores; a score below 0 counts as 0, or two bad segments would make a good answer. The best finished answer is taken;
where none is finished after `max_depth` segments, the best unfinished one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from retro.generate.engine import BatchEngine
from retro.generate.program import Program
from retro.generate.request import Action, Completion, Prefix, Progress, Request
from retro.qa.question import PassageLike
from retro.qa.sentences import with_citation
from retro.recipes.self_rag.answering import (
    Asked,
    Told,
    answered,
    at_least_one,
    passage_prompts,
    passage_records,
    piece_record,
    plain_answer,
    require_long_enough,
    scored,
    wants_passages,
)
from retro.recipes.self_rag.scores import retrieval_probability
from retro.recipes.self_rag.tokens import NO_RETRIEVAL, RELEVANT, RETRIEVAL, RETRIEVE, UNSUPPORTED

_LEAST_ROOM = 8
"""Tokens that a sequence must have left for one more segment."""
_WRITTEN_CITATION = re.compile(r" ?\[\d+\]")


@dataclass(frozen=True, kw_only=True)
class Beam:
    """An answer so far."""

    prefix: Prefix | None
    """Its tokens, up to where the next segment begins; None when it is finished."""
    score: float = 1.0
    segments: tuple[dict[str, Any], ...] = ()
    """As `piece_record` has them."""
    tokens: tuple[Any, ...] = ()
    wants: bool = True
    """Whether its next segment is written from a passage."""
    completion: Completion | None = None
    """That of its last segment."""

    @property
    def text(self) -> str:
        """What it says so far."""
        return " ".join(one["text"] for one in self.segments if one["text"])


@dataclass(frozen=True, kw_only=True)
class _Try:
    """A segment to be written."""

    beam: Beam
    passage: int | None
    """Place among the passages that were told; None: without one."""
    request: Request


def long_answer(asked: Asked) -> Program:
    """Answer a question in segments, with citations."""
    require_long_enough(asked)
    told = Told(mode=asked.mode)
    passages = _Passages(asked, told)
    with _Held(asked.engine) as held:
        prefix = held.add(asked.engine.prefill(asked.prompt))
        wants, begun = yield from wants_passages(asked, prefix, told)
        if wants and not passages.found(""):
            told.note("nothing_found")
            wants = False
        if not wants and (begun is not None or asked.mode != "adaptive_retrieval" or not passages.found("")):
            completion = yield from plain_answer(asked, prefix, told, begun)
            return answered(completion, told.segments[0]["text"], told)
        best = yield from _search(asked, Beam(prefix=prefix, wants=wants), passages, told, held)
    told.segments = list(best.segments)
    told.retrieved = any(one["passage"] is not None for one in best.segments)
    told.passages = passage_records(passages.all)
    told.cited, told.docs = cite(best.segments, told.passages)
    last = best.completion
    if last is None:
        raise ValueError("a beam search ended before its first segment")
    return answered(
        replace(last, tokens=best.tokens, ended="end" if last.ended == "hook" else last.ended), best.text, told
    )


def _search(
    asked: Asked, root: Beam, passages: _Passages, told: Told, held: _Held
) -> Generator[Sequence[Request], Sequence[Completion], Beam]:
    beams, finished = [root], list[Beam]()
    for depth in range(asked.config.max_depth):
        tries = [one for beam in beams for one in _tries(asked, beam, passages, told)]
        completions = yield [one.request for one in tries]
        grown = [_grown(asked, *one, held) for one in zip(tries, completions, strict=True)]
        grown = _allowed(asked, grown, told)
        finished += [one for one in grown if one.prefix is None]
        beams = best_beams([one for one in grown if one.prefix is not None], asked.config.beam_width)
        held.keep(beams)
        if not beams or depth + 1 == asked.config.max_depth:
            break
    return best_beams(finished or beams, 1)[0]


def best_beams(beams: Sequence[Beam], width: int) -> list[Beam]:
    """The `width` best, best first; of equal ones, what came first."""
    return sorted(beams, key=lambda one: -one.score)[:width]


def _tries(asked: Asked, beam: Beam, passages: _Passages, told: Told) -> Iterator[_Try]:
    """The segments that may come next: one for each passage, or one without."""
    if beam.prefix is None:
        raise ValueError("a finished answer is not continued")
    places = passages.found(beam.text) if beam.wants else []
    chosen = [passages.all[place] for place in places]
    prompts = passage_prompts(asked, chosen, len(beam.prefix.tokens), told)
    for place, prompt in zip(places, prompts, strict=False):
        yield _Try(beam=beam, passage=place, request=_request(asked, beam.prefix, prompt))
    if not prompts:
        yield _Try(beam=beam, passage=None, request=_request(asked, beam.prefix, (asked.token(NO_RETRIEVAL),)))


def _request(asked: Asked, prefix: Prefix, prompt: tuple[int, ...]) -> Request:
    request = asked.continued(prefix, prompt, keep=True, hook=_segment_end(asked))
    return replace(request, sampling=at_least_one(request.sampling))


def _segment_end(asked: Asked) -> Callable[[Progress], Action | None]:
    """Stop where the model decides whether to search again, unless it goes on with what it has."""

    def hook(progress: Progress) -> Action | None:
        return Action(stop=True) if searches_again(asked, progress.tokens[-1]) is not None else None

    return hook


def searches_again(asked: Asked, token: Any) -> bool | None:
    """What a chosen token says of the next segment.

    Returns:
        True: it is written from a passage. False: from none, against what the model wrote. None: the segment goes on.
    """
    name = asked.vocabulary.name(token)
    if name not in RETRIEVE:
        return None
    if asked.mode == "always_retrieve":
        return True if name in (RETRIEVAL, NO_RETRIEVAL) else None
    if asked.config.threshold is None:
        return True if name == RETRIEVAL else None
    if retrieval_probability(asked.vocabulary.logprobs(token), evidence=True) > asked.config.threshold:
        return True
    return False if name == RETRIEVAL else None


def _grown(asked: Asked, tried: _Try, completion: Completion, held: _Held) -> Beam:
    tokens, again = list(completion.tokens), None
    prefix = None
    if completion.ended == "hook" and completion.prefix is not None:
        again = searches_again(asked, tokens.pop())
        prefix = held.without_last(completion.prefix)
        if len(prefix.tokens) + _LEAST_ROOM > asked.engine.decoder.sequence_length:
            prefix, completion = None, replace(completion, ended="length")
    elif completion.prefix is not None:
        held.add(completion.prefix)
    pieces = asked.vocabulary.pieces(tokens)
    # What was judged there belongs to the segment, the token that ends it to the next one.
    score = scored(asked, completion) if tried.passage is not None else None
    total = 1.0 if score is None else max(0.0, score.total)
    return Beam(
        prefix=prefix,
        score=tried.beam.score * total,
        segments=(*tried.beam.segments, piece_record(asked, completion, pieces, tried.passage, score)),
        tokens=(*tried.beam.tokens, *completion.tokens),
        wants=bool(again),
        completion=completion,
    )


def _allowed(asked: Asked, beams: list[Beam], told: Told) -> list[Beam]:
    """Those whose last segment the model does not find unsupported, where that is wanted and there are any."""
    if not asked.config.ignore_cont:
        return beams
    kept = [one for one in beams if UNSUPPORTED not in one.segments[-1]["tokens"]]
    if not kept:
        told.note("all_unsupported")
    return kept or beams


def cite(segments: Sequence[dict[str, Any]], passages: Sequence[dict[str, str]]) -> tuple[str, list[dict[str, str]]]:
    """The answer with the numbers of the passages that its segments were written from, and these in that order.

    Numbers begin at 1 (ALCE, Gao et al. 2023). A segment is cited where the model found its passage relevant. Each of
    its sentences has the number, before its end mark.
    """
    numbers: dict[int, int] = {}
    texts = []
    for one in segments:
        # What the model itself wrote in brackets cites nothing.
        place, text = one["passage"], _WRITTEN_CITATION.sub("", one["text"])
        if text and place is not None and RELEVANT in one["tokens"]:
            text = with_citation(text, numbers.setdefault(place, len(numbers) + 1))
        texts.append(text)
    return " ".join(text for text in texts if text), [passages[place] for place in numbers]


class _Passages:
    """The passages of a question, and those that searches for its segments find; each once."""

    def __init__(self, asked: Asked, told: Told) -> None:
        self._asked, self._told = asked, told
        self.all: list[PassageLike] = []
        self._places: dict[tuple[str, str], int] = {}
        self._by_text: dict[str, list[int]] = {}
        self._own = [self._place(one) for one in asked.passages[: asked.config.ndocs]]

    def found(self, written: str) -> list[int]:
        """Places of the passages for the next segment, best first."""
        asked = self._asked
        # The first segment is searched for where the question brings nothing.
        again = asked.config.search_each_segment and (written or not self._own)
        if asked.search is None or not again:
            return self._own
        if written not in self._by_text:
            [passages] = asked.search([f"{asked.question} {written}".strip()])
            self._by_text[written] = [self._place(one) for one in passages[: asked.config.ndocs]]
        return self._by_text[written] or self._own

    def _place(self, passage: PassageLike) -> int:
        key = (passage.title, passage.text)
        if key not in self._places:
            self._places[key] = len(self.all)
            self.all.append(passage)
        return self._places[key]


class _Held:
    """Prefixes that an answer holds: each is released once, at the latest when the answer ends, however it does."""

    def __init__(self, engine: BatchEngine) -> None:
        self._engine = engine
        self._prefixes: list[Prefix] = []

    def add(self, prefix: Prefix) -> Prefix:
        """Hold a prefix."""
        self._prefixes.append(prefix)
        return prefix

    def without_last(self, prefix: Prefix) -> Prefix:
        """Hold a prefix that a request kept, less its last token."""
        return self.add(self._engine.without_last(prefix))

    def keep(self, beams: Sequence[Beam]) -> None:
        """Release all but those that beams continue."""
        wanted = [one.prefix for one in beams]
        for prefix in [one for one in self._prefixes if one not in wanted]:
            self._prefixes.remove(prefix)
            self._engine.release(prefix)

    def __enter__(self) -> _Held:
        return self

    def __exit__(self, *_: object) -> None:
        self.keep([])
