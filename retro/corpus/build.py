"""The corpus stage: texts become token files, documents get their split, and all of it is written down.

Order of events: find the files and their checksums, prepare the tokenizer, tokenise source by source, decide the
split, derive questions, write the manifest. Every step leaves files that a later run recognises, so a kill costs
at most the source that was being tokenised.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retro.common.artifacts import (
    REPORT,
    Manifest,
    atomic_path,
    describe_files,
    read_json,
    write_json,
    write_manifest,
)
from retro.common.config import config_json
from retro.common.errors import ArtifactError
from retro.common.hdf5 import new_file, write_columns
from retro.common.resume import completed, remove_temporary_files
from retro.common.tokenizers import FILE_NAMES, META
from retro.corpus import pystdlib
from retro.corpus.config import CorpusConfig, SourceConfig
from retro.corpus.files import Source, resolve
from retro.corpus.inputs import Checksums, Identity, identify, require_unchanged
from retro.corpus.questions import derive_questions
from retro.corpus.reader import DOCUMENTS_FILE, SPLITS, STAGE
from retro.corpus.source_block import RECORDS, make_source, record_path, rejects_path, source_files
from retro.corpus.split import require_documents_in_splits, split_documents, stream_order
from retro.corpus.summary import manifest_counts, report, split_counts, tokenizer_counts
from retro.corpus.vocabulary import prepare_tokenizer

log = logging.getLogger(__name__)

QUESTIONS = "qa"
REJECTS = "rejects.jsonl"


def run(config: CorpusConfig, out: Path) -> Manifest:
    """Make the corpus in `out`, or go on where an earlier run stopped.

    Raises:
        DataError: A source is missing, unreadable or empty.
        ConfigError: A setting does not fit the texts: a split without a document, an unusable tokenizer.
        ArtifactError: `out` holds a corpus made under other settings or from other input.
    """
    started = time.monotonic()
    checksums = _remembered(out)
    manifest = completed(out, STAGE, config_json(config), {})
    if manifest is not None:
        _require_same_input(config, out, checksums)
        return manifest
    _make_folders(out)
    sources = [_find(source, out) for source in config.sources]
    inputs = {source.name: identify(source, checksums) for source in sources}
    tokenizer = prepare_tokenizer(config, sources, inputs, out / "tokenizer")
    made = {s.name: make_source(config, s, inputs[s.name], tokenizer, out) for s in sources}
    splits = {name: split_documents(m.documents, config.split, config.seed, name) for name, m in made.items()}
    require_documents_in_splits(splits, config.split)
    _write_documents(config, splits, out / DOCUMENTS_FILE)
    _join_rejects(config, out)
    questions = _write_questions(config, splits, out)
    counts = manifest_counts(made, inputs, _built_in_texts(config, out)) | {
        "split": split_counts(splits, out),
        "questions": questions,
        "tokenizer": tokenizer_counts(tokenizer),
    }
    summary = report(made, questions, time.monotonic() - started)
    write_json(out / REPORT, asdict(summary) | {"checksums": checksums})
    log.info("corpus: %s", summary)
    files = describe_files(out, _files(config, questions))
    return write_manifest(
        out, Manifest(stage=STAGE, config=config_json(config), parents={}, counts=counts, files=files)
    )


def _files(config: CorpusConfig, questions: Mapping[str, object]) -> list[str]:
    names = [name for source in config.sources for name in source_files(source.name)]
    names += [f"{RECORDS}/{source.name}.json" for source in config.sources]
    names += [DOCUMENTS_FILE, REJECTS, *(f"{QUESTIONS}/{part}.json" for part in questions)]
    return [*names, f"tokenizer/{META}", f"tokenizer/{FILE_NAMES[config.tokenizer.kind]}"]


def _make_folders(out: Path) -> None:
    for folder in (out, out / RECORDS, out / "tokenizer", out / QUESTIONS):
        folder.mkdir(parents=True, exist_ok=True)
        remove_temporary_files(folder)


def _remembered(out: Path) -> Checksums:
    """Checksums of input files from an earlier run's report; losing them costs only the time to read the input."""
    if not (out / REPORT).exists():
        return {}
    checksums: Checksums = read_json(out / REPORT, "Delete it").get("checksums", {})
    return checksums


def _find(source: SourceConfig, out: Path) -> Source:
    if source.path is not None:
        return resolve(source, source.path.expanduser())
    text = _built_in_text(out, source.name)
    pystdlib.materialise(text)
    return resolve(source, text)


def _built_in_text(out: Path, source: str) -> Path:
    return out / RECORDS / f"{source}.text.jsonl"


def _built_in_texts(config: CorpusConfig, out: Path) -> dict[str, Path]:
    return {s.name: _built_in_text(out, s.name) for s in config.sources if s.built_in is not None}


def _require_same_input(config: CorpusConfig, out: Path, checksums: Checksums) -> None:
    """Raise ArtifactError when the input of a finished corpus has changed; input that is gone cannot have."""
    for source in config.sources:
        record = record_path(out, source.name)
        made_from: Identity = read_json(record, "Run `retro corpus` again")["inputs"]
        if source.path is None:
            _require_same_interpreter(out, source.name)
        elif not _exists(source.path.expanduser()):
            log.warning("corpus: %s is gone, so whether it changed cannot be checked", source.path)
        else:
            found = identify(_find(source, out), checksums)
            require_unchanged(record, source.name, made_from, found)


def _exists(path: Path) -> bool:
    return path.exists() or path.with_name(path.name + ".bin").exists()


def _require_same_interpreter(out: Path, source: str) -> None:
    path = pystdlib.origin_path(_built_in_text(out, source))
    made_by, now = read_json(path, "Run `retro corpus` again")["interpreter"], pystdlib.interpreter()
    if made_by != now:
        problem = f"the documentation is that of {made_by}, but this is {now}"
        raise ArtifactError(path, problem, "Use the same Python, or add --redo to run `retro corpus` and what follows")


def _write_documents(config: CorpusConfig, splits: Mapping[str, NDArray[np.uint8]], path: Path) -> None:
    with atomic_path(path) as temporary, new_file(temporary) as file:
        for name, split in splits.items():
            group = file.create_group(name)
            write_columns(group, {"split": split})
            orders = {part: stream_order(split, number, config.seed, name) for number, part in enumerate(SPLITS)}
            write_columns(group.create_group("stream_order"), orders)


def _join_rejects(config: CorpusConfig, out: Path) -> None:
    with atomic_path(out / REJECTS) as temporary, temporary.open("wb") as joined:
        for source in config.sources:
            with rejects_path(out, source.name).open("rb") as part:
                shutil.copyfileobj(part, joined)


def _write_questions(
    config: CorpusConfig, splits: Mapping[str, NDArray[np.uint8]], out: Path
) -> dict[str, dict[str, int]]:
    """Write the questions derived from built-in sources, by split and kind; counts of them, empty without any."""
    texts = _built_in_texts(config, out)
    items: dict[str, list[Any]] = {part: [] for part in SPLITS}
    for name, text in texts.items():
        split_of = dict(zip(_document_ids(out, name), splits[name].tolist(), strict=True))
        documents = [json.loads(line) for line in text.read_text("utf-8").splitlines()]
        for question in derive_questions([d for d in documents if d["id"] in split_of]):
            items[SPLITS[split_of[question["document_ids"][0]]]].append(question)
    if not texts:
        return {}
    for part, found in items.items():
        write_json(out / QUESTIONS / f"{part}.json", found)
    return {part: {k: sum(q["kind"] == k for q in found) for k in ("name", "doctest")} for part, found in items.items()}


def _document_ids(out: Path, source: str) -> list[str]:
    with (out / f"{source}.documents.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line)["id"] for line in lines]
