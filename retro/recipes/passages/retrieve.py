"""Passages beside questions: every item of a file, as it is, with `ctxs`: [{id, title, text, score}].

Questions are searched in blocks, and what was found for a block is on disk when the next one begins. Stopped anywhere
and called again, it ends in the same bytes.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retro.common.artifacts import fingerprint
from retro.common.blocks import ranges
from retro.common.errors import ConfigError, DataError
from retro.common.files import atomic_path, require_place, sha256_file
from retro.common.json_files import JsonItem, json_items, read_text
from retro.common.progress import Progress, duration
from retro.common.response_cache import ResponseCache
from retro.recipes.passages.search import ContextRecord, PassageSearch, as_record

log = logging.getLogger(__name__)

ASKED = ("question", "instruction")
"""Fields that may hold what is searched for; of an item that has both, the first."""
FOUND = "ctxs"


@dataclass(frozen=True, kw_only=True)
class RetrievalReport:
    """What was found."""

    path: Path
    items: int
    n_docs: int
    with_fewer: int
    """Items with fewer passages than asked for."""
    without: int
    """Items without any."""
    replaced: int
    """Items that had `ctxs` before, which gave way."""
    searched: int
    """Items searched now; after a stop, fewer than all."""
    seconds: float

    @property
    def line(self) -> str:
        """What was found, for people."""
        short = f", {self.with_fewer:,} of them with fewer than {self.n_docs} passages" if self.with_fewer else ""
        return f"{self.path}: {self.items:,} questions{short}, {duration(self.seconds)}"

    @property
    def counts(self) -> dict[str, int]:
        """What is the same for the same settings, for a manifest."""
        names = ("items", "n_docs", "with_fewer", "without", "replaced")
        return {name: getattr(self, name) for name in names}


def retrieve_for_file(
    source: Path, out: Path, retriever: PassageSearch, *, n_docs: int, questions_per_block: int = 256
) -> RetrievalReport:
    """Write the items of a file with the passages that were found for each.

    Args:
        source: A JSON list of objects, or an object a line. An item needs a `question` or an `instruction`.
        out: Where they go: one a line if it ends in .jsonl, else a JSON list. What is there is replaced at the end.
        retriever: Finds the passages.
        n_docs: For each item, at least 1.
        questions_per_block: Searched together, and between two writes to disk.

    Raises:
        ConfigError: `n_docs` is below 1, or `out` is `source`.
        DataError: The file cannot be read or has no item, or an item lacks a question; it is named.
        ArtifactError: What was begun there is of other questions or settings, or the disk is full.
    """
    started = time.monotonic()
    if n_docs < 1:
        raise ConfigError("n_docs", n_docs, "needs at least 1")
    if out.resolve() == source.resolve():
        raise ConfigError("output_dir", str(out), "needs another place than the questions, which would be replaced")
    require_place(out)
    items = list(json_items(source, read_text(source)))
    queries = [_query(source, item) for item in items]
    if not items:
        raise DataError(source, "holds no item", "Give a JSON list of objects, or one JSON object per line")
    header = {"questions": sha256_file(source), "n_docs": n_docs, "per_block": questions_per_block}
    header |= {"retriever": fingerprint(dict(retriever.identity))}
    begun = _begun(out)
    found = ResponseCache(begun, header, f"Delete {begun} to search again, or name another output")
    searched = _search(queries, retriever, n_docs, questions_per_block, found)
    with atomic_path(out) as temporary, temporary.open("w", encoding="utf-8") as stream:
        stream.writelines(_written(items, found, lines=out.suffix == ".jsonl"))
    sizes = [len(found[str(number)]) for number in range(len(items))]
    begun.unlink(missing_ok=True)
    report = RetrievalReport(
        path=out, items=len(items), n_docs=n_docs, with_fewer=sum(size < n_docs for size in sizes),
        without=sizes.count(0), replaced=sum(FOUND in item.value for item in items), searched=searched,
        seconds=round(time.monotonic() - started, 3),
    )  # fmt: skip
    _tell(report)
    return report


def _query(source: Path, item: JsonItem) -> str:
    """What is searched for an item.

    Raises:
        DataError: It has none of the fields, or no text in it.
    """
    name = next((one for one in ASKED if one in item.value), "")
    if not name:
        there = ", ".join(item.value)[:200] or "nothing"
        problem = f"{item.place} has neither {' nor '.join(map(repr, ASKED))}; it has {there}"
        raise DataError(source, problem, "Give every item what is to be searched for")
    value = item.value[name]
    if not isinstance(value, str) or not value.strip():
        problem = f"{item.place} has {str(value)[:80]!r} as its {name}, needed is a text"
        raise DataError(source, problem, "Give every item what is to be searched for")
    return value


def _begun(out: Path) -> Path:
    return out.with_name(f".{out.name}.begun")


def _search(queries: Sequence[str], retriever: PassageSearch, n_docs: int, per_block: int, found: ResponseCache) -> int:
    """Search for what was not found before, block by block; gives how many were searched.

    A block is searched as a whole, so that its questions are embedded in the same batches whenever it is.
    """
    blocks = ranges(len(queries), per_block)
    left = [block for block in blocks if not all(str(number) in found for number in block)]
    count = sum(map(len, left))
    with Progress(len(queries), what="retrieve", unit="questions", done=len(queries) - count) as bar:
        for block in left:
            some = retriever.search([queries[number] for number in block], n_docs)
            if len(some) != len(block):
                raise ValueError(f"the retriever answered {len(some)} of {len(block)} questions")
            contexts = [[as_record(passage) for passage in one] for one in some]
            found.add([str(number) for number in block], contexts)
            bar.advance(len(block))
    return count


def _written(items: Sequence[JsonItem], found: ResponseCache, *, lines: bool) -> Iterator[str]:
    """The text of the output, piece by piece."""
    for item in items:
        contexts: list[ContextRecord] = found[str(item.number)]
        record: dict[str, Any] = {name: value for name, value in item.value.items() if name != FOUND}
        text = json.dumps(record | {FOUND: contexts}, ensure_ascii=False)
        if lines:
            yield f"{text}\n"
        else:
            yield f"{',' if item.number else '['}\n{text}"
    if not lines:
        yield "\n]\n"


def _tell(report: RetrievalReport) -> None:
    log.info("retrieve: %s", report.line)
    if report.replaced:
        log.warning("retrieve: %d items had %s already, which were replaced", report.replaced, FOUND)
    if report.without:
        log.warning("retrieve: for %d items no passage was found", report.without)
