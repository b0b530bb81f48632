"""What a finished source leaves: its files, and the record that says they are whole."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from retro.common.artifacts import describe_files, fingerprint
from retro.common.config import config_json
from retro.common.files import read_json, write_json
from retro.corpus.config import CorpusConfig
from retro.corpus.files import Source
from retro.corpus.inputs import Identity, first_difference
from retro.corpus.places import record_path, source_files
from retro.tokenizers.tokenizer import Tokenizer

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SourceCounts:
    """What became of one source."""

    documents: int
    tokens: int
    words: int
    """0 for a Megatron source, whose words nobody counted."""
    rejects: dict[str, int]
    """Things set aside, by reason."""


@dataclass(frozen=True, kw_only=True)
class SourceRecord:
    """A finished source."""

    counts: SourceCounts
    files: dict[str, dict[str, Any]]
    """Size and SHA-256 of each of its files."""


def made_from(config: CorpusConfig, source: Source, inputs: Identity, tokenizer: Tokenizer) -> str:
    """Fingerprint of all that shapes a source's files."""
    settings = {"source": config_json(source.config), "min_words": config.min_words}
    return fingerprint({"inputs": inputs, "settings": settings, "tokenizer": tokenizer.fingerprint})


def finished_source(out: Path, source: str, origin: str, inputs: Identity) -> SourceRecord | None:
    """The record of a source whose files are whole and were made from `origin`, else None; the log says why.

    Raises:
        ArtifactError: The record cannot be read.
    """
    path = record_path(out, source)
    if not path.exists():
        return None
    record = read_json(path, "Delete it and run `retro corpus` again")
    names = source_files(source)
    if record["made_from"] != origin:
        why = first_difference(record["inputs"], inputs) or "made under other settings"
    elif not all((out / name).exists() for name in names):
        why = "a file is missing"
    elif describe_files(out, names) != record["files"]:
        why = "a file's bytes have changed"
    else:
        log.info("corpus: %s is already tokenised", source)
        return SourceRecord(counts=SourceCounts(**record["counts"]), files=record["files"])
    log.warning("corpus: %s is made again: %s", source, why)
    return None


def write_record(out: Path, source: str, origin: str, inputs: Identity, counts: SourceCounts) -> SourceRecord:
    """Describe the files of a source that was just made; written last of all it leaves."""
    files = describe_files(out, source_files(source))
    described = {"made_from": origin, "inputs": inputs, "counts": asdict(counts), "files": files}
    write_json(record_path(out, source), described)
    return SourceRecord(counts=counts, files=files)
