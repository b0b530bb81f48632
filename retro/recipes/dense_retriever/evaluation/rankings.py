"""Searching a set of questions, in blocks: what was found for one is on disk when the next one begins.

rankings/SET.RETRIEVER.jsonl    {"id": "q1", "ids": ["d7#2", …], "scores": […], "answers": [true, …], "best": {…}}
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from retro.common.artifacts import fingerprint
from retro.common.blocks import ranges
from retro.common.progress import Progress
from retro.common.response_cache import ResponseCache
from retro.recipes.dense_retriever.evaluation.judgement import Asked, Found, found_of
from retro.recipes.item_files import write_items
from retro.recipes.passages.search import PassageSearch

log = logging.getLogger(__name__)

RANKINGS = "rankings"
BEGUN = ".begun"
"""Folder of what was found so far; whoever calls removes it when all is done."""


def rank(
    asked: Sequence[Asked],
    retriever: PassageSearch,
    out: Path,
    *,
    n: int,
    questions_per_block: int,
    exclude_own_id: bool = False,
) -> list[Found]:
    """Search for all questions, and write down what was found.

    Args:
        asked: The questions.
        retriever: What searches.
        out: The file; what was found so far is in the folder `.begun` beside it.
        n: Passages of a question, at least 1.
        questions_per_block: Searched together. The same blocks are embedded together whenever the step is killed.
        exclude_own_id: Whether a passage with the question's own id does not count as found.

    Raises:
        ArtifactError: The disk is full.
    """
    known = _begun(asked, retriever, out, n=n, block=questions_per_block, own=exclude_own_id)
    blocks = ranges(len(asked), questions_per_block)
    left = [block for block in blocks if not all(str(number) in known for number in block)]
    done = len(asked) - sum(map(len, left))
    with Progress(len(asked), what=f"searching {out.stem}", unit="questions", done=done) as bar:
        for block in left:
            some = [asked[number] for number in block]
            lists = retriever.search([one.question for one in some], n + exclude_own_id)
            found = [
                found_of(passages, one.answers, n, one.id if exclude_own_id else None)
                for one, passages in zip(some, lists, strict=True)
            ]
            known.add([str(number) for number in block], [asdict(one) for one in found])
            bar.advance(len(block))
    found = [_found(known[str(number)]) for number in range(len(asked))]
    write_items(out, _lines(asked, found))
    return found


def _begun(asked: Sequence[Asked], retriever: PassageSearch, out: Path, **how: Any) -> ResponseCache:
    """What was found so far, for exactly these questions and this retriever."""
    asked_of = fingerprint([[one.id, one.question, list(one.answers)] for one in asked])
    header = {"questions": asked_of, "retriever": fingerprint(dict(retriever.identity)), **how}
    # Named by what it is of: under other settings a file that was begun is left alone.
    path = out.parent / BEGUN / f"{out.stem}.{fingerprint(header)[:16]}.jsonl"
    return ResponseCache(path, header, f"Delete {path} to search again")


def _lines(asked: Sequence[Asked], found: Sequence[Found]) -> Iterator[Mapping[str, Any]]:
    for one, what in zip(asked, found, strict=True):
        yield {"id": one.id, **asdict(what)}


def _found(value: Mapping[str, Any]) -> Found:
    kept = {name: tuple(value[name]) for name in ("ids", "scores", "answers")}
    return Found(**kept, best=value["best"])
