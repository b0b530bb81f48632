"""The step `sets`: questions of a QA set or a published one, with the passages of each condition."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from retro.common.errors import ConfigError, DataError
from retro.qa.layouts import read_task_questions
from retro.qa.metrics.normalize import normalize_answer
from retro.qa.question import Context
from retro.qa.task import load_task
from retro.recipes.knowledge_conflict.config import SetsConfig
from retro.recipes.knowledge_conflict.contexts import irrelevant_passages, without_answers
from retro.recipes.knowledge_conflict.entity_types import YES_NO, answer_type, open_tagger, read_lists
from retro.recipes.knowledge_conflict.items import CONDITIONS, Condition, ConflictItem, read_conflicts, write_conflicts
from retro.recipes.knowledge_conflict.published import published_item, read_published
from retro.recipes.knowledge_conflict.substitution import Pool, generator_of, mentions, other_answers, substituted

log = logging.getLogger(__name__)

ITEMS = "items.jsonl"


@dataclass
class Sets:
    """Items while they are made."""

    items: list[ConflictItem] = field(default_factory=list)
    passages: list[tuple[Context, ...]] = field(default_factory=list)
    """[N] all passages of each item, for those of other questions."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Questions that are no item, by reason."""
    lacking: dict[str, Counter[str]] = field(default_factory=lambda: {name: Counter() for name in CONDITIONS})
    """By condition: items without it, by reason."""
    types: Counter[str] = field(default_factory=Counter)
    """Types of the answers that were to be replaced."""

    def counts(self) -> dict[str, Any]:
        """Numbers for people and machines."""
        made = Counter(name for one in self.items for name in one.conditions)
        return {
            "items": len(self.items),
            "left_out": dict(sorted(self.left_out.items())),
            "conditions": {name: made[name] for name in CONDITIONS if made[name]},
            "lacking": {name: dict(sorted(found.items())) for name, found in self.lacking.items() if found},
            "types": dict(sorted(self.types.items())),
        }


def make(config: SetsConfig, uncertain: str, out: Path) -> dict[str, Any]:
    """Make the items and write them.

    Args:
        config: From what, and which.
        uncertain: The option of ConflictQA's choices that decides for neither answer.
        out: The step's folder.

    Returns:
        Their counts.

    Raises:
        ConfigError: No file is named.
        DataError: It is broken, none of its questions can be used, or only some of them have options.
    """
    path = config.questions
    if path is None:
        raise ConfigError("recipe.knowledge_conflict.sets.questions", None, "needs a file of questions")
    if config.form == "items":
        sets = Sets(items=[_only(one, config) for one in read_conflicts(path)[: config.limit]])
    elif config.form == "questions":
        sets = _of_questions(path, config)
    else:
        sets = _of_published(path, config, uncertain)
    if not any(one.conditions for one in sets.items):
        problem = f"gives no conflict item: left out {dict(sets.left_out)}, lacking {sets.counts()['lacking']}"
        raise DataError(path, problem, "Give questions with answers, and ctxs that have these answers")
    with_options = sum(bool(one.options) for one in sets.items)
    if 0 < with_options < len(sets.items):
        problem = f"has {with_options} questions with options and {len(sets.items) - with_options} without"
        raise DataError(path, problem, "Ask them in two runs: they are asked and scored in different ways")
    write_conflicts(out / ITEMS, sets.items)
    return sets.counts()


def _only(item: ConflictItem, config: SetsConfig) -> ConflictItem:
    wanted: Collection[str] = config.conditions
    return dataclasses.replace(
        item,
        conditions={name: found for name, found in item.conditions.items() if name in wanted},
        replaced={name: changes for name, changes in item.replaced.items() if name in wanted},
    )


def _of_questions(path: Path, config: SetsConfig) -> Sets:
    """Items of a QA set: the first passages are the original ones, the others are made from them."""
    sets, questions = Sets(), read_task_questions(path, load_task(config.task))[: config.limit]
    lists = read_lists(config.types) if config.types is not None else None
    type_of = partial(answer_type, lists=lists, tag=open_tagger(config.spacy) if config.spacy else None)
    for one in questions:
        plain = tuple(Context(passage.title, passage.text) for passage in one.contexts)
        reason = "no_answer" if one.unanswerable or not one.answers else "" if plain else "no_passages"
        if reason:
            sets.left_out[reason] += 1
            continue
        sets.items.append(
            ConflictItem(
                id=one.id, question=one.question, answers=one.answers, original=one.answers, options=one.options,
                labels=one.labels,
            )
        )  # fmt: skip
        sets.passages.append(plain)
    pool = Pool.of([one.answers[0] for one in sets.items], type_of)
    _warn_of_coarse_types(pool, config)
    sets.items = [_with_conditions(sets, place, pool, config) for place in range(len(sets.items))]
    return sets


def _warn_of_coarse_types(pool: Pool, config: SetsConfig) -> None:
    replaces = config.substitution == "corpus" and "substituted" in config.conditions
    if replaces and "name" in pool.by_type and config.types is None and not config.spacy:
        log.warning(
            "knowledge_conflict: all names are of one type, so a person may take the place of a club; "
            "recipe.knowledge_conflict.sets.types (lists) or spacy (a model) distinguish them"
        )


def _with_conditions(sets: Sets, place: int, pool: Pool, config: SetsConfig) -> ConflictItem:
    item, passages = sets.items[place], sets.passages[place]
    sets.types[pool.type_of(item.answers[0])] += 1
    shown = _shown(passages, item.answers, config)
    if not shown:
        reason = "answer_not_in_passages"
        for name in ("original", "substituted", "unanswerable"):
            _note(sets, config, name, reason)
        item = dataclasses.replace(item, counter=_any_other(item, pool, config))
    else:
        item = item.with_condition("original", shown)
        item = _substituted(sets, item, shown, pool, config)
        item = _unanswerable(sets, item, shown, config)
    return _both(sets, _irrelevant(sets, item, place, config), config)


def _shown(passages: Sequence[Context], answers: Sequence[str], config: SetsConfig) -> tuple[Context, ...]:
    """The passages of the condition original; none where no passage has an answer.

    Yes and no are words of any passage: for them the first passages are taken as they are.
    """
    if normalize_answer(answers[0]) in YES_NO:
        return tuple(passages[: config.passages])
    holding = [one for one in passages if mentions([one], answers)]
    first = tuple((holding if config.supporting_only else passages)[: config.passages])
    return first if mentions(first, answers) else ()


def _any_other(item: ConflictItem, pool: Pool, config: SetsConfig) -> tuple[str, ...]:
    """Another answer to a question whose passages cannot be changed: for a teacher to write one about."""
    if config.substitution == "alias":
        return ()
    draw = generator_of(config.seed, "substitute", item.id)
    return tuple(islice(other_answers(item.answers, pool, config.substitution, draw), 1))


def _substituted(
    sets: Sets, item: ConflictItem, shown: Sequence[Context], pool: Pool, config: SetsConfig
) -> ConflictItem:
    if normalize_answer(item.answers[0]) in YES_NO:
        # They are words of any passage, and replacing them says nothing.
        _note(sets, config, "substituted", "yes_or_no")
        return dataclasses.replace(item, counter=_any_other(item, pool, config))
    draw = generator_of(config.seed, "substitute", item.id)
    reason = "no_substitute"
    for other in other_answers(item.answers, pool, config.substitution, draw):
        # An answer that is there already would be no news, and one in the question would be given away.
        if config.substitution != "alias" and mentions((*shown, Context("", item.question)), [other]):
            continue
        made, changes, reason = substituted(shown, item.answers, other)
        if not reason:
            changed = dataclasses.replace(item, counter=(other,), original=_originals(item.answers, other))
            return changed.with_condition("substituted", made, changes)
    _note(sets, config, "substituted", reason)
    return dataclasses.replace(item, counter=_any_other(item, pool, config))


def _originals(answers: Sequence[str], other: str) -> tuple[str, ...]:
    return tuple(one for one in answers if normalize_answer(one) != normalize_answer(other))


def _unanswerable(sets: Sets, item: ConflictItem, shown: Sequence[Context], config: SetsConfig) -> ConflictItem:
    names = [one for one in dict.fromkeys((*item.original, *item.answers)) if normalize_answer(one) not in YES_NO]
    if not names:
        _note(sets, config, "unanswerable", "yes_or_no")
        return item
    left, removed = without_answers(shown, names)
    if not left:
        _note(sets, config, "unanswerable", "nothing_left")
        return item
    if not removed or mentions(left, names):
        _note(sets, config, "unanswerable", "answer_remains" if removed else "answer_not_in_passages")
        return item
    return item.with_condition("unanswerable", left, removed)


def _irrelevant(sets: Sets, item: ConflictItem, place: int, config: SetsConfig) -> ConflictItem:
    names = [*item.answers, *item.original, *item.counter]
    draw = generator_of(config.seed, "irrelevant", item.id)
    found = irrelevant_passages(place, sets.passages, names, config.passages, draw)
    if not found:
        _note(sets, config, "irrelevant", "no_passage_without_the_answers")
        return item
    return item.with_condition("irrelevant", found)


def _both(sets: Sets, item: ConflictItem, config: SetsConfig) -> ConflictItem:
    made = with_both_sides(item)
    for name in BOTH_SIDES:
        if name not in made.conditions:
            _note(sets, config, name, "no_passages_of_both_sides")
    return _only(made, config)


BOTH_SIDES: tuple[Condition, Condition] = ("original_first", "counter_first")


def with_both_sides(item: ConflictItem) -> ConflictItem:
    """The item with the conditions that show passages of both sides, in both orders; as it is where a side lacks any.

    Passages whose answer was replaced go before those of a teacher.
    """
    original = item.conditions.get("original", ())
    other = item.conditions.get("substituted") or item.conditions.get("counter_memory", ())
    if not original or not other:
        return item
    # A passage that is on both sides, such as one without an answer, is shown once.
    orders = {"original_first": original + other, "counter_first": other + original}
    for name, passages in orders.items():
        item = item.with_condition(name, tuple(dict.fromkeys(passages)))
    return item


def _note(sets: Sets, config: SetsConfig, name: str, reason: str) -> None:
    if name in config.conditions:
        sets.lacking[name][reason] += 1


def _of_published(path: Path, config: SetsConfig, uncertain: str) -> Sets:
    """Items of a published set, whose passages are there."""
    sets = Sets()
    for found in islice(read_published(path, config), config.limit):
        if found.original and set(map(normalize_answer, found.original)) == set(map(normalize_answer, found.counter)):
            sets.left_out["same_answer"] += 1
            continue
        sets.items.append(published_item(found, config, uncertain))
        sets.passages.append(found.supporting)
    sets.items = [_published_conditions(sets, place, config) for place in range(len(sets.items))]
    return sets


def _published_conditions(sets: Sets, place: int, config: SetsConfig) -> ConflictItem:
    item = sets.items[place]
    if "original" not in item.conditions:
        return _only(item, config)
    if item.original and mentions(item.conditions["original"], item.original):
        item = _unanswerable(sets, item, item.conditions["original"], config)
    else:
        _note(sets, config, "unanswerable", "answer_not_in_passages")
    return _both(sets, _irrelevant(sets, item, place, config), config)
