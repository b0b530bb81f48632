"""IRCoT: a chain of thought whose every sentence is searched with (Trivedi et al. 2023, arXiv:2212.10509)."""

from __future__ import annotations

from collections.abc import Sequence

from retro.qa.question import PassageLike, Question
from retro.qa.sentences import sentences
from retro.recipes.multi_hop.dialogs import DialogTexts, context_of
from retro.recipes.multi_hop.protocol import Ask, Event, Found, Hop, Outcome, Reply, Search, Steps
from retro.recipes.prompt_files import filled

MARK = "answer is"
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
        yield Event(kind="search", text=query)
        found: Found = yield Search(query=query, question=question)
        notes += [f"search_failed: {found.problem}"] if found.problem else []
        passages |= {(one.title, one.text): one for one in found.passages if len(passages) < _MOST_PASSAGES}
        yield Event(kind="found", passages=found.passages)
        prompt = _prompt(question, texts, list(passages.values()), thoughts)
        reply: Reply = yield Ask(messages=({"role": "user", "content": prompt},), max_new_tokens=max_new_tokens)
        thought = next(iter(sentences(reply.text)), "")
        hop_list.append(Hop(query=query, passages=found.passages, answer=thought))
        if not thought:
            why = reply.problem or ("the prompt is too long" if reply.excess else "it wrote nothing")
            return Outcome(text=" ".join(thoughts), hops=tuple(hop_list), notes=tuple(notes), failed=f"model: {why}")
        thoughts.append(thought)
        yield Event(kind="said", text=thought)
        _, mark, answer = thought.lower().rpartition(MARK)
        if mark or len(hop_list) >= hops:
            said = thought[len(thought) - len(answer) :].strip(" :.") if mark else ""
            notes += [] if mark else ["hop_limit"]
            why = "" if said else "no_answer: no sentence says what it is"
            text = " ".join(thoughts)
            return Outcome(answer=said, text=text, hops=tuple(hop_list), notes=tuple(notes), failed=why)
        query = thought


def _prompt(question: Question, texts: DialogTexts, passages: Sequence[PassageLike], thoughts: Sequence[str]) -> str:
    values = {"passages": context_of(passages, texts), "question": question.question, "thoughts": " ".join(thoughts)}
    return filled(texts.next_thought, values)
