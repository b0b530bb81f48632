"""The step `counter_memory`: a teacher writes passages for the other answer (Xie et al. 2024, arXiv:2305.13300)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

from retro.common.files import atomic_path
from retro.qa.metrics.normalize import normalize_answer
from retro.qa.question import Context
from retro.recipes.base import Made, StepRun
from retro.recipes.knowledge_conflict.conflict_sets import BOTH_SIDES, ITEMS, with_both_sides
from retro.recipes.knowledge_conflict.entity_types import YES_NO
from retro.recipes.knowledge_conflict.items import ConflictItem, read_conflicts, write_conflicts
from retro.recipes.knowledge_conflict.prompts import Texts
from retro.recipes.knowledge_conflict.substitution import LONGEST_ENTITY, mentions
from retro.teacher.config import TeacherConfig
from retro.teacher.request import TeacherRequest

REJECTED = "rejected.jsonl"


def run(work: StepRun, teacher: TeacherConfig) -> Made:
    """Ask for a passage for each item that has another answer; a passage that does not fit is left out and counted.

    Args:
        work: The step.
        teacher: Who writes.

    Raises:
        RetroError: As the teacher.
    """
    teacher.require_source()
    config, texts = work.settings.counter_memory, Texts.load(work.settings.prompts)
    items = read_conflicts(work.made_by("sets") / ITEMS)
    wanted = [one for one in items if one.counter]
    requests = [
        TeacherRequest(
            messages=({"role": "user", "content": request_text(one, texts)},),
            temperature=config.temperature,
            max_tokens=config.max_tokens,
            seed=work.settings.sets.seed,
        )
        for one in wanted
    ]
    with work.teacher(teacher) as writer:
        replies = [one.text.strip() for one in writer.complete_all(requests, what="counter-memory passages")]
    problems = [problem_of(one, text) for one, text in zip(wanted, replies, strict=True)]
    passages = {one.id: text for one, text, problem in zip(wanted, replies, problems, strict=True) if not problem}
    write_conflicts(work.directory / ITEMS, [_with_passage(one, passages, work) for one in items])
    _write_rejected(work, wanted, replies, problems)
    rejected = Counter(filter(None, problems))
    counts = {"asked": len(wanted), "no_other_answer": len(items) - len(wanted), "kept": len(passages)}
    return Made(files=[ITEMS, REJECTED], counts=counts | {"rejected": dict(sorted(rejected.items()))})


def request_text(item: ConflictItem, texts: Texts) -> str:
    """What the teacher is asked about an item."""
    avoid = " or ".join(f'"{one}"' for one in item.original) or "any other answer"
    return texts.counter_prompt(item.question, item.counter[0], avoid)


def problem_of(item: ConflictItem, text: str) -> str:
    """Why a passage cannot be used, in a word; empty: it can.

    A sentence as an answer, as StrategyQA has them, and yes or no need not be in the passage word for word.
    """
    if not text:
        return "empty"
    other = item.counter[0]
    plain = len(other.split()) <= LONGEST_ENTITY and normalize_answer(other) not in YES_NO
    passage = [Context("", text)]
    if plain and not mentions(passage, item.counter):
        return "other_answer_is_missing"
    if plain and item.original and mentions(passage, item.original):
        return "original_answer_is_mentioned"
    return ""


def _with_passage(item: ConflictItem, passages: dict[str, str], work: StepRun) -> ConflictItem:
    if item.id not in passages:
        return item
    item = item.with_condition("counter_memory", [Context("", passages[item.id])])
    both = with_both_sides(item)
    wanted = [name for name in BOTH_SIDES if name in work.settings.sets.conditions and name in both.conditions]
    for name in wanted:
        item = item.with_condition(name, both.conditions[name])
    return item


def _write_rejected(
    work: StepRun, items: Sequence[ConflictItem], replies: Sequence[str], problems: Sequence[str]
) -> None:
    with atomic_path(work.directory / REJECTED) as temporary, temporary.open("w", encoding="utf-8") as target:
        for item, reply, problem in zip(items, replies, problems, strict=True):
            if problem:
                record = {"id": item.id, "question": item.question, "counter": item.counter[0], "problem": problem}
                target.write(json.dumps(record | {"reply": reply}, ensure_ascii=False) + "\n")
