"""Where things are in the corpus stage's directory, what a finished source records, and what the manifest counts."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retro.common.artifacts import describe_files, fingerprint
from retro.common.config import config_json
from retro.common.errors import ArtifactError, DataError
from retro.common.files import read_json, read_kept_json, sha256_file, write_json
from retro.common.progress import Progress
from retro.corpus.config import CorpusConfig
from retro.corpus.files import Source
from retro.corpus.folder import printable
from retro.corpus.pystdlib import origin_path
from retro.corpus.reader import SPLITS
from retro.corpus.token_files import TokenFile
from retro.tokenizers.tokenizer import Tokenizer

Checksums = dict[str, str]
Identity = list[dict[str, Any]]
"""`{"name", "bytes", "sha256"}` of each file, in reading order."""


def identify(source: Source, remembered: Checksums) -> Identity:
    """Name, size and SHA-256 of each input file.

    Args:
        source: Whose files.
        remembered: Checksums by stamp, so that a terabyte is read once and not at every start; new ones are added.
    """
    found: Identity = []
    with Progress(len(source.files), what=f"corpus: checksums of {source.name}", unit="files") as bar:
        for file in source.files:
            stamp, size = stamp_of(file.path)
            if stamp not in remembered:
                remembered[stamp] = sha256_file(file.path)
            found.append({"name": file.name, "bytes": size, "sha256": remembered[stamp]})
            bar.advance()
    return found


def stamp_of(path: Path) -> tuple[str, int]:
    """What changes when a file is written to or replaced; and its size in bytes.

    Raises:
        DataError: It is there no more.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(path, f"cannot be read ({error.strerror})", "Check the file and its permissions") from None
    # The inode stands for the file that a link leads to: of many small files, following links took most of the time.
    return f"{printable(str(path.absolute()))} {status.st_size} {status.st_mtime_ns} {status.st_ino}", status.st_size


def require_unchanged(artifact: Path, source: str, made_from: Identity, now: Identity) -> None:
    """Raise ArtifactError when a finished corpus was made from other input; the first difference is named."""
    difference = first_difference(made_from, now)
    if difference:
        raise ArtifactError(
            artifact,
            f"source {source!r} was made from other input: {difference}",
            "Put the old input back, or add --redo to run `retro corpus` and what follows it again",
        )


def first_difference(before: Identity, now: Identity) -> str:
    """Which file changed, came or went, in words; empty when none did."""
    old, new = _by_name(before), _by_name(now)
    for name in sorted(set(old) | set(new)):
        was, is_ = old.get(name), new.get(name)
        if was is None:
            return f"{name} is new"
        if is_ is None:
            return f"{name} is gone"
        if was != is_:
            return f"{name} had {_shape(was)}, now {_shape(is_)}"
    return ""


def _by_name(identity: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    return {str(entry["name"]): entry for entry in identity}


def _shape(entry: Mapping[str, Any]) -> str:
    return f"{entry['bytes']} bytes (SHA-256 {entry['sha256'][:12]}…)"


BLOCKS = "blocks"
"""Scanned and tokenized blocks; gone once the stage is complete."""
RECORDS = "sources"
"""For each source, what it was made from and what was rejected."""
QUESTIONS = "qa"
TOKENIZER = "tokenizer"
REJECTS = "rejects.jsonl"


def record_path(out: Path, source: str) -> Path:
    """The record of a finished source."""
    return out / RECORDS / f"{source}.json"


def names_path(out: Path, source: str) -> Path:
    """Ids and titles of a source's documents."""
    return out / f"{source}.documents.jsonl"


def rejects_path(out: Path, source: str) -> Path:
    """A source's rejects."""
    return out / RECORDS / f"{source}.rejects.jsonl"


def built_in_text(out: Path, source: str) -> Path:
    """The text of a built-in source."""
    return out / RECORDS / f"{source}.text.jsonl"


def source_files(source: str) -> list[str]:
    """The files that a finished source leaves, relative to the stage's directory."""
    return [f"{source}.bin", f"{source}.idx", f"{source}.documents.jsonl", f"{RECORDS}/{source}.rejects.jsonl"]


log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SourceCounts:
    """What became of one source."""

    documents: int
    tokens: int
    words: int
    """0 for a Megatron source, whose words nobody counted."""
    rejects: dict[str, int]
    """Things rejected, by reason."""


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
    """The record of a source whose files are whole and were made from `origin`, else None; the log says why."""
    record = read_kept_json(record_path(out, source), f"{source} is made again")
    if record is None:
        return None
    names = source_files(source)
    if record["made_from"] != origin:
        why = first_difference(record["inputs"], inputs) or "made under other settings"
    elif not all((out / name).exists() for name in names):
        why = "a file is missing"
    elif describe_files(out, names) != record["files"]:
        why = "a file's bytes have changed"
    else:
        log.info("corpus: %s is already tokenized", source)
        return SourceRecord(counts=SourceCounts(**record["counts"]), files=record["files"])
    log.warning("corpus: %s is made again: %s", source, why)
    return None


def write_record(out: Path, source: str, origin: str, inputs: Identity, counts: SourceCounts) -> SourceRecord:
    """Describe the files of a source that was just made; written last of all it leaves."""
    files = describe_files(out, source_files(source))
    described = {"made_from": origin, "inputs": inputs, "counts": asdict(counts), "files": files}
    write_json(record_path(out, source), described)
    return SourceRecord(counts=counts, files=files)


QuestionCounts = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, kw_only=True)
class CorpusReport:
    """What the stage did, for people: logged, and saved as report.json."""

    documents: int
    tokens: int
    words: int
    rejects: dict[str, int]
    """Set aside, by reason."""
    questions: int
    seconds: float
    """Of this run; a resumed run did not do everything."""

    @property
    def line(self) -> str:
        """What it did, in a sentence."""
        rejects = ", ".join(f"{count:,} {reason}" for reason, count in self.rejects.items() if count)
        aside = f"; rejected: {rejects}" if rejects else ""
        questions = f"; {self.questions:,} questions" if self.questions else ""
        return f"{self.documents:,} documents, {self.words:,} words, {self.tokens:,} tokens{aside}{questions}"


def manifest_counts(
    sources: Mapping[str, SourceCounts], inputs: Mapping[str, Identity], texts: Mapping[str, Path]
) -> dict[str, Any]:
    """Counts of each source and of all together, with what they were made from.

    Args:
        sources: Counts by source.
        inputs: Input files by source; shortened here, because the source's record lists every file.
        texts: The text files of built-in sources; the interpreter that wrote them is recorded.
    """
    described: dict[str, Any] = {}
    for name, counts in sources.items():
        size = sum(entry["bytes"] for entry in inputs[name])
        short = {"files": len(inputs[name]), "bytes": size, "fingerprint": fingerprint(inputs[name])}
        described[name] = asdict(counts) | {"inputs": short}
        if name in texts:
            origin = read_json(origin_path(texts[name]), "Run `retro corpus` again")
            described[name] |= {"interpreter": origin["interpreter"], "text_sha256": origin["sha256"]}
    return {
        "sources": described,
        "documents": sum(counts.documents for counts in sources.values()),
        "tokens": sum(counts.tokens for counts in sources.values()),
    }


def split_counts(splits: Mapping[str, NDArray[np.uint8]], out: Path) -> dict[str, dict[str, int]]:
    """Documents and tokens of each split, all sources together."""
    counts = {part: {"documents": 0, "tokens": 0} for part in SPLITS}
    for name, split in splits.items():
        lengths = np.diff(TokenFile(out / name).document_starts)
        for number, part in enumerate(SPLITS):
            counts[part]["documents"] += int(np.sum(split == number))
            counts[part]["tokens"] += int(lengths[split == number].sum())
    return counts


def tokenizer_counts(tokenizer: Tokenizer) -> dict[str, Any]:
    """The tokenizer's name and sizes."""
    return {"fingerprint": tokenizer.fingerprint, "vocab_size": tokenizer.vocab_size, "eod": tokenizer.eod}


def report(sources: Mapping[str, SourceCounts], questions: QuestionCounts, seconds: float) -> CorpusReport:
    """All sources in one."""
    rejects: Counter[str] = Counter()
    for counts in sources.values():
        rejects.update(counts.rejects)
    return CorpusReport(
        documents=sum(counts.documents for counts in sources.values()),
        tokens=sum(counts.tokens for counts in sources.values()),
        words=sum(counts.words for counts in sources.values()),
        rejects=dict(sorted(rejects.items())),
        questions=sum(sum(kinds.values()) for kinds in questions.values()),
        seconds=round(seconds, 3),
    )
