"""Items of questions that a teacher made: positive ones, negative ones, and their sub-questions as single-hop ones."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from retro.recipes.multi_hop.flows import Draft
from retro.recipes.multi_hop.items import ANSWER, MultiHopItem, SubQuestion
from retro.recipes.multi_hop.negatives import Negative
from retro.recipes.multi_hop.questions import QuestionSpec

SRC = "gen_qa.json"
"""What older data calls generated items."""


def made_item(spec: QuestionSpec, draft: Draft) -> MultiHopItem:
    """A question as an item, with answers where they came with it."""
    drawn = {"question_type": spec.question_type, "popularity": list(spec.popularity)}
    about = {"category": spec.category, "flow": spec.flow, **drawn}
    entities = {"entities": [one.entity for one in draft.hops], "attributes": [one.attribute for one in draft.hops]}
    reasoning = {"reasoning": draft.reasoning} if draft.reasoning else {}
    return MultiHopItem(
        question=draft.question,
        multihop=True,
        sub_questions=tuple(
            SubQuestion(question=one.question, paragraph=one.paragraph, long_answer=one.long_answer)
            for one in draft.hops
        ),
        final_answer=draft.final_answer,
        answer=draft.answer,
        id=spec.id,
        src=SRC,
        meta={**about, **entities, **reasoning},
        extra={"tag": spec.flow},
    )


def without_answers(item: MultiHopItem) -> MultiHopItem:
    """The item without the answers that came with it, for they are asked for again."""
    subs = tuple(replace(one, long_answer="") for one in item.sub_questions)
    meta = {name: value for name, value in item.meta.items() if name != "reasoning"}
    return replace(item, sub_questions=subs, final_answer="", answer="", meta=meta)


def negative_item(spec: QuestionSpec, negative: Negative) -> MultiHopItem:
    """A question with another paragraph, or two, as an item without answers."""
    item = made_item(spec, negative.draft)
    subs = tuple(replace(one, unanswerable=place in negative.replaced) for place, one in enumerate(item.sub_questions))
    replaced = {"replaced": [place + 1 for place in negative.replaced], "taken_from": list(negative.taken_from)}
    meta, tag = {**item.meta, **replaced}, f"{spec.flow}-neg"
    return replace(item, id=f"{spec.id}/neg", sub_questions=subs, meta=meta, extra={"tag": tag})


def singles_of(items: Sequence[MultiHopItem], share: float, seed: int) -> list[MultiHopItem]:
    """A share of the sub-questions as single-hop items, each drawn by itself."""
    draw = random.Random(f"{seed} singles")
    return [_single(item, place) for item in items for place in range(len(item.sub_questions)) if draw.random() < share]


def filtered_record(item: MultiHopItem) -> dict[str, Any]:
    """A question that passed in the published field names, as far as it is made."""
    subs = [{"question": one.question, "paragraph": one.paragraph} for one in item.sub_questions]
    asked = {"id": item.id, "question": item.question, "multihop": True, "sub_questions": subs}
    return {**asked, "meta_info": dict(item.meta), **item.extra}


def _single(item: MultiHopItem, place: int) -> MultiHopItem:
    sub = item.sub_questions[place]
    # The older form has no reasoning before its answer, and no `Answer:`.
    answer = sub.long_answer.rpartition(f"\n{ANSWER}")[2]
    return replace(
        item, id=f"{item.id}/q{place + 1}", question=sub.question, multihop=False, sub_questions=(sub,),
        final_answer=answer, answer="" if sub.unanswerable else answer, meta={"of": item.id},
    )  # fmt: skip
