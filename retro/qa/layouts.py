"""Question files in the form that their authors gave them, read by a task's layouts.

An item becomes one in InstructRetro's form and is read as such, so that every check of `qa_fields` holds for both.
"""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from retro.common.errors import DataError
from retro.common.json_files import JsonError, OnBad, json_item, json_items, parse_json, read_text
from retro.qa.fields import Fields, NothingToLearnError, question_of
from retro.qa.json_paths import MISSING, JsonObject, OnBadPart, find, objects_at
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
    return Fields(no_answer=task.no_answer[0] if task.no_answer else "")


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
    answered = any(find(place, path) is not MISSING for path in layout.answers)
    given = all(find(place, path) is not MISSING for path in layout.contexts)
    return isinstance(question, str) and given and (answered or _has_none(layout, place))


def _read(
    path: Path, task: Task, layout: Layout, roots: Sequence[tuple[str, Any]], on_bad: OnBad | None
) -> list[Question]:
    questions, skipped, refused = list[Question](), 0, 0

    def refuse(place: str, problem: str) -> None:
        raise DataError(path, f"{place} {problem}", f"Questions of task {task.name} are at {layout.items or 'the top'}")

    for name, root in roots:
        for place in _places(layout, name, root, refuse):
            item = _item(path, task, layout, place)
            if item is None:
                skipped += 1
                continue
            number = len(questions) + skipped + refused
            found = json_item(path, number, place.name or f"item {number}", item)
            try:
                questions.append(question_of(path, found, fields_of(task)))
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
    groups = _groups(path, layout, place)
    answers = _answers(path, layout, place, groups)
    item: dict[str, Any] = {"question": _question(path, layout, place), "turns": _turns(layout, place)}
    item |= {"ctxs": _contexts(layout, place), "labels": _labels(layout, place)}
    if _has_none(layout, place) or (not answers and layout.blank == "no_answer"):
        item["is_impossible"] = True
    elif not answers and layout.blank == "skip":
        return None
    else:
        item |= {"answers": answers, "answer_groups": groups}
    if layout.id and find(place, layout.id) is not MISSING:
        item["id"] = str(find(place, layout.id))
    if layout.document_ids:
        item["document_ids"] = [_spaced(layout, one) for one in _texts(find(place, layout.document_ids))]
    if layout.options:
        item |= {"qa_type": "multi_choice_qa", "multichoice_options": _texts(find(place, layout.options))}
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
    return list(dict.fromkeys(_answers(path, layout, place, _groups(path, layout, place))))


def _has_none(layout: Layout, place: JsonObject) -> bool:
    """Whether the file says that the question has no answer."""
    said = find(place, layout.no_answer) if layout.no_answer else MISSING
    return said is not MISSING and bool(said)


def _texts(value: Any) -> list[str]:
    many = value if isinstance(value, list) else [] if value is MISSING or value is None else [value]
    return [str(one).strip() for one in many if str(one).strip()]


def _question(path: Path, layout: Layout, place: JsonObject) -> str:
    text = find(place, layout.question)
    if not isinstance(text, str) or not text.strip():
        found = "no text" if text is MISSING else repr(text)
        raise DataError(path, f"{place.name} has {found} at {layout.question!r}", "Give the question, a text")
    return text.strip()


def _turns(layout: Layout, place: JsonObject) -> list[dict[str, str]]:
    """What was said before, the user having begun."""
    said = _texts(find(place, layout.history)) if layout.history else _earlier(layout, place)
    return [{"role": "assistant" if number % 2 else "user", "text": text} for number, text in enumerate(said)]


def _earlier(layout: Layout, place: JsonObject) -> list[str]:
    said = []
    for sibling in place.siblings[: place.number] if layout.earlier_answer else ():
        earlier = JsonObject(place.name, (*place.around[:-1], sibling))
        said += _texts(find(earlier, layout.question)) + _texts(find(earlier, layout.earlier_answer))
    return said


def _groups(path: Path, layout: Layout, place: JsonObject) -> list[list[str]]:
    if layout.answer_form == "drop":
        golds = [one for name in layout.answers for one in _listed(find(place, name))]
        return [group for gold in golds if (group := _drop_spans(path, place, gold))]
    if layout.answer_form == "parts":
        return [parts] if (parts := [one for name in layout.answers for one in _texts(find(place, name))]) else []
    found = find(place, layout.answer_groups) if layout.answer_groups else []
    return [texts for group in _listed(found) if (texts := _texts(group))]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is MISSING or value is None else [value]


def _drop_spans(path: Path, place: JsonObject, gold: Any) -> list[str]:
    """What an answer of DROP consists of: a number, or a date, or spans."""
    if not isinstance(gold, Mapping):
        raise DataError(path, f"{place.name} has the answer {gold!r}", "Give an object with number, spans and date")
    if str(gold.get("number") or "").strip():
        return [str(gold["number"]).strip()]
    if gold.get("spans"):
        return _texts(gold["spans"])
    date = gold.get("date") or {}
    return _texts(" ".join(str(date.get(part) or "") for part in ("day", "month", "year")))


def _answers(path: Path, layout: Layout, place: JsonObject, groups: Sequence[Sequence[str]]) -> list[str]:
    if layout.answer_form in ("drop", "parts"):
        return list(dict.fromkeys(", ".join(group) for group in groups))
    values = [_decoded(path, layout, place, find(place, name)) for name in layout.answers]
    texts = [text for value in values for text in _texts(value)]
    if len(values) > 1:
        # Aliases repeat the answer itself; where people answered one question, each of them counts.
        texts = list(dict.fromkeys(texts))
    return [_option(path, layout, place, text) for text in texts] if layout.answer_form == "option" else texts


def _decoded(path: Path, layout: Layout, place: JsonObject, value: Any) -> Any:
    if not layout.answers_are_json or not isinstance(value, str):
        return value
    try:
        return parse_json(value)
    except JsonError as error:
        problem = f"{place.name} has the answers {value[:60]!r}, which are not JSON ({error})"
        raise DataError(path, problem, "Give a JSON list of texts") from None


def _option(path: Path, layout: Layout, place: JsonObject, answer: str) -> str:
    """The option of that letter, or the answer itself if it is one."""
    options = _texts(find(place, layout.options))
    if answer in options:
        return answer
    number = ord(answer.upper()) - ord("A") if len(answer) == 1 else -1
    if 0 <= number < len(options):
        return options[number]
    problem = f"{place.name} has the answer {answer!r} to {len(options)} options"
    raise DataError(path, problem, "Give the letter or the text of one of them")


def _contexts(layout: Layout, place: JsonObject) -> list[dict[str, str]]:
    texts = [text for name in layout.contexts for text in _passages(find(place, name))]
    titles = find(place, layout.titles) if layout.titles else ""
    named = titles if isinstance(titles, list) else ["" if titles is MISSING else titles] * len(texts)
    return [{"title": _spaced(layout, str(title)), "text": text} for title, text in zip(named, texts, strict=False)]


def _spaced(layout: Layout, title: str) -> str:
    return title.replace("_", " ") if layout.underscores else title


def _passages(value: Any) -> list[str]:
    """Texts; a passage may be a list of sentences."""
    return ["".join(map(str, one)) if isinstance(one, list) else str(one) for one in _listed(value)]


def _labels(layout: Layout, place: JsonObject) -> dict[str, str]:
    found = {name: find(place, path) for name, path in layout.labels.items()}
    return {name: str(value) for name, value in found.items() if value is not MISSING and value is not None}
