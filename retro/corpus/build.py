"""The corpus stage: texts become token files, documents get their split, and all of it is written down.

Order of events: scan the files, prepare the tokenizer, tokenize block by block; then one worker joins the blocks
source by source, decides the split, derives questions and writes the manifest. Every step leaves files that a later
run recognises, so a kill costs at most the blocks that were being tokenized.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from retro.common.artifacts import REPORT, Manifest, is_complete, read_manifest
from retro.common.block_stage import completed, remove_unlisted_files
from retro.common.coordinator import Coordinator
from retro.common.errors import ArtifactError
from retro.common.files import read_json, read_kept_json
from retro.common.launcher import ALONE, Worker
from retro.corpus import pystdlib
from retro.corpus.config import CorpusConfig, SourceConfig
from retro.corpus.files import Source, resolve
from retro.corpus.finalize import Finalizer
from retro.corpus.hub import local_path, local_path_if_there
from retro.corpus.manifest import (
    BLOCKS,
    QUESTIONS,
    RECORDS,
    TOKENIZER,
    Checksums,
    Identity,
    SourceRecord,
    built_in_text,
    finished_source,
    identify,
    made_from,
    record_path,
    require_unchanged,
)
from retro.corpus.reader import STAGE
from retro.corpus.scan import Scan, ScanWork
from retro.corpus.tokenize import TokenWork
from retro.corpus.train_tokenizer import is_prepared, prepare_tokenizer, tokenizer_origin
from retro.tokenizers.tokenizer import Tokenizer, load_tokenizer

log = logging.getLogger(__name__)


def run(config: CorpusConfig, out: Path, *, worker: Worker = ALONE) -> Manifest:
    """Make the corpus in `out`, or continue where an earlier run stopped.

    Args:
        config: The stage's settings.
        out: Where the token files, manifest.json and report.json go.
        worker: This process's place among those that make it.

    Returns:
        The manifest, once the stage is complete, whoever completed it.

    Raises:
        DataError: A source is missing, unreadable or empty.
        ConfigError: A setting does not fit the texts: a split without a document, an unusable tokenizer.
        ArtifactError: `out` holds a corpus made under other settings or from other input, or the disk is full.
    """
    started = time.monotonic()
    checksums = _remembered(out)
    manifest = completed(out, STAGE, config.shaping, {})
    if manifest is not None:
        _require_same_input(config, out, checksums)
        shutil.rmtree(out / BLOCKS, ignore_errors=True)
        remove_unlisted_files(out, manifest)
        return manifest
    try:
        return _make(config, out, checksums, worker, started)
    except ArtifactError:
        # Another worker has completed the stage, and removed the blocks, while this one was about to read them.
        if not is_complete(out):
            raise
        return read_manifest(out, STAGE)


def _make(config: CorpusConfig, out: Path, checksums: Checksums, worker: Worker, started: float) -> Manifest:
    for folder in (RECORDS, TOKENIZER, QUESTIONS):
        (out / folder).mkdir(parents=True, exist_ok=True)
    coordinator = Coordinator(out, worker, stage=STAGE)
    sources = [_find(source, out, coordinator) for source in config.sources]
    scans = _scan_sources(config, sources, out / BLOCKS, checksums, coordinator)
    inputs = {source.name: scan.identity for source, scan in zip(sources, scans, strict=True)}
    tokenizer, sampled = _tokenizer(config, sources, inputs, out, coordinator)
    known = _known(config, sources, inputs, tokenizer, out)
    joined = frozenset(number for number, source in enumerate(sources) if source.name in known)
    work = TokenWork(config, sources, scans, tokenizer, out / BLOCKS / "tokens", joined=joined)
    coordinator.build(work.store, work.make, sizes=work.sizes, unit="bytes", what="corpus: tokenizing")
    return coordinator.finish(
        Finalizer(
            config=config,
            out=out,
            sources=sources,
            inputs=inputs,
            tokenizer=tokenizer,
            work=work,
            known=known,
            sampled=sampled,
            checksums=checksums,
            started=started,
        ),
        scratch=out / BLOCKS,
    )


def _scan_sources(
    config: CorpusConfig, sources: Sequence[Source], blocks: Path, checksums: Checksums, coordinator: Coordinator
) -> list[Scan]:
    scan = ScanWork(sources, config.block_bytes, blocks / "scan")
    coordinator.build(scan.store, scan.make, sizes=scan.sizes, unit="bytes", what="corpus: scanning the input")
    return scan.collect(checksums)


def _tokenizer(
    config: CorpusConfig, sources: Sequence[Source], inputs: Mapping[str, Identity], out: Path, coordinator: Coordinator
) -> tuple[Tokenizer, frozenset[str]]:
    """The tokenizer, and the sources that were read for it now."""
    directory, origin, sampled = out / TOKENIZER, tokenizer_origin(config, inputs), False

    def prepare() -> Tokenizer:
        nonlocal sampled
        sampled = config.tokenizer.path is None
        return prepare_tokenizer(config, sources, inputs, out)

    coordinator.once("tokenizer", lambda: is_prepared(origin, directory), prepare)
    return load_tokenizer(directory), frozenset(source.name for source in sources if sampled)


def _known(
    config: CorpusConfig,
    sources: Sequence[Source],
    inputs: Mapping[str, Identity],
    tokenizer: Tokenizer,
    out: Path,
) -> dict[str, SourceRecord]:
    """Sources whose files an earlier run finished."""
    known = {}
    for source in sources:
        identity = inputs[source.name]
        record = finished_source(out, source.name, made_from(config, source, identity, tokenizer), identity)
        if record is not None:
            known[source.name] = record
    return known


def _remembered(out: Path) -> Checksums:
    """Checksums of input files from an earlier run's report; losing them costs only the time to read the input."""
    report = read_kept_json(out / REPORT, "checksums of the input are taken again") or {}
    checksums: Checksums = report.get("checksums", {})
    return checksums


def _find(source: SourceConfig, out: Path, coordinator: Coordinator) -> Source:
    if source.path is not None:
        return resolve(source, local_path(source.path))
    text = built_in_text(out, source.name)
    name = f"text of {source.name}"
    coordinator.once(name, lambda: pystdlib.is_collected(text), lambda: pystdlib.collect_documents(text))
    return resolve(source, text)


def _require_same_input(config: CorpusConfig, out: Path, checksums: Checksums) -> None:
    """Raise ArtifactError when the input of a finished corpus has changed; input that is gone cannot have."""
    for source in config.sources:
        record = record_path(out, source.name)
        inputs: Identity = read_json(record, "Run `retro corpus` again")["inputs"]
        if source.path is None:
            _require_same_interpreter(out, source.name)
        elif (path := local_path_if_there(source.path)) is None:
            log.warning("corpus: %s is gone, so whether it changed cannot be checked", source.path)
        else:
            found = identify(resolve(source, path), checksums)
            require_unchanged(record, source.name, inputs, found)


def _require_same_interpreter(out: Path, source: str) -> None:
    path = pystdlib.origin_path(built_in_text(out, source))
    made_by, now = read_json(path, "Run `retro corpus` again")["interpreter"], pystdlib.interpreter()
    if made_by != now:
        problem = f"the documentation is that of {made_by}, but this is {now}"
        raise ArtifactError(path, problem, "Use the same Python, or add --redo to run `retro corpus` and what follows")
