"""Gold answers and options of a question, where a task's layout says that the data set's own file has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from retro.common.errors import DataError
from retro.common.json_files import JsonError, parse_json
from retro.qa.json_paths import MISSING, JsonObject, find
from retro.qa.task import Layout


def texts_of(value: Any) -> list[str]:
    """A value, or each of a list, as texts, none of them blank."""
    return [str(one).strip() for one in listed(value) if one is not None and str(one).strip()]


def listed(value: Any) -> list[Any]:
    """A list as it is, another value as a list of one; nothing where none was found."""
    return value if isinstance(value, list) else [] if value is MISSING or value is None else [value]


def answer_groups(path: Path, layout: Layout, place: JsonObject) -> list[list[str]]:
    """Answers in parts, as the layout's form of answers has them.

    Raises:
        DataError: An answer is not of that form.
    """
    if layout.answer_form == "drop":
        golds = [one for name in layout.answers for one in listed(find(place, name))]
        return [group for gold in golds if (group := _drop_spans(path, place, gold))]
    if layout.answer_form == "parts":
        return [parts] if (parts := [one for name in layout.answers for one in texts_of(find(place, name))]) else []
    found = find(place, layout.answer_groups) if layout.answer_groups else []
    return [texts for group in listed(found) if (texts := texts_of(group))]


def _drop_spans(path: Path, place: JsonObject, gold: Any) -> list[str]:
    """What an answer of DROP consists of: a number, or a date, or spans."""
    if not isinstance(gold, Mapping):
        raise DataError(path, f"{place.name} has the answer {gold!r}", "Give an object with number, spans and date")
    if str(gold.get("number") or "").strip():
        return [str(gold["number"]).strip()]
    if gold.get("spans"):
        return texts_of(gold["spans"])
    date = gold.get("date") or {}
    return texts_of(" ".join(str(date.get(part) or "") for part in ("day", "month", "year")))


def gold_answers(path: Path, layout: Layout, place: JsonObject, groups: Sequence[Sequence[str]]) -> list[str]:
    """All gold answers of a question.

    Args:
        path: The file, for errors.
        layout: Where they are.
        place: The question.
        groups: Its `answer_groups`.

    Raises:
        DataError: An answer is not JSON where it has to be, is no option, or is none of `answer_names`.
    """
    if layout.answer_form in ("drop", "parts"):
        return list(dict.fromkeys(", ".join(group) for group in groups))
    values = [_decoded(path, layout, place, find(place, name)) for name in layout.answers]
    texts = [text for value in values for text in texts_of(value)]
    if len(values) > 1:
        # Aliases repeat the answer itself; where people answered one question, each of them counts.
        texts = list(dict.fromkeys(texts))
    if layout.answer_names:
        texts = [_named(path, layout, place, text) for text in texts]
    return [_option(path, layout, place, text) for text in texts] if layout.answer_form == "option" else texts


def _decoded(path: Path, layout: Layout, place: JsonObject, value: Any) -> Any:
    if not layout.answers_are_json or not isinstance(value, str):
        return value
    try:
        return parse_json(value)
    except JsonError as error:
        problem = f"{place.name} has the answers {value[:60]!r}, which are not JSON ({error})"
        raise DataError(path, problem, "Give a JSON list of texts") from None


def _named(path: Path, layout: Layout, place: JsonObject, answer: str) -> str:
    names = {name.casefold(): meant for name, meant in layout.answer_names.items()}
    if answer.casefold() not in names:
        known = ", ".join(layout.answer_names)
        raise DataError(path, f"{place.name} has the answer {answer!r}", f"Give one of {known}, or leave it out")
    return names[answer.casefold()]


def option_texts(path: Path, layout: Layout, place: JsonObject) -> list[str]:
    """The options of a question, in the file's order. One that is blank is none.

    Raises:
        DataError: The file has not one label for each.
    """
    return [text for _, text in _options(path, layout, place)]


def _options(path: Path, layout: Layout, place: JsonObject) -> list[tuple[str, str]]:
    """Label and text of each option; labels are empty where the file has none."""
    if not layout.option_labels:
        return [("", text) for text in texts_of(find(place, layout.options))]
    texts, labels = (listed(find(place, name)) for name in (layout.options, layout.option_labels))
    if len(texts) != len(labels):
        problem = f"{place.name} has {len(texts)} options at {layout.options!r} and {len(labels)} labels"
        raise DataError(path, problem, f"Give one label for each at {layout.option_labels!r}")
    # Both sides at once: an option that is left out must not move the labels of those after it.
    pairs = [(str(label).strip(), " ".join(texts_of(text))) for label, text in zip(labels, texts, strict=True)]
    return [(label, text) for label, text in pairs if text]


def _option(path: Path, layout: Layout, place: JsonObject, answer: str) -> str:
    """The option of that label or letter, or the answer itself if it is one."""
    options = _options(path, layout, place)
    labelled = {label.casefold(): text for label, text in reversed(options) if label}
    if answer.casefold() in labelled:
        return labelled[answer.casefold()]
    texts = [text for _, text in options]
    if answer in texts:
        return answer
    number = _position(answer, digits=bool(labelled))
    if 0 <= number < len(texts):
        return texts[number]
    problem = f"{place.name} has the answer {answer!r} to {len(options)} options"
    raise DataError(path, problem, "Give the letter or the text of one of them")


def _position(answer: str, *, digits: bool) -> int:
    """A 0, B 1, …; and 1 0, 2 1, … where options have labels, which an answer may count in the other way."""
    if len(answer) != 1:
        return -1
    if digits and answer in "123456789":
        return int(answer) - 1
    return ord(answer.upper()) - ord("A")
