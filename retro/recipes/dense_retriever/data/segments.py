"""Step `segments`: documents are cut into windows that overlap, in a file of passages.

passages.jsonl    {"id": "DOCUMENT#0", "title": …, "text": …}, in the order of the documents; `retro.recipes.passages`
                  embeds and searches it
rejects.jsonl     what was no document: source, file, line, reason

Documents are streamed in and segments out, a block at a time, by several processes. Neither their number nor the size
of a block changes a byte, and a killed step goes on where it was.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retro.common.artifacts import fingerprint
from retro.common.block_stage import Advance
from retro.common.blocks import Arrays, Block, BlockStore
from retro.common.checksum_cache import known_sha256
from retro.common.coordinator import Coordinator
from retro.common.errors import DataError
from retro.common.files import atomic_path
from retro.common.leases import remove_leases
from retro.corpus.diagnosis import diagnose
from retro.corpus.files import Source
from retro.corpus.layouts import Document, Reject, Span, read_source, read_spans
from retro.corpus.rejects import reject_lines
from retro.corpus.scan import ScanWork
from retro.recipes.base import Made, Step, StepRun
from retro.recipes.dense_retriever.data.block_processes import PlannedBlocks, build_blocks
from retro.recipes.dense_retriever.data.segment_sources import document_sources, uncompressed
from retro.recipes.dense_retriever.data.segments_config import SegmentsConfig
from retro.recipes.dense_retriever.data.windows import length_unit, token_starts, window_text, windows

log = logging.getLogger(__name__)

PASSAGES, REJECTS = "passages.jsonl", "rejects.jsonl"
_BETWEEN = "#"
_STAGE = "dense_retriever.segments"
_SECTION = "recipe.dense_retriever.segments"
_SCRATCH = ("scan", "blocks", "plain")


def run(work: StepRun) -> Made:
    """Cut all documents.

    Raises:
        ConfigError: A source has no text.
        DataError: A file cannot be read, two documents have one id, or there is no document.
    """
    config: SegmentsConfig = work.settings.segments
    sources = [uncompressed(one, work.directory / "plain") for one in document_sources(work)]
    plan = SegmentPlan(config, work.directory, tuple(sources), tuple(_parts(sources, config, work.directory)))
    store = build_blocks(plan, config.workers)
    counts = _join(store, work.directory, sources)
    if not counts.get("segments"):
        section = f"{_SECTION}.sources" if config.sources else "corpus.sources"
        raise _no_document(sources, counts, work.directory / REJECTS, section)
    for name in _SCRATCH:
        shutil.rmtree(work.directory / name, ignore_errors=True)
    remove_leases(work.directory)
    log.info("segments: %d of %d documents", counts["segments"], counts["documents"])
    return Made(files=[PASSAGES, REJECTS], counts=counts)


def document_of_segment(identifier: str) -> str:
    """The document that a passage was cut from, by its id: `d7` of `d7#2`; an id that is no segment's is its own."""
    document, mark, number = identifier.rpartition(_BETWEEN)
    return document if mark and number.isdigit() else identifier


@dataclass(frozen=True)
class Part:
    """Some documents of a source."""

    source: int
    span: Span
    bytes: int
    made_from: str
    """Fingerprint of the files and of the place."""


@dataclass(frozen=True)
class SegmentPlan:
    """One block for each part of the input."""

    config: SegmentsConfig
    directory: Path
    sources: tuple[Source, ...]
    parts: tuple[Part, ...]

    def planned(self) -> PlannedBlocks:
        """See `BlockPlan`."""
        settings = {**self.config.shaping, "length_in": length_unit(self.config.tokenizer)}
        inputs = tuple(fingerprint({"settings": settings, "part": one.made_from}) for one in self.parts)
        store = BlockStore(directory=self.directory / "blocks", inputs=inputs, stage=_STAGE)
        # Not a method of the plan: a tokenizer is opened once in each process.
        maker = _BlockMaker(self)
        sizes = [one.bytes for one in self.parts]
        return PlannedBlocks(store=store, sizes=sizes, unit="bytes", make=maker.make, what="segments: cutting")


class _BlockMaker:
    def __init__(self, plan: SegmentPlan) -> None:
        self._plan, self._starts = plan, token_starts(plan.config.tokenizer)

    def make(self, number: int, advance: Advance) -> Block:
        """The segments of one part of the input, as lines.

        Raises:
            DataError: It cannot be read.
        """
        part = self._plan.parts[number]
        source = self._plan.sources[part.source]
        lines, rejects, keys, counts = bytearray(), bytearray(), list[int](), Counter[str]()
        for item in read_spans(source, [part.span], 1, advance):
            if isinstance(item, Reject):
                counts[f"rejected.{item.reason}"] += 1
                rejects += reject_lines(source.name, [item])
                continue
            before = len(lines)
            for line in self._segments(item, counts):
                lines += line
            if len(lines) > before:
                keys.append(_key(item.id))
        arrays: Arrays = {
            "lines": _bytes(lines),
            "rejects": _bytes(rejects),
            "documents": np.array([keys], dtype=np.uint64),
        }
        return Block(arrays, dict(counts))

    def _segments(self, document: Document, counts: Counter[str]) -> Iterator[bytes]:
        config = self._plan.config
        starts_T = self._starts(document.text)
        counts["documents"] += 1
        counts["tokens"] += len(starts_T)
        counts["documents_without_tokens"] += not len(starts_T)
        counts["documents_of_one_segment"] += 0 < len(starts_T) <= config.window
        found = windows(len(starts_T), config.window, config.step, whole_last=config.last == "whole")
        for number, window in enumerate(found):
            text = window_text(document.text, starts_T, window)
            # Tokens may be white space, or parts of a character.
            counts["segments" if text else "segments_without_text"] += 1
            if text:
                one = {"id": f"{document.id}{_BETWEEN}{number}", "title": document.title, "text": text}
                yield json.dumps(one, ensure_ascii=False).encode() + b"\n"


def _bytes(content: bytearray) -> NDArray[np.uint8]:
    return np.frombuffer(bytes(content), dtype=np.uint8)[None]


def _key(document: str) -> int:
    return int.from_bytes(blake2b(document.encode(), digest_size=8).digest(), "little")


def _parts(sources: Sequence[Source], config: SegmentsConfig, directory: Path) -> Iterator[Part]:
    """Where the input may be cut, found by reading it once."""
    scan = ScanWork(sources, config.block_bytes, directory / "scan")
    scan.store = replace(scan.store, stage=_STAGE)
    Coordinator(directory, stage=_STAGE).build(
        scan.store, scan.make, sizes=scan.sizes, unit="bytes", what="segments: reading"
    )
    for number, found in enumerate(scan.collect({})):
        for span, size in zip(found.spans, found.sizes, strict=True):
            made_from = {"files": found.identity[span.file : span.file + 1], "kind": sources[number].kind}
            about = {"source": sources[number].config.model_dump(mode="json"), "span": list(span)}
            yield Part(number, span, max(size, 1), fingerprint(made_from | about))


def _no_document(sources: Sequence[Source], counts: Mapping[str, int], rejects: Path, section: str) -> DataError:
    """The error for sources without a document, with what the file of the first reject seems to be."""
    names = ", ".join(one.name for one in sources)
    reasons = {name.removeprefix("rejected."): count for name, count in counts.items() if name.startswith("rejected.")}
    said = ", ".join(f"{count} {reason}" for reason, count in reasons.items()) or "nothing was found"
    guess = None
    with rejects.open(encoding="utf-8") as lines:
        first: dict[str, Any] = next(map(json.loads, lines), {})
    for source in sources:
        for file in source.files:
            if (source.name, file.name) == (first.get("source"), first.get("file")):
                said += f"; the first: {file.name} line {first['line']}: {first['detail'] or first['reason']}"
                guess = diagnose(source, file, reasons, section)
    if guess is not None:
        return DataError(names, f"hold no document ({said}): {guess.problem}", guess.remedy)
    return DataError(names, f"hold no document ({said})", f"Check path, kind and text_key in {section}")


def _join(store: BlockStore, directory: Path, sources: Sequence[Source]) -> dict[str, int]:
    """Write the lines of all blocks, in order; gives the sum of their counts.

    Raises:
        DataError: Two documents have one id.
    """
    counts, keys = Counter[str](), [np.zeros(0, dtype=np.uint64)]
    with (
        atomic_path(directory / PASSAGES) as passages,
        atomic_path(directory / REJECTS) as rejects,
        passages.open("wb") as to_passages,
        rejects.open("wb") as to_rejects,
    ):
        for number in range(len(store)):
            block = store.take(number)
            to_passages.write(block.arrays["lines"].data)
            to_rejects.write(block.arrays["rejects"].data)
            keys.append(block.arrays["documents"][0])
            counts.update(block.counts)
        _require_distinct(np.concatenate(keys), sources)
    return {name: count for name, count in sorted(counts.items()) if count}


def _require_distinct(keys: NDArray[np.uint64], sources: Sequence[Source]) -> None:
    """Raise DataError for two documents of one id, named by their places, for which the sources are read again."""
    ordered = np.sort(keys)
    twice = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
    if not twice:
        return
    problem = f"have {len(twice)} ids that several documents have{_places_of_first(twice, sources)}"
    names = ", ".join(one.name for one in sources)
    raise DataError(names, problem, "Give every document an id of its own, or set the id_key of the source")


def _places_of_first(twice: set[int], sources: Sequence[Source]) -> str:
    """Where the first two documents of one id are."""
    places: dict[str, str] = {}
    for source in sources:
        for one in read_source(source, 1, lambda _: None):
            if isinstance(one, Document) and _key(one.id) in twice:
                place = f"{source.name}, {one.file} line {one.line}"
                if one.id in places:
                    return f", first {one.id[:80]!r}: {places[one.id]}, and {place}"
                places[one.id] = place
    return ""


def _facts(work: StepRun) -> Mapping[str, Any]:
    """The files with their checksums, each read again only where it changed."""
    found = {
        source.name: [[file.name, known_sha256(file.path, work.config.run_dir)] for file in source.files]
        for source in document_sources(work)
    }
    return {"files": found, "tokens": length_unit(work.settings.segments.tokenizer)}


SEGMENTS = Step(
    name="segments",
    summary="Documents, cut into overlapping passages.",
    run=run,
    needs=lambda settings: () if settings.segments.sources else ("corpus",),
    settings=("segments",),
    facts=_facts,
)
