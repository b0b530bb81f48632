"""Adaptive-RAG: no search, one, or several, as a question needs (Jeong et al. 2024, arXiv:2403.14403)."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Literal, get_args

from retro.qa.question import Question
from retro.recipes.multi_hop.asking import NO_ANSWER, ask, no_reply, note, search
from retro.recipes.multi_hop.dialogs import DialogTexts, answer_of, context_of
from retro.recipes.multi_hop.protocol import Answer, Event, Found, Hop, Outcome, Steps
from retro.recipes.prompt_files import filled

Label = Literal["A", "B", "C"]
"""Nothing is looked up; one search; several."""
_ALONE, _LABEL = re.compile(r"\W*([ABC])\b(?!\s+\w)"), re.compile(r"\b([ABC])\b")


def adaptive(
    question: Question,
    texts: DialogTexts,
    several: Answer,
    max_new_tokens: int,
    label: Callable[[str], Label] | None = None,
) -> Steps:
    """Answer in the way that a label says; a label that is none is C, and noted.

    Args:
        question: The question.
        texts: `route` asks for a label, `direct` for an answer.
        several: The way with several searches, such as `decompose`.
        max_new_tokens: Of an answer.
        label: A classifier; None: the language model labels.
    """
    asked, notes, route = question.question, list[str](), "" if label is None else str(label(question.question))
    if label is None:
        reply = yield from ask(lambda _: filled(texts.route, {"question": asked}), "", max_new_tokens, notes)
        if reply.problem or reply.excess:
            return Outcome(failed=no_reply(reply), notes=tuple(notes))
        # A letter by itself at the beginning; else the last one, for "A question with several facts: C" is C.
        alone = _ALONE.match(reply.text)
        route = alone[1] if alone else (_LABEL.findall(reply.text) or [""])[-1]
    if route not in get_args(Label):
        route = "C"
        yield from note(notes, "no_label")
    yield Event(kind="note", text=f"route {route}")
    if route == "C":
        outcome = yield from several(question)
        return replace(outcome, route=route, notes=(*notes, *outcome.notes))
    found = (yield from search(asked, question, notes)) if route == "B" else Found()
    context, values = context_of(found.passages, texts) if route == "B" else "", {"question": asked}
    said = yield from ask(lambda it: filled(texts.direct, values | {"passages": it}), context, max_new_tokens, notes)
    answer = answer_of(said.text)
    hops = (Hop(query=asked, passages=found.passages, answer=said.text),) if route == "B" else ()
    why = no_reply(said) or ("" if answer else NO_ANSWER)
    return Outcome(answer=answer, text=said.text, hops=hops, notes=tuple(notes), route=route, failed=why)
