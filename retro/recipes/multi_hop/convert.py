"""Step `convert`: public data sets become items, with full answers by a teacher.

items.jsonl      the items, in the new layout
dropped.jsonl    those whose answers failed a check: id, set, question, reason, what was found
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from retro.common.errors import ConfigError, DataError
from retro.recipes.base import Made, StepRun
from retro.recipes.multi_hop import sources
from retro.recipes.multi_hop.answering import Dropped, OpenItem, answer_all
from retro.recipes.multi_hop.config import ConvertConfig, Count
from retro.recipes.multi_hop.item_files import write_items, write_records
from retro.recipes.multi_hop.items import MultiHopItem
from retro.recipes.multi_hop.musique import musique
from retro.recipes.multi_hop.prompts import Texts
from retro.recipes.multi_hop.sources import Source, drawn
from retro.teacher.teacher import Teacher

log = logging.getLogger(__name__)

ITEMS, DROPPED = "items.jsonl", "dropped.jsonl"


@dataclass
class _Part:
    """One kind of items of one set."""

    name: str
    """Such as `squad, answerable`."""
    wanted: Count
    there: int
    chosen: list[OpenItem]
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def counts(self) -> dict[str, Any]:
        """What became of it."""
        share = round(self.kept / len(self.chosen), 4) if self.chosen else None
        counts = {"wanted": self.wanted, "there": self.there, "drawn": len(self.chosen), "kept": self.kept}
        return {**counts, "share_kept": share, "dropped": dict(sorted(self.dropped.items()))}


def run(work: StepRun) -> Made:
    """Read, draw, answer, check.

    Raises:
        ConfigError: No file is given.
        DataError: A file cannot be used, or no item is left.
    """
    config: ConvertConfig = work.settings.convert
    if not config.is_given:
        raise ConfigError("recipe.multi_hop.convert", None, "needs a file, such as convert.squad.path")
    texts = Texts.load(work.settings.prompts)
    parts, skipped = list[_Part](), dict[str, dict[str, int]]()
    for name, source, wanted in _read(config):
        skipped[name] = {reason: count for reason, count in sorted(source.skipped.items()) if count}
        parts += _draw(name, source, wanted, config.seed)
    with work.teacher(config.teacher) as teacher:
        kept, dropped = _answer(teacher, texts, config, parts)
        report = {"teacher": teacher.report().line(), "prompts": texts.identity}
    write_records(work.directory / DROPPED, dropped)
    if not kept:
        reasons = {part.name: dict(part.dropped) for part in parts}
        problem = f"no item is left of {len(dropped)} ({reasons})"
        raise DataError(work.directory / DROPPED, problem, "Look at the problems in this file")
    write_items(work.directory / ITEMS, kept)
    counts = {"items": len(kept), "sets": {part.name: part.counts() for part in parts}, "skipped": skipped}
    return Made(files=[ITEMS, DROPPED], counts=counts, report=report)


def inputs(work: StepRun) -> list[Path]:
    """The files that it reads."""
    config: ConvertConfig = work.settings.convert
    sets = (config.squad.path, config.boolq.path, config.drop.path, config.musique.path)
    return [path for path in (*sets, work.settings.prompts) if path is not None]


def _read(config: ConvertConfig) -> Iterator[tuple[str, Source, dict[str, Count]]]:
    """Each set that is given, with what is wanted of its parts."""
    skip = config.skip_bad
    if config.squad.path is not None:
        wanted = {"answerable": config.squad.answerable, "unanswerable": config.squad.unanswerable}
        yield "squad", sources.squad(config.squad.path, skip_bad=skip), wanted
    if config.boolq.path is not None:
        yield "boolq", sources.boolq(config.boolq.path, skip_bad=skip), {"items": config.boolq.items}
    if config.drop.path is not None:
        yield "drop", sources.drop(config.drop.path, skip_bad=skip), {"items": config.drop.items}
    if config.musique.path is not None:
        wanted = {"answerable": config.musique.answerable, "unanswerable": config.musique.unanswerable}
        yield "musique", musique(config.musique.path, skip_bad=skip, seed=config.seed), wanted


def _answer(
    teacher: Teacher, texts: Texts, config: ConvertConfig, parts: Sequence[_Part]
) -> tuple[list[MultiHopItem], list[dict[str, Any]]]:
    """The items with answers, and records of those that were dropped; both are counted in their parts."""
    kept, dropped = list[MultiHopItem](), list[dict[str, Any]]()
    chosen = [(part, one) for part in parts for one in part.chosen]
    answers = answer_all(
        teacher, texts, [one for _, one in chosen],
        max_tokens=config.max_tokens, what="convert", require_gold=config.require_gold,
    )  # fmt: skip
    for (part, _), found in zip(chosen, answers, strict=True):
        if isinstance(found, Dropped):
            part.dropped[found.reason] += 1
            dropped.append(_record(part.name, found))
        else:
            part.kept += 1
            kept.append(found)
    return kept, dropped


def _draw(name: str, source: Source, wanted: dict[str, Count], seed: int) -> Iterator[_Part]:
    for part, items in source.items.items():
        whole = name if part == "items" else f"{name}, {part}"
        count = wanted[part]
        chosen = drawn(items, count, seed, whole)
        if count != "all" and len(chosen) < int(count):
            log.warning("convert: %s has %d questions, %s were wanted: all are taken", whole, len(chosen), count)
        yield _Part(name=whole, wanted=count, there=len(items), chosen=chosen)


def _record(part: str, found: Dropped) -> dict[str, Any]:
    item = found.item
    said = {"reason": found.reason, "problem": found.problem}
    return {"id": item.id, "set": part, "question": item.question, **said}
