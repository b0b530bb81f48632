"""From a public file to question files: convert, split, write. The same input always gives the same bytes."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from retro.common.config import unknown_name
from retro.common.errors import ConfigError
from retro.common.files import atomic_path
from retro.qa.formats.convert import Conversion, Documents, convert_file
from retro.qa.formats.item import Format, Options, record
from retro.qa.formats.registry import find_format
from retro.qa.question import Question

log = logging.getLogger(__name__)

PARTS = ("train", "dev", "test")


def split(made: Conversion, dev: float, seed: int) -> dict[str, list[Question]]:
    """Questions for training and for validation, by a hash of each id: whatever else the file holds, an id always goes
    to the same part, and the turns of one conversation go together.

    Args:
        made: All questions.
        dev: The share for validation, from 0 up to 1.
        seed: Changes which.
    """
    parts: dict[str, list[Question]] = {"train": [], "dev": []}
    for question, group in zip(made.questions, made.groups, strict=True):
        drawn = int.from_bytes(hashlib.sha256(f"{seed} {group}".encode()).digest()[:8])
        parts["dev" if drawn < dev * 2**64 else "train"].append(question)
    return parts


def write_questions(path: Path, questions: Sequence[Question]) -> None:
    """Write a question file: a JSON list with an item a line, or one object per line if the name ends in .jsonl."""
    lines = [json.dumps(record(question), ensure_ascii=False) for question in questions]
    text = "\n".join(lines) + "\n" if path.suffix == ".jsonl" else "[\n" + ",\n".join(lines) + "\n]\n"
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_corpus(path: Path, documents: Documents) -> None:
    """Write the passages of all questions as documents that the corpus stage reads."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as out:
        out.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in documents.lines())


@dataclass(frozen=True, kw_only=True)
class ConversionOptions:
    """What the command was asked for."""

    name: str
    path: Path
    out: Path
    """A question file, or the folder of a set: `<out>/<its name>_QA_<part>.json`."""
    options: Options = field(default_factory=Options)
    part: str = "train"
    dev: float = 0.0
    seed: int = 1234
    corpus: Path | None = None
    skip_bad: bool = False


def run(wanted: ConversionOptions) -> dict[str, Any]:
    """Convert a file and write it.

    Returns:
        Counts, and the files that were written with the number of their questions.

    Raises:
        ConfigError: The format does not exist, an option is not for it, or the split cannot be.
        DataError: The file cannot be read, or an item of it cannot be used.
    """
    form = find_format(wanted.name)
    _require_options(wanted, form)
    files = _files(wanted)
    made = convert_file(wanted.path, form, wanted.options, skip_bad=wanted.skip_bad)
    parts = split(made, wanted.dev, wanted.seed) if wanted.dev else {wanted.part: made.questions}
    for part, questions in parts.items():
        if not questions:
            need = f"needs to leave a question to each part: {part} got none of {len(made.questions)}"
            raise ConfigError("--dev", wanted.dev, need)
    if wanted.corpus is not None and not len(made.documents):
        raise ConfigError("--corpus", str(wanted.corpus), f"needs a format with passages; {wanted.name} has none here")
    for part, questions in parts.items():
        write_questions(files[part], questions)
    if wanted.corpus is not None:
        write_corpus(wanted.corpus, made.documents)
    counts = made.counts()
    for reason, count in counts["skipped"].items():
        log.warning("%s: %d of %d items left out: %s", wanted.path, count, made.items, reason)
    if made.ignored:
        reported = ", ".join(f"{field} ({count})" for field, count in made.ignored.items())
        log.warning(
            "%s: fields that %s does not look at, with how often they are there: %s", wanted.path, wanted.name, reported
        )
    return counts | {"files": {str(files[part]): len(questions) for part, questions in parts.items()}}


def _require_options(wanted: ConversionOptions, form: Format) -> None:
    usual = Options()
    for name, value in vars(wanted.options).items():
        if value != getattr(usual, name) and name not in form.options:
            raise ConfigError(f"--{name}", value, f"needs a format that uses it; {wanted.name} does not")
    if wanted.part not in PARTS:
        raise ConfigError("--part", wanted.part, unknown_name(wanted.part, PARTS).replace("a setting", "a part"))
    if not 0 <= wanted.dev < 1:
        raise ConfigError("--dev", wanted.dev, "needs a share from 0 up to 1")


def _files(wanted: ConversionOptions) -> dict[str, Path]:
    """Where each part goes."""
    if wanted.out.suffix in {".json", ".jsonl"}:
        if wanted.dev:
            raise ConfigError("OUT", str(wanted.out), "needs to be a folder where --dev makes two files")
        return {wanted.part: wanted.out}
    if wanted.dev and wanted.part != "train":
        raise ConfigError("--part", wanted.part, "needs to be left out beside --dev, which makes train and dev")
    name = wanted.out.resolve().name
    return {part: wanted.out / f"{name}_QA_{part}.json" for part in PARTS}
