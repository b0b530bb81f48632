"""One source from text to token file: the unit of resuming. Finished when its record stands beside it."""

from __future__ import annotations

import contextlib
import json
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import numpy as np

from retro.common.artifacts import atomic_path, describe_files, fingerprint, read_json, write_json
from retro.common.config import config_json
from retro.common.errors import DataError
from retro.common.progress import Progress
from retro.common.tokenizers import Tokenizer
from retro.corpus.config import CorpusConfig
from retro.corpus.documents import document_line
from retro.corpus.files import Source, megatron_prefix
from retro.corpus.inputs import Identity, first_difference
from retro.corpus.layouts import Document, Item, Reject, read_source
from retro.mcore.token_files import TokenFile, TokenFileWriter, bin_path, idx_path

log = logging.getLogger(__name__)

RECORDS = "sources"
_BATCH_CHARACTERS = 4_000_000
_SCAN_TOKENS = 1 << 24


@dataclass(frozen=True, kw_only=True)
class SourceCounts:
    """What became of one source."""

    documents: int
    tokens: int
    words: int
    """0 for a Megatron source, whose words nobody counted."""
    rejects: dict[str, int]
    """Things set aside, by reason."""


def record_path(out: Path, source: str) -> Path:
    """Where the record of a finished source stands."""
    return out / RECORDS / f"{source}.json"


def rejects_path(out: Path, source: str) -> Path:
    """Where a source's rejects stand."""
    return out / RECORDS / f"{source}.rejects.jsonl"


def source_files(source: str) -> list[str]:
    """The files that a finished source leaves, relative to the stage's directory."""
    return [f"{source}.bin", f"{source}.idx", f"{source}.documents.jsonl", f"{RECORDS}/{source}.rejects.jsonl"]


def make_source(
    config: CorpusConfig, source: Source, inputs: Identity, tokenizer: Tokenizer, out: Path
) -> SourceCounts:
    """Tokenise a source, or take what an earlier run finished from the same input under the same settings.

    Raises:
        DataError: It holds no document, too much of it was set aside, or a file cannot be read.
    """
    settings = {"source": config_json(source.config), "min_words": config.min_words}
    made_from = fingerprint({"inputs": inputs, "settings": settings, "tokenizer": tokenizer.fingerprint})
    finished = _finished(out, source.name, made_from, inputs)
    if finished is not None:
        return finished
    record_path(out, source.name).unlink(missing_ok=True)
    if source.kind == "megatron":
        counts = _link_megatron(source, tokenizer, out)
    else:
        counts = _tokenise(config, source, tokenizer, out)
    _require_enough(config, source, counts, out)
    record = {"made_from": made_from, "inputs": inputs, "counts": asdict(counts)}
    write_json(record_path(out, source.name), record | {"files": describe_files(out, source_files(source.name))})
    return counts


def _finished(out: Path, source: str, made_from: str, inputs: Identity) -> SourceCounts | None:
    path = record_path(out, source)
    if not path.exists():
        return None
    record = read_json(path, "Delete it and run `retro corpus` again")
    names = source_files(source)
    if record["made_from"] != made_from:
        why = first_difference(record["inputs"], inputs) or "made under other settings"
    elif not all((out / name).exists() for name in names):
        why = "a file is missing"
    elif describe_files(out, names) != record["files"]:
        why = "a file's bytes have changed"
    else:
        log.info("corpus: %s is already tokenised", source)
        return SourceCounts(**record["counts"])
    log.warning("corpus: %s is made again: %s", source, why)
    return None


def _tokenise(config: CorpusConfig, source: Source, tokenizer: Tokenizer, out: Path) -> SourceCounts:
    reasons: Counter[str] = Counter()
    words = 0
    with contextlib.ExitStack() as stack:
        names = stack.enter_context(_text_file(out / f"{source.name}.documents.jsonl"))
        rejects = stack.enter_context(_text_file(rejects_path(out, source.name)))
        writer = stack.enter_context(TokenFileWriter(out / source.name, tokenizer.vocab_size))
        for batch in _batches(_items(config, source)):
            documents = [item for item in batch if isinstance(item, Document)]
            for item in batch:
                if isinstance(item, Reject):
                    reasons[item.reason] += 1
                    rejects.write(_reject_line(source.name, item))
            for document, ids in zip(documents, tokenizer.encode_batch([d.text for d in documents]), strict=True):
                writer.add_document([*ids, tokenizer.eod])
                names.write(document_line(document.id, document.title))
                words += document.words
        writer.finish()
    return SourceCounts(
        documents=writer.documents, tokens=writer.tokens, words=words, rejects=dict(sorted(reasons.items()))
    )


@contextlib.contextmanager
def _text_file(path: Path) -> Iterator[IO[str]]:
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as stream:
        yield stream


def _items(config: CorpusConfig, source: Source) -> Iterator[Item]:
    size = sum(file.path.stat().st_size for file in source.files)
    with Progress(size, what=f"corpus: tokenising {source.name}", unit="bytes") as bar:
        yield from read_source(source, config.min_words, bar.advance)


def _batches(items: Iterator[Item]) -> Iterator[list[Item]]:
    """Lists of items with some megabytes of text each: enough work for all cores, little enough for memory."""
    batch: list[Item] = []
    characters = 0
    for item in items:
        batch.append(item)
        characters += len(item.text) if isinstance(item, Document) else len(item.excerpt)
        if characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _reject_line(source: str, reject: Reject) -> str:
    return json.dumps({"source": source} | asdict(reject), ensure_ascii=False) + "\n"


def _require_enough(config: CorpusConfig, source: Source, counts: SourceCounts, out: Path) -> None:
    origin = source.config.path or source.config.built_in or ""
    rejected = sum(counts.rejects.values())
    by_reason = ", ".join(f"{count} {reason}" for reason, count in counts.rejects.items())
    told = f" ({by_reason}; see {rejects_path(out, source.name)})" if rejected else ""
    if counts.documents == 0:
        problem = f"holds no document{told}"
        raise DataError(origin, problem, "Check the source's path, kind and text_key")
    bad = rejected / (rejected + counts.documents)
    if bad > config.max_bad_fraction:
        problem = f"{bad:.1%} of it was set aside{told}, max_bad_fraction allows {config.max_bad_fraction:.1%}"
        raise DataError(origin, problem, "Mend the source, or allow more")
    if rejected:
        log.warning("corpus: %s: %d set aside%s", source.name, rejected, told)


def _link_megatron(source: Source, tokenizer: Tokenizer, out: Path) -> SourceCounts:
    """Take a Megatron corpus as it is: links to its files, because a copy of a terabyte serves nobody."""
    prefix = megatron_prefix(source.files[0].path)
    file = TokenFile(prefix)
    _require_vocabulary(file, tokenizer, source)
    for target, link in (
        (bin_path(prefix), bin_path(out / source.name)),
        (idx_path(prefix), idx_path(out / source.name)),
    ):
        link.unlink(missing_ok=True)
        link.symlink_to(target.resolve())
    with _text_file(out / f"{source.name}.documents.jsonl") as names:
        names.writelines(document_line(f"{source.name}:{number}", "") for number in range(file.documents))
    with _text_file(rejects_path(out, source.name)):
        pass
    return SourceCounts(documents=file.documents, tokens=file.token_count, words=0, rejects={})


def _require_vocabulary(file: TokenFile, tokenizer: Tokenizer, source: Source) -> None:
    pieces = range(0, file.token_count, _SCAN_TOKENS)
    with Progress(len(pieces), what=f"corpus: checking {source.name}", unit="pieces") as bar:
        for start in pieces:
            piece = file.tokens[start : start + _SCAN_TOKENS]
            if int(piece.max()) >= tokenizer.vocab_size or int(piece.min()) < 0:
                problem = f"holds token {int(piece.max())}; the tokenizer has {tokenizer.vocab_size}"
                raise DataError(bin_path(file.prefix), problem, "Give the tokenizer that made this corpus")
            bar.advance()
    ends = file.document_starts[1:][np.diff(file.document_starts) > 0] - 1
    if len(ends) and not np.any(file.tokens[ends] == tokenizer.eod):
        log.warning("corpus: no document of %s ends with token %d (EOD); they simply abut", source.name, tokenizer.eod)
