"""Filters on questions that a teacher made: entities where they belong, a choice from the list, nothing twice."""

from __future__ import annotations

from collections.abc import Collection

from retro.qa.formats.item import BadItemError
from retro.qa.metrics.normalize import normalize_answer
from retro.recipes.multi_hop.flows import Draft


def require_good(draft: Draft) -> None:
    """Check a question by itself.

    Raises:
        BadItemError: Its entities are one where they should be two, the multi-hop question lacks one, a sub-question
            lacks its own or names the other, or the attribute is not among those listed. The reason says which.
    """
    _require_entities(draft)
    _require_attributes(draft)
    asked = {normalize_answer(one.question) for one in draft.hops}
    if len(asked) < len(draft.hops) or normalize_answer(draft.question) in asked:
        raise BadItemError("same_questions", "asks the same in two of its questions")


def key_of(draft: Draft) -> str:
    """What is equal for questions that ask the same."""
    return normalize_answer(draft.question)


def named(text: str, entities: Collection[str]) -> set[str]:
    """Those of the entities that a text names as whole words, in any case, with or without articles and punctuation.

    A name within a longer one is not named by it: `York` is not in `New York`.
    """
    rest, found = f" {normalize_answer(text)} ", set()
    for entity in sorted(entities, key=len, reverse=True):
        name = f" {normalize_answer(entity)} "
        if name.strip() and name in rest:
            found.add(entity)
            # A mark between them, so that no name comes about from what stood around this one.
            rest = rest.replace(name, " | ")
    return found


def _require_entities(draft: Draft) -> None:
    entities = dict.fromkeys(one.entity for one in draft.hops)
    alike = {normalize_answer(one) for one in entities}
    if len(alike) < len(entities):
        raise BadItemError("same_entities", f"has one entity twice: {', '.join(entities)}")
    for entity in entities:
        if entity not in named(draft.question, entities):
            raise BadItemError("entity_not_in_question", f"does not name {entity!r} in {draft.question[:60]!r}")
    for one in draft.hops:
        there = named(one.question, entities)
        if one.entity not in there:
            problem = f"does not name {one.entity!r} in the sub-question {one.question[:60]!r}"
            raise BadItemError("entity_not_in_sub_question", problem)
        if len(there) > 1:
            problem = f"names the other entity in the sub-question {one.question[:60]!r}"
            raise BadItemError("other_entity_in_sub_question", problem)


def _require_attributes(draft: Draft) -> None:
    if not draft.attributes:
        return
    listed = {normalize_answer(one) for one in draft.attributes}
    for one in draft.hops:
        if normalize_answer(one.attribute) not in listed:
            raise BadItemError("attribute_not_listed", f"chose {one.attribute[:60]!r}, which it did not list")
    by_entity = {(normalize_answer(one.entity), normalize_answer(one.attribute)) for one in draft.hops}
    if len(by_entity) < len(draft.hops):
        raise BadItemError("same_attributes", f"chose {draft.hops[0].attribute[:60]!r} twice")
