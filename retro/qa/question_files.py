"""Question files: where they are, and their questions. A file is a JSON list of objects, or one object per line."""

from __future__ import annotations

import difflib
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from retro.common.errors import DataError
from retro.common.json_files import OnBad, json_items, read_text
from retro.common.terminal import visible
from retro.qa.fields import Fields, NothingToLearnError, question_of, unread_fields
from retro.qa.question import Question

log = logging.getLogger(__name__)


def read_questions(path: Path, fields: Fields | None = None, *, on_bad: OnBad | None = None) -> list[Question]:
    """Read a question file.

    Args:
        path: A JSON list, or one object per line.
        fields: Which fields are read.
        on_bad: Called for questions without an answer, which are then left out. Without it they are errors, as
            everything else that is wrong is in any case.

    Raises:
        DataError: The file is missing, holds broken JSON or no question, an item lacks a field, or two items
            share an id.
    """
    questions: list[Question] = []
    refused = 0
    unread: Counter[str] = Counter()
    fields = fields or Fields()
    for item in json_items(path, read_text(path)):
        try:
            questions.append(question_of(path, item, fields))
            unread.update(unread_fields(questions[-1], item.value, fields))
        except NothingToLearnError as error:
            if on_bad is None:
                raise
            error.number = len(questions) + refused
            refused += 1
            on_bad("no_answer", error)
    if unread:
        reported = ", ".join(f"{visible(name)} ({count})" for name, count in unread.most_common(8))
        log.info("%s: fields that nothing is read from, with how many items have them: %s", path.name, reported)
    return distinct_questions(path, questions)


def distinct_questions(path: Path, questions: list[Question]) -> list[Question]:
    """The questions of a file, if there is one at least and each has an id of its own.

    Raises:
        DataError: There is none, or two share an id.
    """
    places: dict[str, str] = {}
    for question in questions:
        if question.id in places:
            raise DataError(
                path,
                f"{question.place} has the id {question.id!r} of {places[question.id]}",
                "Give every question its own id",
            )
        places[question.id] = question.place
    if not questions:
        raise DataError(path, "holds no question", "Give a JSON list of objects, or one JSON object per line")
    return questions


def find_question_file(data: Path, name: str, part: str) -> Path:
    """The file `<data>/<name>/<name>_QA_<part>.json` (or `.jsonl`).

    Raises:
        DataError: There is no such folder or file; the nearest existing name is given.
    """
    folder = data / name
    if not folder.is_dir():
        here = sorted(path.name for path in data.iterdir() if path.is_dir()) if data.is_dir() else []
        raise DataError(folder, "no such question set", nearest(name, here, f"{data} holds no question set"))
    for suffix in ("json", "jsonl"):
        path = folder / f"{name}_QA_{part}.{suffix}"
        if path.exists():
            return path
    here = sorted(path.name for path in folder.iterdir())
    wanted = f"{name}_QA_{part}.json"
    raise DataError(folder / wanted, "no such question file", nearest(wanted, here, f"{folder} is empty"))


def find_question_files(data: Path, name: str, part: str) -> list[Path]:
    """The file of a set, or where it comes in several, `<name>_QA_<part>*.json` (or `.jsonl`), all of them by name.

    Raises:
        DataError: There is no such folder or file; the nearest existing name is given.
    """
    try:
        return [find_question_file(data, name, part)]
    except DataError:
        found = sorted((data / name).glob(f"{name}_QA_{part}*.json*"))
        if not found:
            raise
        return found


def nearest(name: str, known: Sequence[str], otherwise: str) -> str:
    """A remedy that names the nearest of `known`, or lists them, or says `otherwise` when there are none."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if near:
        return f"Did you mean {near[0]!r}?"
    return f"Known: {', '.join(known[:20])}" if known else otherwise


def existing_file(path: Path) -> Path:
    """Return `path` if it is there.

    Raises:
        DataError: It is not; the nearest name beside it is given.
    """
    if not path.exists():
        here = sorted(other.name for other in path.parent.iterdir()) if path.parent.is_dir() else []
        raise DataError(path, "no such question file", nearest(path.name, here, f"{path.parent} holds nothing"))
    return path
