"""Short answers (arXiv:2310.11511, section 3.3): each passage gives one; the best by the model's own judgement wins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from retro.generate.program import Program
from retro.generate.request import Completion, Prefix
from retro.recipes.self_rag.answering import (
    Asked,
    Asking,
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


def short_answer(asked: Asked) -> Program:
    """Answer a question, from the passage that the model finds best, or from none."""
    require_long_enough(asked)
    told = Told(mode=asked.mode)
    prefix = asked.engine.prefill(asked.prompt)
    try:
        wants, begun = yield from wants_passages(asked, prefix, told)
        passages = asked.passages[: asked.config.ndocs] if wants else ()
        if wants and not passages:
            told.note("nothing_found")
        prompts = passage_prompts(asked, passages, len(asked.prompt), told)
        if prompts:
            completion = yield from _best_of(asked, prefix, prompts, told)
            told.passages = passage_records(passages)
        else:
            completion = yield from plain_answer(asked, prefix, told, begun)
    finally:
        asked.engine.release(prefix)
    return answered(completion, told.segments[0]["text"], told)


def _best_of(asked: Asked, prefix: Prefix, prompts: Sequence[tuple[int, ...]], told: Told) -> Asking:
    """Answer with each passage; the one that is taken is told as the answer's only segment."""
    told.retrieved = True
    sampling = at_least_one(asked.sampling)
    found: Sequence[Completion] = yield [
        replace(asked.continued(prefix, prompt), sampling=sampling) for prompt in prompts
    ]
    scores = [scored(asked, one) for one in found]
    pieces = [asked.vocabulary.pieces(one.tokens) for one in found]
    told.candidates = [piece_record(asked, *one) for one in zip(found, pieces, range(len(found)), scores, strict=True)]
    totals = [one.total for one in scores]
    texts = [one["text"] for one in told.candidates]
    place = voted(texts, totals, told.votes) if asked.config.vote else totals.index(max(totals))
    told.segments = [told.candidates[place]]
    return found[place]


def voted(texts: Sequence[str], totals: Sequence[float], votes: dict[str, float]) -> int:
    """The best of the answers that say what has the highest sum of scores; of equal sums, what was said first.

    Args:
        texts: What each answer says.
        totals: Their scores.
        votes: Takes the sums.
    """
    for text, total in zip(texts, totals, strict=True):
        votes[text] = votes.get(text, 0.0) + total
    winner = max(votes, key=lambda text: votes[text])
    return max((place for place, text in enumerate(texts) if text == winner), key=lambda place: totals[place])
