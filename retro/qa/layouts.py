"""Question files in the form that their authors gave them, read by a task's layouts.

An item becomes one in InstructRetro's form and is read as such, so that every check of `qa_fields` holds for both.
"""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from retro.common.errors import DataError
from retro.common.json_files import JsonError, OnBad, json_item, json_items, parse_json, read_text
from retro.qa.fields import Fields, NothingToLearnError, question_of
from retro.qa.json_paths import MISSING, JsonObject, OnBadPart, find, objects_at
from retro.qa.layout_answers import answer_groups, gold_answers, listed, option_texts, texts_of
from retro.qa.question import Question
from retro.qa.question_files import distinct_questions, read_questions
from retro.qa.task import Layout, Task

log = logging.getLogger(__name__)

_TABLES = {".csv": ",", ".tsv": "\t"}


def read_task_questions(path: Path, task: Task, *, on_bad: OnBad | None = None) -> list[Question]:
    """Read a question file in InstructRetro's form, or in one of the task's layouts.

    Which one it is, its first item says: the first layout of which question, answers and contexts are found in it.

    Args:
        path: The file.
        task: Its layouts.
        on_bad: As `read_questions` has it.

    Raises:
        DataError: The file is missing or broken, fits nothing, or a question lacks something.
    """
    roots = list(_roots(path)) if task.layouts else []
    for layout in task.layouts:
        first = next((place for name, root in roots[:2] for place in _places(layout, name, root)), None)
        if first is not None and _fits(layout, first):
            return _read(path, task, layout, roots, on_bad)
    if path.suffix in _TABLES:
        wanted = " or ".join(", ".join([one.question, *one.answers]) for one in task.layouts) or "no table"
        raise DataError(path, f"has no layout of task {task.name!r}", f"Its columns need to be {wanted}")
    return read_questions(path, fields_of(task), on_bad=on_bad)


def fields_of(task: Task) -> Fields:
    """How a file in InstructRetro's form is read for a task."""
    without = any(one.blank == "ask" for one in task.layouts)
    return Fields(no_answer=task.no_answer[0] if task.no_answer else "", needs_answer=not without)


def _roots(path: Path) -> Iterator[tuple[str, Any]]:
    """The whole of a JSON object, or each item of a list, line of JSON lines, row of a table."""
    if path.suffix in _TABLES:
        rows = csv.DictReader(io.StringIO(read_text(path), newline=""), delimiter=_TABLES[path.suffix])
        yield from ((f"row {number}", row) for number, row in enumerate(rows, start=1))
        return
    text = read_text(path)
    if text.lstrip().startswith("{"):
        try:
            yield "", parse_json(text)
            return
        except JsonError:
            pass  # Several objects, one a line; what is broken there is said there.
    yield from ((item.place, item.value) for item in json_items(path, text))


def _places(layout: Layout, name: str, root: Any, on_bad: OnBadPart | None = None) -> Iterator[JsonObject]:
    if layout.skip_lines_with and isinstance(root, dict) and layout.skip_lines_with in root:
        return
    yield from objects_at(name, root, layout.items, on_bad)


def _fits(layout: Layout, place: JsonObject) -> bool:
    question = find(place, layout.question)
    answered = layout.blank == "ask" or any(find(place, path) is not MISSING for path in layout.answers)
    given = all(find(place, path) is not MISSING for path in layout.contexts)
    return isinstance(question, str) and given and (answered or _has_none(layout, place))


def _read(
    path: Path, task: Task, layout: Layout, roots: Sequence[tuple[str, Any]], on_bad: OnBad | None
) -> list[Question]:
    questions, skipped, refused = list[Question](), 0, 0

    def refuse(place: str, problem: str) -> None:
        raise DataError(path, f"{place} {problem}", f"Questions of task {task.name} are at {layout.items or 'the top'}")

    usual = fields_of(task)
    for name, root in roots:
        for place in _places(layout, name, root, refuse):
            item = _item(path, task, layout, place)
            if item is None:
                skipped += 1
                continue
            number = len(questions) + skipped + refused
            found = json_item(path, number, place.name or f"item {number}", item)
            fields = replace(usual, contexts=_passages_at(layout, place))
            try:
                questions.append(question_of(path, found, fields))
            except NothingToLearnError as error:
                if on_bad is None:
                    raise
                error.number = len(questions) + refused
                refused += 1
                on_bad("no_answer", error)
    if skipped:
        log.info("%s: %d questions without an answer are left out, as task %s says", path, skipped, task.name)
    return distinct_questions(path, questions)


def _item(path: Path, task: Task, layout: Layout, place: JsonObject) -> dict[str, Any] | None:
    """One question in InstructRetro's form; None: it is to be left out."""
    groups = answer_groups(path, layout, place)
    answers = gold_answers(path, layout, place, groups)
    item: dict[str, Any] = {"question": _question(path, layout, place), "turns": _turns(layout, place)}
    kept = _passages_at(layout, place)
    item |= {kept: find(place, kept)} if kept else {"ctxs": _contexts(layout, place)}
    item["labels"] = _labels(layout, place)
    if _has_none(layout, place) or (not answers and layout.blank == "no_answer"):
        item["is_impossible"] = True
    elif not answers and layout.blank == "skip":
        return None
    elif answers or layout.blank != "ask":
        item |= {"answers": answers, "answer_groups": groups}
    if layout.id and find(place, layout.id) not in (MISSING, None):
        item["id"] = str(find(place, layout.id))
    if layout.document_ids:
        item["document_ids"] = [_spaced(layout, one) for one in texts_of(find(place, layout.document_ids))]
    if layout.options:
        item |= {"qa_type": "multi_choice_qa", "multichoice_options": option_texts(path, layout, place)}
    return item


def golds_of_item(task: Task, item: Mapping[str, Any]) -> list[str] | None:
    """The gold answers of one item of a data set's own file, each once; None where no layout of the task fits it.

    Args:
        task: The first of its layouts of which question, answers and contexts are found in the item is taken.
        item: An object that holds a question.
    """
    place = JsonObject("", (item,))
    layout = next((one for one in task.layouts if _fits(one, place)), None)
    if layout is None:
        return None
    path = Path(task.name)
    return list(dict.fromkeys(gold_answers(path, layout, place, answer_groups(path, layout, place))))


def _has_none(layout: Layout, place: JsonObject) -> bool:
    """Whether the file says that the question has no answer."""
    said = find(place, layout.no_answer) if layout.no_answer else MISSING
    return said is not MISSING and bool(said)


def _question(path: Path, layout: Layout, place: JsonObject) -> str:
    text = find(place, layout.question)
    if not isinstance(text, str) or not text.strip():
        found = "no text" if text is MISSING else repr(text)
        raise DataError(path, f"{place.name} has {found} at {layout.question!r}", "Give the question, a text")
    return text.strip()


def _turns(layout: Layout, place: JsonObject) -> list[dict[str, str]]:
    """What was said before, the user having begun."""
    said = texts_of(find(place, layout.history)) if layout.history else _earlier(layout, place)
    return [{"role": "assistant" if number % 2 else "user", "text": text} for number, text in enumerate(said)]


def _earlier(layout: Layout, place: JsonObject) -> list[str]:
    said = []
    for sibling in place.siblings[: place.number] if layout.earlier_answer else ():
        earlier = JsonObject(place.name, (*place.around[:-1], sibling))
        said += texts_of(find(earlier, layout.question)) + texts_of(find(earlier, layout.earlier_answer))
    return said


def _passages_at(layout: Layout, place: JsonObject) -> str:
    """Where this question has passages with titles, ids and scores; empty: it has none."""
    return next((name for name in layout.passages if find(place, name) not in (MISSING, None, [])), "")


def _contexts(layout: Layout, place: JsonObject) -> list[dict[str, str]]:
    texts = [text for name in layout.contexts for text in _passages(find(place, name))]
    titles = find(place, layout.titles) if layout.titles else ""
    named = titles if isinstance(titles, list) else ["" if titles is MISSING else titles] * len(texts)
    return [{"title": _spaced(layout, str(title)), "text": text} for title, text in zip(named, texts, strict=False)]


def _spaced(layout: Layout, title: str) -> str:
    return title.replace("_", " ") if layout.underscores else title


def _passages(value: Any) -> list[str]:
    """Texts; a passage may be a list of sentences."""
    return ["".join(map(str, one)) if isinstance(one, list) else str(one) for one in listed(value)]


def _labels(layout: Layout, place: JsonObject) -> dict[str, str]:
    found = {name: find(place, path) for name, path in layout.labels.items()}
    return {name: ", ".join(texts) for name, value in found.items() if (texts := texts_of(value))}
