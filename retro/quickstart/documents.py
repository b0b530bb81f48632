"""The quickstart's documents and questions, from the source of installed packages: two files, written once."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from retro.common.errors import DataError
from retro.common.files import atomic_path, write_plain_json
from retro.quickstart.docstrings import installed_package, write_docstrings
from retro.quickstart.sections import MadeQuestion, is_held_out, public_name, questions_of, sections_of

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
