"""Rejected input: written down, counted by reason, and reported before anything is concluded from what is left."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

from retro.common.errors import DataError
from retro.common.files import atomic_path
from retro.common.json_files import parse_json
from retro.corpus.config import CorpusConfig
from retro.corpus.diagnosis import Diagnosis, diagnose
from retro.corpus.files import Source
from retro.corpus.layouts import Document, Item, Reject
from retro.corpus.manifest import rejects_path

log = logging.getLogger(__name__)

_SHOWN = 3


def reject_lines(source: str, rejects: Iterable[Reject]) -> bytes:
    """Lines of rejects.jsonl."""
    lines = "".join(json.dumps({"source": source} | asdict(one), ensure_ascii=False) + "\n" for one in rejects)
    # A line may be rejected for half a character, which UTF-8 cannot hold; JSON spells it with a backslash.
    return lines.encode(errors="backslashreplace")


class AcceptedDocuments:
    """The documents of a source; what is none is written to the source's rejects on the way.

    Attributes:
        documents: How many have come by.
        reasons: Things rejected, by reason.
    """

    def __init__(self, source: Source, items: Iterable[Item], stream: BinaryIO) -> None:
        self.documents = 0
        self.reasons: Counter[str] = Counter()
        self._source, self._items, self._stream = source, items, stream

    def __iter__(self) -> Iterator[Document]:
        for item in self._items:
            if isinstance(item, Document):
                self.documents += 1
                yield item
            else:
                self.reasons[item.reason] += 1
                self._stream.write(reject_lines(self._source.name, [item]))


@contextmanager
def accept_documents(source: Source, items: Iterable[Item], out: Path) -> Iterator[AcceptedDocuments]:
    """The documents among `items`; the rest goes to the rejects file of the source in `out`, whole at the end."""
    with atomic_path(rejects_path(out, source.name)) as temporary, temporary.open("wb") as stream:
        yield AcceptedDocuments(source, items, stream)


def require_enough(config: CorpusConfig, source: Source, documents: int, reasons: Mapping[str, int], out: Path) -> str:
    """What was rejected of a source, in words; empty if nothing.

    Args:
        config: The stage's settings.
        source: Whose documents.
        documents: How many there are.
        reasons: Things rejected, by reason; they stand in the rejects file of the source.
        out: The stage's directory.

    Raises:
        DataError: The source has no document, or more was rejected than is allowed. The likeliest reason is named.
    """
    origin = source.config.path or source.config.built_in or ""
    rejected = sum(reasons.values())
    first = _first_rejects(rejects_path(out, source.name)) if rejected else []
    reported = f" ({_counted(reasons)}; see {rejects_path(out, source.name)}{_places(first)})" if rejected else ""
    guess = _guess(source, first, reasons) if rejected > documents else None
    if documents == 0:
        problem = f"holds no document{reported}" + (f": {guess.problem}" if guess else "")
        raise DataError(origin, problem, guess.remedy if guess else "Check the source's path, kind and text_key")
    bad = rejected / (rejected + documents)
    if bad > config.max_bad_fraction:
        problem = f"{bad:.1%} of it was rejected{reported}, max_bad_fraction allows {config.max_bad_fraction:.1%}"
        problem += f"; {guess.problem}" if guess else ""
        raise DataError(origin, problem, guess.remedy if guess else "Fix the source, or allow more")
    advice = f": {guess.problem}. {guess.remedy}" if guess else ""
    return f"{source.name}: {rejected} rejected{reported}{advice}" if rejected else ""


def _counted(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))


def _first_rejects(path: Path) -> list[Reject]:
    """The first reject of each of the first reasons."""
    found: dict[str, Reject] = {}
    with path.open("rb") as lines:
        for line in lines:
            fields = parse_json(line)
            del fields["source"]
            found.setdefault(fields["reason"], Reject(**fields))
            if len(found) == _SHOWN:
                break
    return list(found.values())


def _places(rejects: Iterable[Reject]) -> str:
    reported = [f"{one.file} line {one.line}: {one.detail or one.reason}" for one in rejects]
    return f"; the first: {'; '.join(reported)}" if reported else ""


def _guess(source: Source, rejects: list[Reject], reasons: Mapping[str, int]) -> Diagnosis | None:
    file = next((file for file in source.files if rejects and file.name == rejects[0].file), None)
    return diagnose(source, file, reasons) if file is not None else None
