"""The quickstart's documents and questions, from the source of installed packages: two files, written once.

A section is a parameter with its description, or a piece of any other part, of at most `WORDS` words; each begins with
the name of what it documents, so that it can be found by that name. Questions are made by two patterns over all
docstrings alike, without looking at what a model answers: the default value that a parameter's heading states, and the
version in which something was added.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from retro.common.errors import DataError
from retro.common.files import atomic_path, write_plain_json
from retro.quickstart.docstrings import installed_package, write_docstrings

WORDS = 90
"""Words of a section at most, so that it is one passage: two chunks of 64 tokens."""
_ENTRIES = ("Parameters", "Other Parameters", "Attributes", "Returns")
_LEFT_OUT = ("Examples", "References", "See Also")
_ENTRY = re.compile(r"^(\*{0,2}\w+(?:, \*{0,2}\w+)*) ?:(?: |$)")
_RULE = re.compile(r"^-{3,}$")
_DEFAULT = re.compile(r"default ?[=:] ?([^\s,;)]+)")
_ADDED = re.compile(r"versionadded:: ?([0-9][0-9.]*[0-9])")
_WHOLE = re.compile(r"^[\w.+-]{2,24}$")
"""Defaults that are one word or number: a tuple would be cut at its first comma."""
_GUESSED = ("none", "true", "false")
"""Defaults that need no document: most parameters have one of them."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A piece of a docstring."""

    id: str
    name: str
    """What it documents, without the private modules that it is defined in."""
    entry: str
    """The parameter that it describes; empty in other parts."""
    heading: str
    text: str

    @property
    def document(self) -> dict[str, str]:
        """As a line of a corpus."""
        return {"id": self.id, "title": self.name, "text": f"{self.name}, {self.heading.lower()}: {self.text}"}


@dataclass(frozen=True, kw_only=True)
class MadeQuestion:
    """A question whose answer one section states."""

    question: str
    answer: str
    section: Section

    @property
    def record(self) -> dict[str, object]:
        """As an item of a question file, the section that holds the answer as its own passage."""
        gold = self.section.document
        return {
            "id": f"{self.section.id}?",
            "question": self.question,
            "answers": [self.answer],
            "document_ids": [gold["id"]],
            "ctxs": [gold],
        }


def public_name(name: str) -> str:
    """A qualified name without its private parts, as documentation has it."""
    return ".".join(part for part in name.split(".") if not part.startswith("_"))


def sections_of(name: str, docstring: str) -> Iterator[Section]:
    """The sections of a docstring, in order.

    Args:
        name: What it documents.
        docstring: Its text, without common indentation.
    """
    for number, (heading, entry, text) in enumerate(_parts(docstring.split("\n"))):
        if heading in _LEFT_OUT:
            continue
        words = text.split()
        for start in range(0, len(words), WORDS):
            piece = " ".join(words[start : start + WORDS])
            yield Section(id=f"{name}#{number}.{start}", name=name, entry=entry, heading=heading, text=piece)


def _parts(lines: list[str]) -> Iterator[tuple[str, str, str]]:
    """Heading, entry and text of each part; entries of lists of parameters are parts of their own."""
    heading, entry, kept = "Summary", "", list[str]()
    skip = False
    for line, following in pairwise([*lines, "", ""]):
        if skip:
            skip = False
            continue
        begins_part = bool(line.strip()) and _RULE.match(following.strip()) is not None
        found = _ENTRY.match(line) if heading in _ENTRIES else None
        if (begins_part or found) and "".join(kept).strip():
            yield heading, entry, "\n".join(kept).strip()
        if begins_part:
            heading, entry, kept, skip = line.strip(), "", [], True
        elif found:
            entry, kept = found[1], [line]
        else:
            kept.append(line)
    if "".join(kept).strip():
        yield heading, entry, "\n".join(kept).strip()


def questions_of(sections: list[Section]) -> Iterator[MadeQuestion]:
    """The questions that the sections of one docstring answer."""
    added = [section for section in sections if not section.entry and _ADDED.search(section.text)]
    if len(added) == 1 and len(_ADDED.findall(added[0].text)) == 1:
        found = _ADDED.search(added[0].text)
        if found is not None:
            asked = f"In which version was {added[0].name} added?"
            yield MadeQuestion(question=asked, answer=found[1], section=added[0])
    for section in sections:
        if section.entry and section.heading.endswith("Parameters") and section.id.endswith(".0"):
            found = _DEFAULT.search(section.text)
            answer = "" if found is None else found[1].strip("`'\".")
            if _WHOLE.match(answer) and answer.lower() not in _GUESSED:
                asked = f"What is the default value of the parameter {section.entry} of {section.name}?"
                yield MadeQuestion(question=asked, answer=answer, section=section)


def is_held_out(name: str) -> bool:
    """Whether questions about a documented thing are reported; those about the others were there to choose settings."""
    return hashlib.sha256(name.encode()).digest()[-1] % 2 == 0


_SOURCE, DOCUMENTS, QUESTIONS = "docstrings.jsonl", "documents.jsonl", "questions.json"


@dataclass(frozen=True, kw_only=True)
class WrittenFiles:
    """What was written."""

    docstrings: int
    sections: int
    made: int
    """Questions that the sections answer, of which half are held out."""
    asked: int
    """Drawn from the held-out half."""


def write_documents(
    out: Path, packages: Sequence[str], questions: int, seed: int, *, held_out: bool = True
) -> WrittenFiles:
    """Write `documents.jsonl`, one section a line, and `questions.json`.

    Args:
        out: A folder.
        packages: Names of installed packages.
        questions: How many to draw.
        seed: Draws them.
        held_out: From which half: the one that is reported, or the one that settings are chosen on.

    Raises:
        DataError: A package is not installed, has no docstrings, or too few questions can be made.
    """
    out.mkdir(parents=True, exist_ok=True)
    write_docstrings(out / _SOURCE, [installed_package(name) for name in packages], min_words=20)
    seen, sections, made = set[str](), 0, list[MadeQuestion]()
    with atomic_path(out / DOCUMENTS) as temporary, temporary.open("w", encoding="utf-8") as target:
        for line in (out / _SOURCE).read_text(encoding="utf-8").splitlines():
            found = json.loads(line)
            name = public_name(found["title"])
            if name in seen:
                continue
            seen.add(name)
            # The first line is the name under which the docstring was found.
            own = list(sections_of(name, found["text"].partition("\n\n")[2]))
            target.writelines(json.dumps(section.document) + "\n" for section in own)
            sections += len(own)
            made += questions_of(own)
    candidates = [one for one in made if is_held_out(one.section.name) == held_out]
    if len(candidates) < questions:
        problem = f"gives {len(candidates)} questions of {questions} that are to be asked"
        raise DataError(", ".join(packages), problem, "Ask fewer, or name more packages with numpydoc's docstrings")
    drawn = random.Random(seed).sample(candidates, questions)
    write_plain_json(out / QUESTIONS, [one.record for one in drawn])
    return WrittenFiles(docstrings=len(seen), sections=sections, made=len(made), asked=questions)
