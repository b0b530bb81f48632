"""IRCoT: a chain of thought whose every sentence is searched with (Trivedi et al. 2023, arXiv:2212.10509)."""

from __future__ import annotations

import re
from functools import partial

from retro.qa.question import PassageLike, Question
from retro.qa.sentences import sentences
from retro.recipes.multi_hop.asking import ask, no_reply, note, search
from retro.recipes.multi_hop.dialogs import DialogTexts, context_of
from retro.recipes.multi_hop.protocol import Event, Hop, Outcome, Steps
from retro.recipes.prompt_files import filled

_MARK = re.compile("answer is", re.IGNORECASE)
_MOST_PASSAGES = 15
"""Kept in the prompt, the first found first, as in the paper."""


def ircot(question: Question, texts: DialogTexts, hops: int, max_new_tokens: int) -> Steps:
    """Search with the question, then in turn write a sentence and search with it, until one says what the answer is.

    Args:
        question: The question.
        texts: `next_thought` asks for a sentence.
        hops: Most searches; the sentence after the last one is the last.
        max_new_tokens: Of a reply, of which the first sentence is taken.
    """
    query, hop_list, thoughts, notes = question.question, list[Hop](), list[str](), list[str]()
    passages: dict[tuple[str, str], PassageLike] = {}
    while True:
        if query in [one.query for one in hop_list]:
            yield from note(notes, "repeated_query")
        found = yield from search(query, question, notes)
        for one in found.passages:
            passages.setdefault((one.title, one.text), one)
        context = context_of(list(passages.values())[:_MOST_PASSAGES], texts)
        prompt = partial(_prompt, texts, question, " ".join(thoughts))
        reply = yield from ask(prompt, context, max_new_tokens, notes, whole=False)
        thought, *rest = sentences(reply.text) or [""]
        if reply.cut and not rest:
            yield from note(notes, "reply_cut")
        hop_list.append(Hop(query=query, passages=found.passages, answer=thought))
        thoughts += [thought] if thought else []
        said = _MARK.split(thought)
        if thought:
            yield Event(kind="said", text=thought)
        if not thought or len(said) > 1 or len(hop_list) >= hops:
            answer = said[-1].strip(" :.") if len(said) > 1 else ""
            notes += ["hop_limit"] if thought and len(said) == 1 else []
            why = no_reply(reply) or ("" if answer else "no_answer: no sentence says what it is")
            text, took = " ".join(thoughts), tuple(hop_list)
            return Outcome(answer=answer, text=text, hops=took, notes=tuple(notes), failed=why)
        query = thought


def _prompt(texts: DialogTexts, question: Question, thoughts: str, context: str) -> str:
    return filled(texts.next_thought, {"passages": context, "question": question.question, "thoughts": thoughts})
