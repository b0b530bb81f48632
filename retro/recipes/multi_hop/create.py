"""Step `create`: a teacher makes multi-hop questions, their paragraphs and their answers.

raw.jsonl         every try: what was asked with, the reply, the reason where it did not pass
filtered.jsonl    the questions that passed, with their paragraphs
final.jsonl       the items: with answers, those with a paragraph that does not hold it, single-hop ones
dropped.jsonl     questions whose answers failed a check
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from retro.common.errors import ConfigError, DataError
from retro.recipes.base import Made, StepRun
from retro.recipes.multi_hop import questions
from retro.recipes.multi_hop.answering import Dropped, OpenItem, answer_all
from retro.recipes.multi_hop.categories import read_categories
from retro.recipes.multi_hop.config import CreateConfig
from retro.recipes.multi_hop.flows import Draft
from retro.recipes.multi_hop.item_files import write_items, write_records
from retro.recipes.multi_hop.items import MultiHopItem, SubQuestion
from retro.recipes.multi_hop.negatives import Negative, Owned, negatives_of
from retro.recipes.multi_hop.prompts import Texts, load_texts
from retro.recipes.multi_hop.questions import Order, orders_of
from retro.teacher.teacher import Teacher

RAW, FILTERED, FINAL, DROPPED = "raw.jsonl", "filtered.jsonl", "final.jsonl", "dropped.jsonl"
SRC = "gen_qa.json"
"""What older data calls generated items."""


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


def run(work: StepRun) -> Made:
    """Make questions, answer them, then those with other paragraphs.

    Raises:
        ConfigError: No categories are given.
        DataError: The file of categories cannot be used, or no question passed.
    """
    config: CreateConfig = work.settings.create
    if config.categories is None:
        raise ConfigError("recipe.multi_hop.create.categories", None, "needs a file of categories")
    texts, categories = load_texts(work.settings.prompts), read_categories(config.categories)
    orders = orders_of(config, categories)
    with work.teacher(config.teacher) as teacher:
        made = questions.make(teacher, texts, config, orders)
        write_records(work.directory / RAW, made.tries)
        passed = [one for one in orders if one.id in made.drafts]
        opened = {one.id: _open(one, made.drafts[one.id]) for one in passed}
        write_records(work.directory / FILTERED, (_filtered(opened[one.id].item) for one in passed))
        if not passed:
            problem = f"no question passed of {len(orders)} ({dict(made.rejected)})"
            raise DataError(work.directory / RAW, problem, "Look at the replies in this file")
        positives = _positives(teacher, texts, config, passed, opened)
        negatives, without = _negatives(teacher, texts, config, passed, made.drafts, positives)
        report = {"teacher": teacher.report().line(), "prompts": texts.identity}
    both = [*positives.items, *negatives.items]
    singles = singles_of(both, config.single_share, config.seed)
    write_items(work.directory / FINAL, [*both, *singles])
    write_records(work.directory / DROPPED, [*positives.dropped, *negatives.dropped])
    counts = {
        "categories": len(categories), "wanted": len(orders), "tries": len(made.tries), "filtered": len(passed),
        "rejected": _sorted(made.rejected), "given_up": _sorted(made.given_up),
        "items": len(positives.items), "negatives": len(negatives.items), "singles": len(singles),
        "dropped": _sorted(positives.reasons), "negatives_dropped": _sorted(negatives.reasons),
        "negatives_without_a_paragraph": without,
    }  # fmt: skip
    return Made(files=[RAW, FILTERED, FINAL, DROPPED], counts=counts, report=report)


def inputs(work: StepRun) -> list[Path]:
    """The files that it reads."""
    return [path for path in (work.settings.create.categories, work.settings.prompts) if path is not None]


def singles_of(items: Sequence[MultiHopItem], share: float, seed: int) -> list[MultiHopItem]:
    """A share of the sub-questions as single-hop items, each drawn by itself."""
    draw, found = random.Random(f"{seed} singles"), list[MultiHopItem]()
    for item in items:
        for place, sub in enumerate(item.sub_questions):
            if draw.random() < share:
                answer = sub.long_answer.rpartition("\nAnswer:")[2]
                found.append(
                    replace(
                        item, id=f"{item.id}/q{place + 1}", question=sub.question, multihop=False,
                        sub_questions=(sub,), final_answer=answer, answer="" if sub.unanswerable else answer,
                        meta={"of": item.id},
                    )
                )  # fmt: skip
    return found


def _open(order: Order, draft: Draft) -> OpenItem:
    """An order's question without answers, or with those that came with it."""
    about = {"category": order.category, "flow": order.flow, "question_type": order.question_type}
    drawn = {"popularity": list(order.popularity), **({"reasoning": draft.reasoning} if draft.reasoning else {})}
    entities = {"entities": [one.entity for one in draft.hops], "attributes": [one.attribute for one in draft.hops]}
    item = MultiHopItem(
        question=draft.question,
        multihop=True,
        sub_questions=tuple(
            SubQuestion(question=one.question, paragraph=one.paragraph, long_answer=one.long_answer)
            for one in draft.hops
        ),
        final_answer=draft.final_answer,
        answer=draft.answer,
        id=order.id,
        src=SRC,
        meta={**about, **entities, **drawn},
        extra={"tag": order.flow},
    )
    return OpenItem(item=item)


def _filtered(item: MultiHopItem) -> dict[str, Any]:
    """A question in the published field names, as far as it is made."""
    subs = [{"question": one.question, "paragraph": one.paragraph} for one in item.sub_questions]
    asked = {"id": item.id, "question": item.question, "multihop": True, "sub_questions": subs}
    return {**asked, "meta_info": dict(item.meta), **item.extra}


def _positives(
    teacher: Teacher, texts: Texts, config: CreateConfig, passed: Sequence[Order], opened: Mapping[str, OpenItem]
) -> _Answered:
    found = _Answered()
    items = [opened[one.id] for one in passed]
    if not config.re_generate_answer:
        found.items += [one.item for one in items]
        return found
    for one, answer in zip(passed, _answers(teacher, texts, config, map(_unanswered, items), "create"), strict=True):
        found.take(one.flow, answer)
    return found


def _unanswered(one: OpenItem) -> OpenItem:
    """The question without the answers that came with it, which are asked for again."""
    subs = tuple(replace(sub, long_answer="") for sub in one.item.sub_questions)
    meta = {name: value for name, value in one.item.meta.items() if name != "reasoning"}
    return replace(one, item=replace(one.item, sub_questions=subs, final_answer="", answer="", meta=meta))


def _negatives(
    teacher: Teacher,
    texts: Texts,
    config: CreateConfig,
    passed: Sequence[Order],
    drafts: Mapping[str, Draft],
    positives: _Answered,
) -> tuple[_Answered, int]:
    """Items with another paragraph, of those that were answered; and for how many there was none."""
    answered = {one.id for one in positives.items}
    orders = {one.id: one for one in passed}
    owned = [Owned(id=one.id, category=one.category, draft=drafts[one.id]) for one in passed if one.id in answered]
    made, without = list[Negative](), 0
    for flow in config.flows:
        of_flow = [one for one in owned if orders[one.id].flow == flow]
        new, lacking = negatives_of(of_flow, owned, config.negative_share, config.seed)
        made, without = [*made, *new], without + lacking
    found = _Answered()
    items = [_open_negative(orders[one.of.id], one) for one in made]
    for one, answer in zip(made, _answers(teacher, texts, config, items, "create: negatives"), strict=True):
        found.take(orders[one.of.id].flow, answer)
    return found, without


def _open_negative(order: Order, negative: Negative) -> OpenItem:
    one = _open(order, negative.draft)
    subs = tuple(
        replace(sub, unanswerable=place in negative.replaced) for place, sub in enumerate(one.item.sub_questions)
    )
    replaced = {"replaced": [place + 1 for place in negative.replaced], "taken_from": list(negative.taken_from)}
    item = replace(
        one.item, id=f"{order.id}/neg", sub_questions=subs, meta={**one.item.meta, **replaced},
        extra={"tag": f"{order.flow}-neg"},
    )  # fmt: skip
    return replace(one, item=item)


def _answers(
    teacher: Teacher, texts: Texts, config: CreateConfig, items: Iterable[OpenItem], what: str
) -> Iterable[MultiHopItem | Dropped]:
    # An answer is some lines, where a question is a page.
    return answer_all(teacher, texts, list(items), max_tokens=max(config.max_tokens // 3, 1), what=what)


def _sorted(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items()))
