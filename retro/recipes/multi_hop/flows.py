"""The ways to a multi-hop question: which fields a reply has, and the question that they make.

Two entities (16 steps): category, two entities, common attributes, one of them, question 1, question 2, multi-hop
question, paragraph 1, reasoning 1, answer 1, paragraph 2, reasoning 2, answer 2, summary, reasoning, final answer. Two
attributes of one entity: the same with one entity and two attributes. The older comparison: 12 steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from retro.qa.formats.item import BadItemError
from retro.recipes.multi_hop.config import Flow
from retro.recipes.multi_hop.items import final_answer, long_answer

_QUESTIONS = ("Question 1", "Question 2", "Multi-hop question")
_ANSWERED = ("Paragraph 1", "Reasoning 1", "Answer 1", "Paragraph 2", "Reasoning 2", "Answer 2")
_FINAL = ("Summary", "Reasoning", "Final answer")
_BY_ANSWERS = {*_ANSWERED, *_FINAL} - {"Paragraph 1", "Paragraph 2"}
"""Steps that can be done again, from the paragraphs alone."""


@dataclass(frozen=True, kw_only=True)
class Steps:
    """What the reply of a flow has."""

    fields: tuple[str, ...]
    """All of them, in order."""
    entities: tuple[str, str]
    """Fields of the entity that each sub-question is about."""
    attributes: tuple[str, str]
    """Fields of the attribute that each asks for."""
    listed: str = ""
    """Field of the attributes from which they are chosen; empty: there is none."""

    @property
    def creative(self) -> tuple[str, ...]:
        """The fields without those that answer."""
        return tuple(name for name in self.fields if name not in _BY_ANSWERS)


STEPS: Mapping[Flow, Steps] = {
    "entities": Steps(
        fields=(
            *("Category", "Entity 1", "Entity 2", "Common attributes", "Selected attribute"),
            *(*_QUESTIONS, *_ANSWERED, *_FINAL),
        ),
        entities=("Entity 1", "Entity 2"),
        attributes=("Selected attribute", "Selected attribute"),
        listed="Common attributes",
    ),
    "attributes": Steps(
        fields=(
            *("Category", "Entity", "Attributes", "Selected attribute 1", "Selected attribute 2"),
            *(*_QUESTIONS, *_ANSWERED, *_FINAL),
        ),
        entities=("Entity", "Entity"),
        attributes=("Selected attribute 1", "Selected attribute 2"),
        listed="Attributes",
    ),
    "comparison": Steps(
        fields=(
            *("Entity 1", "Entity 2", "Attribute", "Multi-hop question", "Question 1", "Question 2"),
            *("Paragraph 1", "Paragraph 2", "Answer 1", "Answer 2", "Reasoning", "Final answer"),
        ),
        entities=("Entity 1", "Entity 2"),
        attributes=("Attribute", "Attribute"),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Hop:
    """One half of a question."""

    entity: str
    attribute: str
    question: str
    paragraph: str
    long_answer: str = ""
    """Empty until it is answered."""


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A multi-hop question that a teacher made."""

    question: str
    hops: tuple[Hop, Hop]
    attributes: tuple[str, ...] = ()
    """Those from which the teacher chose."""
    final_answer: str = ""
    """Empty until it is answered."""
    answer: str = ""
    """The short form of it."""
    reasoning: str = ""
    """How it follows from the summary."""


def draft_of(flow: Flow, fields: Mapping[str, str]) -> Draft:
    """The question that the fields of a reply make, with its answers where they are among them.

    Raises:
        BadItemError: An answer cannot be written in the form of items.
    """
    steps = STEPS[flow]
    hops = tuple(
        Hop(
            entity=fields[entity],
            attribute=fields[attribute],
            question=fields[f"Question {number}"],
            paragraph=fields[f"Paragraph {number}"],
            long_answer=_long_answer(fields, number),
        )
        for number, entity, attribute in zip((1, 2), steps.entities, steps.attributes, strict=True)
    )
    listed = fields[steps.listed].split(",") if steps.listed else []
    draft = Draft(
        question=fields["Multi-hop question"],
        hops=(hops[0], hops[1]),
        attributes=tuple(filter(None, (one.strip(" .") for one in listed))),
    )
    return _answered(draft, fields) if "Final answer" in fields else draft


def _long_answer(fields: Mapping[str, str], number: int) -> str:
    """`<reasoning>\\nAnswer:<answer>`; in the older form, which has no reasoning, the answer alone."""
    if f"Reasoning {number}" in fields:
        return long_answer(fields[f"Reasoning {number}"], fields[f"Answer {number}"])
    return fields.get(f"Answer {number}", "")


def _answered(draft: Draft, fields: Mapping[str, str]) -> Draft:
    # The older form has no summary: its reasoning says what was found.
    summary = fields.get("Summary", fields["Reasoning"])
    final = final_answer(summary, fields["Final answer"])
    return replace(draft, final_answer=final, answer=fields["Final answer"], reasoning=fields["Reasoning"])


def require_category(category: str, fields: Mapping[str, str]) -> None:
    """Check that a reply is about the category that was asked for, where it says one.

    Raises:
        BadItemError: It is about another one.
    """
    said = fields.get("Category", category)
    if said.strip(" .").casefold() != category.casefold():
        raise BadItemError("other_category", f"has the category {said[:60]!r}, asked for was {category!r}")
