"""Rationales: how the documents lead to the answer, written for each training question by the model or a teacher.

recall/train.jsonl, test.jsonl    questions with `internal_knowledge`, what the model says without documents
rationales/train.jsonl            the published form: question, answers, ctxs, rationale; and what was found out of it
rationales/examples.jsonl         some of each kind: consistent or not, with an answer in the documents or without
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from retro.qa.metrics.words import match_norm
from retro.qa.prompt_texts import load_prompts
from retro.qa.question import Question
from retro.recipes.base import Made, StepRun
from retro.recipes.instruct_rag import data
from retro.recipes.instruct_rag.config import RationaleConfig
from retro.recipes.instruct_rag.prompts import Situation, Texts, rationale_prompt, rendered_documents, write_style
from retro.recipes.instruct_rag.start import base_model, room_of
from retro.recipes.item_files import read_items, write_items
from retro.recipes.knowledge_conflict.quadrants import holds_answer, quadrant
from retro.recipes.prompt_files import filled
from retro.teacher.request import Completion, TeacherRequest

log = logging.getLogger(__name__)

TRAIN, EXAMPLES, STYLE = "train.jsonl", "examples.jsonl", "style.yaml"
_EXAMPLES_OF_EACH = 3
_VERDICT = re.compile(r"verdict[\s*_]*:[\s*_\"']*(yes|no)\b", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Explained:
    """A question with its rationale."""

    question: Question
    rationale: str
    consistent: bool
    """Whether it comes to an answer."""
    situation: Situation
    cut: bool = False
    """Whether it ended at the most tokens that it may have."""
    recalled: str = ""

    @property
    def answer_in_documents(self) -> bool:
        """Whether a document holds an answer."""
        return documents_hold_answer(self.question)

    @property
    def record(self) -> dict[str, Any]:
        """In the published form, and what was found out."""
        found = {"rationale": self.rationale, "consistent": self.consistent, "situation": self.situation}
        found["cut"] = self.cut
        recalled = {"internal_knowledge": self.recalled} if self.recalled else {}
        return data.record_of(self.question) | found | {"answer_in_documents": self.answer_in_documents} | recalled


def recall(work: StepRun) -> Made:
    """Ask the model for what it knows of each question, without documents.

    Raises:
        RetroError: As the teacher.
    """
    config: RationaleConfig = work.settings.rationale
    texts, made = Texts.load(work.settings.prompts), work.made_by("data")
    wanted = (data.TRAIN, data.TEST) if work.settings.recall else (data.TRAIN,)
    names = [name for name in wanted if (made / name).exists()]
    counts: dict[str, Any] = {}
    with work.teacher(config.teacher, base_model(work)) as teacher:
        for name in names:
            questions = data.read_chosen(made / name)
            if name == data.TRAIN and work.settings.learn == "rationale":
                questions = questions[: config.limit]
            requests = [_request(filled(texts.recall, {"question": one.question}), config) for one in questions]
            replies = [one.text.strip() for one in teacher.complete_all(requests, what=f"recall: {name}")]
            asked = zip(questions, replies, strict=True)
            write_items(
                work.directory / name,
                (data.record_of(one) | {"internal_knowledge": reply or "-"} for one, reply in asked),
            )
            right = [
                holds_answer(reply, data.short_answers(one)) for one, reply in zip(questions, replies, strict=True)
            ]
            counts[name] = {"questions": len(questions), "with_answer": sum(right)}
    return Made(files=names, counts=counts)


def recalled_of(work: StepRun, name: str) -> dict[str, str]:
    """What the model recalled for the questions of a file, by the question's id."""
    items = read_items(work.made_by("recall") / name, ("id", "internal_knowledge"), "recalled knowledge")
    return {one["id"]: one["internal_knowledge"] for one in items}


def run(work: StepRun) -> Made:
    """Write rationales.

    Raises:
        RetroError: As the teacher.
    """
    config: RationaleConfig = work.settings.rationale
    texts = Texts.load(work.settings.prompts)
    questions = data.read_chosen(work.made_by("data") / data.TRAIN)[: config.limit]
    known = recalled_of(work, data.TRAIN) if config.by_situation else {}
    asked = [
        Explained(
            question=one, rationale="", consistent=False, recalled=known.get(one.id, ""),
            situation=situation_of(one, known[one.id]) if known else "given",
        )
        for one in questions
    ]  # fmt: skip
    prompts, dropped = rationale_prompts(work, texts, asked)
    with work.teacher(config.teacher, base_model(work)) as teacher:
        replies = list(teacher.complete_all([_request(one, config) for one in prompts], what="rationales"))
        requests = teacher.report().requests
    explained = [_with_rationale(one, reply) for one, reply in zip(asked, replies, strict=True)]
    unjudged = 0
    if config.judge is not None:
        explained, unjudged = _judged(work, texts, explained)
    write_items(work.directory / TRAIN, (one.record for one in explained))
    write_items(work.directory / EXAMPLES, examples(explained))
    counts = {**shares(explained), "documents_without_room": dropped, "without_verdict": unjudged}
    _log_shares(counts)
    return Made(files=[TRAIN, EXAMPLES, STYLE], counts=counts, report={"requests": requests})


def rationale_prompts(work: StepRun, texts: Texts, asked: Sequence[Explained]) -> tuple[list[str], int]:
    """What is asked for each rationale, and how many documents had no room in these prompts."""
    form = load_prompts(write_style(texts, work.directory / STYLE)).styles["plain"]
    order, hint, room = work.settings.documents.order, data.known_set(work).hint, room_of(work)
    prompts, dropped = [], 0
    for one in asked:
        for shown in range(len(one.question.contexts), -1, -1):
            documents = rendered_documents(form, one.question.contexts, order, shown)
            prompt = _prompt(texts, one, documents, hint)
            if room.holds(prompt):
                break
        prompts.append(prompt)
        dropped += len(one.question.contexts) - shown
    return prompts, dropped


def _prompt(texts: Texts, one: Explained, documents: str, hint: str) -> str:
    return rationale_prompt(
        texts, one.situation, documents=documents, question=one.question.question, answers=answers_text(one.question),
        hint=hint, recalled=one.recalled,
    )  # fmt: skip


def answers_text(question: Question) -> str:
    """The right answers as a prompt has them: names of one answer apart by a slash, answers by a semicolon."""
    groups = question.answer_groups or (question.answers,)
    return "; ".join(" / ".join(group) for group in groups)


def _request(prompt: str, config: RationaleConfig) -> TeacherRequest:
    messages = ({"role": "user", "content": prompt.strip()},)
    return TeacherRequest(
        messages=messages, temperature=config.temperature, max_tokens=config.max_tokens, seed=config.seed
    )


def _with_rationale(one: Explained, reply: Completion) -> Explained:
    consistent = contains_answer(reply.text, data.short_answers(one.question))
    return replace(one, rationale=reply.text.strip(), consistent=consistent, cut=reply.finish_reason == "length")


def contains_answer(text: str, answers: Sequence[str]) -> bool:
    """Whether a rationale contains an answer, both normalized, within a word too (as published)."""
    return bool(text.strip()) and bool(match_norm(text, answers))


def documents_hold_answer(question: Question) -> bool:
    """Whether one of a question's documents holds an answer."""
    return any(holds_answer(one.text, data.short_answers(question)) for one in question.contexts)


def situation_of(question: Question, recalled: str) -> Situation:
    """Where the answer is known from: what was recalled, the documents, both, or neither."""
    return quadrant(holds_answer(recalled, data.short_answers(question)), documents_hold_answer(question))


def _judged(work: StepRun, texts: Texts, explained: Sequence[Explained]) -> tuple[list[Explained], int]:
    """Rationales judged by a model, in place of the search for an answer in them; and how many got no verdict."""
    prompts = [
        filled(
            texts.judge,
            {
                "question": one.question.question,
                "answers": answers_text(one.question),
                "rationale": one.rationale,
            },
        )
        for one in explained
    ]
    config = work.settings.rationale
    with work.teacher(config.judge, base_model(work)) as judge:
        replies = list(judge.complete_all([_request(one, config) for one in prompts], what="judged rationales"))
    verdicts = [verdict_of(reply.text) for reply in replies]
    judged = [replace(one, consistent=verdict is True) for one, verdict in zip(explained, verdicts, strict=True)]
    return judged, verdicts.count(None)


def verdict_of(reply: str) -> bool | None:
    """What a judge says; its last verdict counts. None where it gives none."""
    found = _VERDICT.findall(reply)
    return found[-1].lower() == "yes" if found else None


def shares(explained: Sequence[Explained]) -> dict[str, Any]:
    """How many rationales there are of each kind."""
    situations = Counter(one.situation for one in explained)
    return {
        "rationales": len(explained),
        "empty": sum(not one.rationale for one in explained),
        "cut": sum(one.cut for one in explained),
        "consistent": sum(one.consistent for one in explained),
        "answer_in_documents": sum(one.answer_in_documents for one in explained),
        "consistent_with_answer_in_documents": sum(one.consistent and one.answer_in_documents for one in explained),
        "situations": dict(sorted(situations.items())),
    }


def _log_shares(counts: dict[str, Any]) -> None:
    log.info(
        "rationales: %d of %d come to an answer; where a document holds one, %d of %d",
        *(counts["consistent"], counts["rationales"]),
        *(counts["consistent_with_answer_in_documents"], counts["answer_in_documents"]),
    )


def examples(explained: Iterable[Explained]) -> list[dict[str, Any]]:
    """The first rationales of each kind, for people."""
    kept: dict[tuple[bool, bool], list[dict[str, Any]]] = {}
    for one in explained:
        mine = kept.setdefault((one.answer_in_documents, one.consistent), [])
        if len(mine) < _EXAMPLES_OF_EACH:
            mine.append(one.record)
    return [item for key in sorted(kept, reverse=True) for item in kept[key]]
