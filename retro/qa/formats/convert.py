"""A public file in, questions and passages out; what cannot be used is refused or counted."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from retro.common.errors import DataError
from retro.common.json_files import JsonError, OnBad, json_items, load_json, parse_json, read_text
from retro.qa.formats.item import BadItemError, Converted, FieldUse, Format, Item, Options, with_what_came_before
from retro.qa.json_paths import JsonObject, objects_at
from retro.qa.question import Question

_MEND = "Fix the item, check that the file has the format that was named, or use --skip-bad"


class Documents:
    """Distinct passages in order of appearance."""

    def __init__(self) -> None:
        self._ids: dict[tuple[str, str], str] = {}
        self._taken: set[str] = set()

    def __len__(self) -> int:
        return len(self._ids)

    def id_of(self, title: str, text: str) -> str:
        """The passage's id: its title, numbered from the second text under one title on."""
        if (title, text) not in self._ids:
            name = title or "passage"
            number, identifier = 1, name
            while identifier in self._taken:
                number += 1
                identifier = f"{name} #{number}"
            self._taken.add(identifier)
            self._ids[title, text] = identifier
        return self._ids[title, text]

    def lines(self) -> Iterator[dict[str, str]]:
        """The corpus: one document for each passage."""
        for (title, text), identifier in self._ids.items():
            yield {"id": identifier, "title": title, "text": text}

    def name_passages(self, made: Converted) -> Question:
        """The question with the ids of its passages, and of those that hold the answer."""
        contexts = tuple(
            dataclasses.replace(one, document_id=self.id_of(one.title, one.text)) for one in made.question.contexts
        )
        gold = dict.fromkeys(contexts[place].document_id for place in made.gold)
        return dataclasses.replace(made.question, contexts=contexts, document_ids=tuple(gold))


@dataclass
class Conversion:
    """What became of a file."""

    questions: list[Question] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    """Of each question: what a split must not part."""
    documents: Documents = field(default_factory=Documents)
    skipped: Counter[str] = field(default_factory=Counter)
    """Items left out, by reason."""
    items: int = 0
    """Items read, those left out included."""
    ignored: dict[str, int] = field(default_factory=dict)
    """Fields that hold something and that nobody looked at, with the number of objects that have them."""

    def counts(self) -> dict[str, Any]:
        """Numbers for people and machines."""
        return {
            "items": self.items,
            "questions": len(self.questions),
            "unanswerable": sum(question.unanswerable for question in self.questions),
            "passages": len(self.documents),
            "skipped": {reason: count for reason, count in sorted(self.skipped.items()) if count},
            "ignored_fields": self.ignored,
        }


def convert_file(path: Path, form: Format, options: Options, *, skip_bad: bool) -> Conversion:
    """Turn a file of a public format into questions.

    Args:
        path: The file.
        form: Its format.
        options: What the format is asked for.
        skip_bad: Whether items that cannot be used are counted instead of refused.

    Raises:
        DataError: The file cannot be read, an item cannot be used, or none can.
    """
    made = Conversion()
    names: dict[str, str] = {}
    use = FieldUse()

    def refuse(reason: str, error: DataError) -> None:
        if not skip_bad:
            raise error
        made.skipped[reason] += 1

    for number, (place, item) in enumerate(_found(path, form, made, refuse)):
        try:
            found = _converted(item, form, str(number), options, use)
            for one in found:
                _add(made, names, one, place)
            # What the options leave out is not a mistake, but it is reported.
            made.skipped["not_asked_for"] += not found
        except BadItemError as error:
            refuse(error.reason, DataError(path, f"{place} {error.problem}", _MEND))
    made.ignored = use.ignored()
    if not made.questions:
        problem = f"has no question that could be used, of {made.items} items ({dict(sorted(made.skipped.items()))})"
        raise DataError(path, problem, "Check that the file has the format that was named")
    return made


def _found(path: Path, form: Format, made: Conversion, refuse: OnBad) -> Iterator[tuple[str, Item]]:
    """The items of a file with their places; what is not one counts as an item that cannot be used."""
    text = read_text(path, "file to convert")
    whole = _whole(path, text) if form.items else None

    def count(reason: str, error: DataError) -> None:
        made.items += 1
        refuse(reason, error)

    items: Iterable[tuple[str, Item]]
    if whole is not None:
        places = objects_at(
            "", whole, form.items, lambda *found: count("wrong_type", DataError(path, " ".join(found), _MEND))
        )
        items = ((place.name, _with_outer(place, form.outer)) for place in places)
    else:
        items = ((one.place, one.value) for one in json_items(path, text, on_bad=count))
    for place, item in items:
        made.items += 1
        yield place, item


def _with_outer(place: JsonObject, names: Sequence[str]) -> Item:
    around = {name: owner[name] for owner in place.around[:-1] for name in names if name in owner}
    return {**around, **place.around[-1]}


def _whole(path: Path, text: str) -> dict[str, Any] | None:
    """The one object that the file is; None where it is a list, or objects line by line."""
    if not text.lstrip().startswith("{"):
        return None
    first, _, rest = text.lstrip().partition("\n")
    if rest.strip():
        try:
            parse_json(first)
        except JsonError:
            # The object continues in the next line.
            return dict(load_json(path, text))
        return None
    found: dict[str, Any] = load_json(path, text)
    # A single line: a whole data set, or the only question of a file with one question per line.
    return found if any(isinstance(value, list) and key.lower() == "data" for key, value in found.items()) else None


def _converted(item: Item, form: Format, number: str, options: Options, use: FieldUse) -> list[Converted]:
    watched = use.watch(item)
    return with_what_came_before(watched, form.convert(watched, number, options))


def _add(made: Conversion, names: dict[str, str], one: Converted, place: str) -> None:
    name = one.question.id
    if name in names:
        raise BadItemError("id_twice", f"has the id {name!r} of {names[name]}")
    names[name] = place
    made.questions.append(made.documents.name_passages(one))
    made.groups.append(one.group or name)
