"""What one worker does once all blocks are there: join them, decide the split, write the manifest."""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from retro.common.artifacts import REPORT, Manifest, describe_files
from retro.common.block_stage import remove_temporary_files
from retro.common.blocks import BlockStore
from retro.common.errors import ArtifactError, DataError
from retro.common.files import atomic_path, write_json, write_plain_json
from retro.common.hdf5 import new_file, write_columns
from retro.common.json_files import parse_json
from retro.common.progress import Progress, progress
from retro.corpus.block_offsets import write_block_offsets
from retro.corpus.config import CorpusConfig
from retro.corpus.document_names import document_line
from retro.corpus.files import Source, megatron_prefix
from retro.corpus.manifest import (
    QUESTIONS,
    RECORDS,
    REJECTS,
    TOKENIZER,
    Checksums,
    Identity,
    SourceCounts,
    SourceRecord,
    built_in_text,
    finished_source,
    made_from,
    manifest_counts,
    names_path,
    record_path,
    rejects_path,
    report,
    split_counts,
    tokenizer_counts,
    write_record,
)
from retro.corpus.questions import derive_questions
from retro.corpus.reader import DOCUMENTS_FILE, SPLITS, STAGE
from retro.corpus.rejects import require_enough
from retro.corpus.split import require_documents_in_splits, split_source, stream_orders
from retro.corpus.token_files import TokenFile, TokenFileWriter, bin_path, idx_path
from retro.corpus.tokenize import TokenWork, reasons_of
from retro.corpus.train_tokenizer import is_prepared, tokenizer_origin
from retro.tokenizers.tokenizer import Tokenizer, tokenizer_files

log = logging.getLogger(__name__)

_SCAN_TOKENS = 1 << 24


def join_blocks(store: BlockStore, numbers: range, source: str, vocab_size: int, out: Path) -> None:
    """Write the files of a source from its blocks, in their order.

    Args:
        store: Finished blocks.
        numbers: Those of the source.
        source: Its name.
        vocab_size: Decides the type of a stored token.
        out: The stage's directory.

    Raises:
        ArtifactError: A block is missing or damaged, or the disk is full.
    """
    with contextlib.ExitStack() as stack:
        names = stack.enter_context(_new_file(names_path(out, source)))
        rejects = stack.enter_context(_new_file(rejects_path(out, source)))
        writer = stack.enter_context(TokenFileWriter(out / source, vocab_size))
        for number in progress(numbers, total=len(numbers), what=f"corpus: joining {source}", unit="blocks"):
            arrays = store.take(number).arrays
            writer.add_documents(arrays["tokens"][0], arrays["lengths"][0])
            names.write(arrays["names"].tobytes())
            rejects.write(arrays["rejects"].tobytes())
        writer.finish()


def counts_of(blocks: Iterable[dict[str, int]]) -> SourceCounts:
    """What became of a source, from the counts of its blocks."""
    totals: Counter[str] = Counter()
    for counts in blocks:
        totals.update(counts)
    return SourceCounts(
        documents=totals["documents"],
        tokens=totals["tokens"],
        words=totals["words"],
        rejects=dict(sorted(reasons_of(totals).items())),
    )


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[BinaryIO]:
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        yield stream


def link_megatron(source: Source, tokenizer: Tokenizer, out: Path) -> SourceCounts:
    """Take a Megatron corpus as it is: links to its files, because a copy of a terabyte serves nobody.

    Raises:
        DataError: It holds tokens that the tokenizer does not have.
    """
    prefix = megatron_prefix(source.files[0].path)
    file = TokenFile(prefix)
    _require_vocabulary(file, tokenizer, source)
    for target, link in (
        (bin_path(prefix), bin_path(out / source.name)),
        (idx_path(prefix), idx_path(out / source.name)),
    ):
        link.unlink(missing_ok=True)
        link.symlink_to(target.resolve())
    with _new_file(names_path(out, source.name)) as names:
        names.writelines(document_line(f"{source.name}:{number}", "").encode() for number in range(file.documents))
    with _new_file(rejects_path(out, source.name)):
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
        log.warning(
            "corpus: no document of %s ends with token %d (EOD); nothing separates them", source.name, tokenizer.eod
        )


Splits = Mapping[str, NDArray[np.uint8]]


@dataclass(frozen=True, kw_only=True)
class Finalizer:
    """All that the last steps need; call it."""

    config: CorpusConfig
    out: Path
    sources: Sequence[Source]
    inputs: Mapping[str, Identity]
    tokenizer: Tokenizer
    work: TokenWork
    known: Mapping[str, SourceRecord]
    """Sources found finished at the start."""
    sampled: frozenset[str]
    """Sources whose rejects were reported already, when this process learned the tokenizer."""
    checksums: Checksums
    started: float
    """Reading of the monotonic clock, in seconds."""

    def __call__(self) -> Manifest:
        """Write everything but the manifest, and give it.

        Raises:
            DataError: A source has no document, or too much of it was rejected.
            ConfigError: A split has no document.
            ArtifactError: A block is damaged, or the disk is full.
        """
        config, out = self.config, self.out
        for folder in (out, out / RECORDS, out / TOKENIZER, out / QUESTIONS):
            remove_temporary_files(folder)
        records = {source.name: self._record(number, source) for number, source in enumerate(self.sources)}
        made = {name: record.counts for name, record in records.items()}
        splits = {name: split_source(config, name, counts.documents) for name, counts in made.items()}
        require_documents_in_splits(splits, config)
        _write_documents(config, splits, out / DOCUMENTS_FILE)
        _join_rejects(config, out)
        questions = _write_questions(config, splits, out)
        manifest = self._manifest(records, splits, questions)
        # After the checksums were taken: damage before them would be described, damage after them is found.
        if not is_prepared(tokenizer_origin(config, self.inputs), out / TOKENIZER):
            problem = "has changed bytes since it was made"
            raise ArtifactError(out / TOKENIZER, problem, "Run `retro corpus` again; it is made again")
        self._report(made, questions)
        return manifest

    def _record(self, number: int, source: Source) -> SourceRecord:
        """The record of a source, which is joined now unless that was done."""
        inputs = self.inputs[source.name]
        origin = made_from(self.config, source, inputs, self.tokenizer)
        known = self.known.get(source.name) or finished_source(self.out, source.name, origin, inputs)
        if known is not None:
            return known
        record_path(self.out, source.name).unlink(missing_ok=True)
        counts = self._join(number, source)
        reported = require_enough(self.config, source, counts.documents, counts.rejects, self.out)
        if reported and source.name not in self.sampled:
            log.warning("corpus: %s", reported)
        return write_record(self.out, source.name, origin, inputs, counts)

    def _join(self, number: int, source: Source) -> SourceCounts:
        if source.kind == "megatron":
            return link_megatron(source, self.tokenizer, self.out)
        numbers = self.work.of_source(number)
        join_blocks(self.work.store, numbers, source.name, self.tokenizer.vocab_size, self.out)
        return counts_of(self.work.store.counts(block) for block in numbers)

    def _manifest(self, records: Mapping[str, SourceRecord], splits: Splits, questions: Mapping[str, Any]) -> Manifest:
        config, out = self.config, self.out
        made = {name: record.counts for name, record in records.items()}
        counts = manifest_counts(made, self.inputs, built_in_texts(config, out)) | {
            "split": split_counts(splits, out),
            "questions": questions,
            "tokenizer": tokenizer_counts(self.tokenizer),
        }
        files = describe_files(out, _other_files(config, questions, out))
        for record in records.values():
            files |= record.files
        return Manifest(
            stage=STAGE, config=config.shaping, parents={}, counts=counts, files=dict(sorted(files.items()))
        )

    def _report(self, made: Mapping[str, SourceCounts], questions: Mapping[str, Any]) -> None:
        summary = report(made, questions, time.monotonic() - self.started)
        extents = write_block_offsets(self.work, self.sources, self.config.block_bytes)
        write_json(self.out / REPORT, asdict(summary) | {"checksums": self.checksums, "blocks": extents})
        log.info("corpus: %s", summary.line)


def built_in_texts(config: CorpusConfig, out: Path) -> dict[str, Path]:
    """The texts of built-in sources, by source."""
    return {s.name: built_in_text(out, s.name) for s in config.sources if s.built_in is not None}


def _other_files(config: CorpusConfig, questions: Mapping[str, object], out: Path) -> list[str]:
    """Files of the artifact that no source's record describes."""
    names = [f"{RECORDS}/{source.name}.json" for source in config.sources]
    names += [DOCUMENTS_FILE, REJECTS, *(f"{QUESTIONS}/{part}.json" for part in questions)]
    return [*names, *(f"{TOKENIZER}/{file.name}" for file in tokenizer_files(out / TOKENIZER))]


def _write_documents(config: CorpusConfig, splits: Splits, path: Path) -> None:
    with atomic_path(path) as temporary, new_file(temporary) as file:
        for name, split in splits.items():
            group = file.create_group(name)
            write_columns(group, {"split": split})
            orders = stream_orders(split, len(SPLITS), config.seed, name)
            write_columns(group.create_group("stream_order"), dict(zip(SPLITS, orders, strict=True)))


def _join_rejects(config: CorpusConfig, out: Path) -> None:
    with atomic_path(out / REJECTS) as temporary, temporary.open("wb") as joined:
        for source in config.sources:
            with rejects_path(out, source.name).open("rb") as part:
                shutil.copyfileobj(part, joined)


def _write_questions(config: CorpusConfig, splits: Splits, out: Path) -> dict[str, dict[str, int]]:
    """Write the questions derived from built-in sources, by split and kind; counts of them, empty without any."""
    texts = built_in_texts(config, out)
    items: dict[str, list[Any]] = {part: [] for part in SPLITS}
    for name, text in texts.items():
        split_of = dict(zip(_document_ids(out, name), splits[name].tolist(), strict=True))
        documents = [parse_json(line) for line in text.read_text("utf-8").splitlines()]
        for question in derive_questions([d for d in documents if d["id"] in split_of]):
            items[SPLITS[split_of[question["document_ids"][0]]]].append(question)
    if not texts:
        return {}
    for part, found in items.items():
        write_plain_json(out / QUESTIONS / f"{part}.json", found)
    return {part: {k: sum(q["kind"] == k for q in found) for k in ("name", "doctest")} for part, found in items.items()}


def _document_ids(out: Path, source: str) -> list[str]:
    with names_path(out, source).open(encoding="utf-8") as lines:
        return [parse_json(line)["id"] for line in lines]
