"""Adaptive-RAG: no search, one, or several, as a question needs (Jeong et al. 2024, arXiv:2403.14403)."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Literal, get_args

from retro.qa.question import Question
from retro.recipes.multi_hop.dialogs import DialogTexts, answer_of, context_of
from retro.recipes.multi_hop.protocol import Answer, Ask, Event, Found, Hop, Outcome, Reply, Search, Steps
from retro.recipes.prompt_files import filled

Label = Literal["A", "B", "C"]
"""Nothing is looked up; one search; several."""


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
    notes: tuple[str, ...] = ()
    route: str = "" if label is None else label(question.question)
    if label is None:
        prompt = filled(texts.route, {"question": question.question})
        reply: Reply = yield Ask(messages=({"role": "user", "content": prompt},), max_new_tokens=max_new_tokens)
        found = re.search(r"\b([ABC])\b", reply.text)
        route = found[1] if found else ""
    if route not in get_args(Label):
        route, notes = "C", ("no_label",)
    yield Event(kind="note", text=f"route {route}")
    if route == "C":
        outcome = yield from several(question)
        return replace(outcome, route=route, notes=(*notes, *outcome.notes))
    looked: Found = (yield Search(query=question.question, question=question)) if route == "B" else Found()
    shown = context_of(looked.passages, texts) if route == "B" else ""
    prompt = filled(texts.direct, {"passages": shown, "question": question.question}).strip()
    said: Reply = yield Ask(messages=({"role": "user", "content": prompt},), max_new_tokens=max_new_tokens)
    why = said.problem or ("the prompt is too long" if said.excess else "" if said.text else "it wrote nothing")
    hops = (Hop(query=question.question, passages=looked.passages, answer=said.text),) if route == "B" else ()
    failed = f"model: {why}" if why else ""
    return Outcome(answer=answer_of(said.text), text=said.text, hops=hops, route=route, failed=failed)
