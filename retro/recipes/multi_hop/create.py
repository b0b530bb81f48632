"""Step `create`: a teacher makes multi-hop questions, their paragraphs and their answers.

raw.jsonl         every try: what was asked with, the reply, the reason where it did not pass
filtered.jsonl    the questions that passed, with their paragraphs
final.jsonl       the items: with answers, those with a paragraph that does not hold it, single-hop ones
dropped.jsonl     questions whose answers failed a check
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from retro.common.errors import ConfigError, DataError
from retro.recipes.base import Made, StepRun
from retro.recipes.multi_hop import questions
from retro.recipes.multi_hop.answering import Dropped, OpenItem, answer_all
from retro.recipes.multi_hop.categories import read_categories
from retro.recipes.multi_hop.config import CreateConfig
from retro.recipes.multi_hop.item_files import write_items, write_records
from retro.recipes.multi_hop.items import MultiHopItem
from retro.recipes.multi_hop.made_items import filtered_record, made_item, negative_item, singles_of, without_answers
from retro.recipes.multi_hop.negatives import Negative, Owned, negatives_of
from retro.recipes.multi_hop.prompts import Texts
from retro.recipes.multi_hop.questions import Questions, QuestionSpec, specs_of
from retro.teacher.teacher import Teacher

RAW, FILTERED, FINAL, DROPPED = "raw.jsonl", "filtered.jsonl", "final.jsonl", "dropped.jsonl"


@dataclass
class _Answered:
    """What came of asking for answers."""

    items: list[MultiHopItem] = field(default_factory=list)
    dropped: list[dict[str, Any]] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)

    def take(self, flow: str, found: MultiHopItem | Dropped) -> None:
        """Keep an item, or count it."""
        if isinstance(found, MultiHopItem):
            self.items.append(found)
            return
        self.reasons[f"{flow}: {found.reason}"] += 1
        said = {"reason": found.reason, "problem": found.problem}
        self.dropped.append({"id": found.item.id, "question": found.item.question, **said})


@dataclass(frozen=True, kw_only=True)
class _Work:
    """What all parts of the step are given."""

    teacher: Teacher
    texts: Texts
    config: CreateConfig
    specs: Sequence[QuestionSpec]
    made: Questions

    @property
    def passed(self) -> list[QuestionSpec]:
        """Those that have a question."""
        return [one for one in self.specs if one.id in self.made.drafts]

    def answers(self, items: Sequence[OpenItem], what: str) -> Iterator[MultiHopItem | Dropped]:
        """Full answers. One is some lines, where a question is a page."""
        return answer_all(self.teacher, self.texts, items, max_tokens=max(self.config.max_tokens // 3, 1), what=what)


def run(work: StepRun) -> Made:
    """Make questions, answer them, then those with other paragraphs.

    Raises:
        ConfigError: No categories are given.
        DataError: The file of categories cannot be used, no question passed, or no answer did.
    """
    config: CreateConfig = work.settings.create
    if config.categories is None:
        raise ConfigError("recipe.multi_hop.create.categories", None, "needs a file of categories")
    texts, categories = Texts.load(work.settings.prompts), read_categories(config.categories)
    specs = specs_of(config, categories)
    with work.teacher(config.teacher) as teacher:
        made = questions.make(teacher, texts, config, specs)
        ours = _Work(teacher=teacher, texts=texts, config=config, specs=specs, made=made)
        _write_questions(work.directory, ours)
        positives = _positives(ours)
        _require_items(work.directory, positives)
        negatives, without = _negatives(ours, positives)
        report = {"teacher": teacher.report().line(), "prompts": texts.identity}
    both = [*positives.items, *negatives.items]
    singles = singles_of(both, config.single_share, config.seed)
    write_items(work.directory / FINAL, [*both, *singles])
    write_records(work.directory / DROPPED, [*positives.dropped, *negatives.dropped])
    counts = {
        "categories": len(categories), "wanted": len(specs), "tries": len(made.tries), "filtered": len(ours.passed),
        "rejected": _sorted(made.rejected), "given_up": _sorted(made.given_up),
        "items": len(positives.items), "negatives": len(negatives.items), "singles": len(singles),
        "dropped": _sorted(positives.reasons), "negatives_dropped": _sorted(negatives.reasons),
        "negatives_without_a_paragraph": without,
    }  # fmt: skip
    return Made(files=[RAW, FILTERED, FINAL, DROPPED], counts=counts, report=report)


def inputs(work: StepRun) -> list[Path]:
    """The files that it reads."""
    return [path for path in (work.settings.create.categories, work.settings.prompts) if path is not None]


def _write_questions(folder: Path, work: _Work) -> None:
    """Write all tries and the questions that passed.

    Raises:
        DataError: None did.
    """
    write_records(folder / RAW, work.made.tries)
    write_records(folder / FILTERED, (filtered_record(made_item(one, work.made.drafts[one.id])) for one in work.passed))
    if not work.passed:
        problem = f"no question passed of {len(work.specs)} ({dict(work.made.rejected)})"
        raise DataError(folder / RAW, problem, "Look at the replies in this file")


def _require_items(folder: Path, found: _Answered) -> None:
    if not found.items:
        write_records(folder / DROPPED, found.dropped)
        problem = f"no item is left of {len(found.dropped)} questions ({dict(found.reasons)})"
        raise DataError(folder / DROPPED, problem, "Look at the problems in this file")


def _positives(work: _Work) -> _Answered:
    """The questions with answers: those that came with them, or others at temperature 0."""
    items = [made_item(one, work.made.drafts[one.id]) for one in work.passed]
    if not work.config.re_generate_answer:
        return _Answered(items=items)
    found = _Answered()
    answers = work.answers([OpenItem(item=without_answers(one)) for one in items], "create")
    for one, answer in zip(work.passed, answers, strict=True):
        found.take(one.flow, answer)
    return found


def _negatives(work: _Work, positives: _Answered) -> tuple[_Answered, int]:
    """Items with another paragraph, of those that were answered; and for how many there was none."""
    answered = {one.id for one in positives.items}
    specs = {one.id: one for one in work.passed if one.id in answered}
    owned = [Owned(id=one.id, category=one.category, draft=work.made.drafts[one.id]) for one in specs.values()]
    made, without = list[Negative](), 0
    for flow in work.config.flows:
        of_flow = [one for one in owned if specs[one.id].flow == flow]
        new, lacking = negatives_of(of_flow, owned, work.config.negative_share, work.config.seed)
        made, without = [*made, *new], without + lacking
    found = _Answered()
    items = [OpenItem(item=negative_item(specs[one.of.id], one)) for one in made]
    for one, answer in zip(made, work.answers(items, "create: negatives"), strict=True):
        found.take(specs[one.of.id].flow, answer)
    return found, without


def _sorted(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items()))
