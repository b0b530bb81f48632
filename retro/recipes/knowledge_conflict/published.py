"""Items of published conflict sets: which of their passages is shown under which condition."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from retro.common.errors import DataError
from retro.common.json_files import json_items, read_text
from retro.qa.formats.conflicts import READERS, Conflict
from retro.qa.formats.item import BadItemError
from retro.recipes.knowledge_conflict.config import SetsConfig
from retro.recipes.knowledge_conflict.items import ConflictItem
from retro.recipes.knowledge_conflict.substitution import generator_of


def read_published(path: Path, config: SetsConfig) -> Iterator[Conflict]:
    """The items of a file, read strictly.

    Raises:
        DataError: The file is missing or broken, or an item cannot be used.
    """
    for one in json_items(path, read_text(path)):
        try:
            yield READERS[config.form](one.value, str(one.number))
        except BadItemError as error:
            remedy = f"Fix it; a file of the form {config.form} was named (recipe.knowledge_conflict.sets.form)"
            raise DataError(path, f"{one.place} {error.problem}", remedy) from None


def published_item(found: Conflict, config: SetsConfig, uncertain: str) -> ConflictItem:
    """An item with the passages that the set has.

    Args:
        found: As it was read.
        config: Which passages are shown first, and whether the answers are options.
        uncertain: The option that decides for neither answer.
    """
    options = found.options
    if config.choices:
        every = (*found.original[:1], *found.counter[:1], uncertain)
        order = generator_of(config.seed, "options", found.id).permutation(len(every))
        options = tuple(every[place] for place in order)
    opposing = "counter_memory" if config.form == "conflictqa" else "substituted"
    sides = {
        "original": found.supporting, opposing: found.opposing, "contradicting": found.contradicting,
        "unanswerable": found.silent,
    }  # fmt: skip
    first = 1 if config.evidence == "aligned" else 0
    conditions = {
        name: (*passages[first:], *passages[:first])[: config.passages] for name, passages in sides.items() if passages
    }
    return ConflictItem(
        id=found.id, question=found.question, answers=found.answers, original=found.original, counter=found.counter,
        options=options, labels=found.labels, conditions=conditions,
    )  # fmt: skip
