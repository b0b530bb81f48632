"""What is in a folder of text: its sources, and how many documents each way to part them would make.

Everything is read by the corpus stage's own reader, so what is counted here is what that stage will find.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from retro.common.errors import DataError
from retro.corpus.config import DocumentUnit, SourceConfig
from retro.corpus.diagnosis import diagnose, text_key_of
from retro.corpus.files import Source, resolve, sources_of
from retro.corpus.layouts import Document, read_source

MOST_READ = 1 << 25
"""Bytes of a source that are looked at; what is behind them is taken to be like them."""
SHORT_WORDS = 5
"""Documents with fewer words are headings and the like, where lines or blank lines part a text."""
_SAMPLE_CHARACTERS = 2_000_000
_UNITS: dict[str, tuple[DocumentUnit, ...]] = {"folder": ("file", "blank_line", "line"), "text": ("blank_line", "line")}


@dataclass(frozen=True, kw_only=True)
class DocumentUnitCounts:
    """A source parted into documents in one way. Of a source that was read in part, the counts are estimates."""

    unit: DocumentUnit
    documents: int
    characters: int
    short_documents: int
    """Of them, those with fewer than SHORT_WORDS words."""
    short_characters: int


@dataclass(frozen=True, kw_only=True)
class ScannedSource:
    """One source, with the ways to part it, the most natural one first."""

    config: SourceConfig
    kind: str
    bytes_read: int
    """How many bytes of its files were looked at."""
    cuts: tuple[DocumentUnitCounts, ...]
    sample: tuple[str, ...]
    """Texts from its beginning, for the tokenizer."""


def scan(folder: Path) -> list[ScannedSource]:
    """Look at somebody's text.

    Args:
        folder: A folder of files, or one file.

    Raises:
        DataError: There is nothing, nothing in it can be read, or no document is found.
    """
    return [_scan(config.model_copy(update={"path": folder})) for config in sources_of(folder)]


def _scan(config: SourceConfig) -> ScannedSource:
    path = _path(config)
    found = resolve(config, path)
    if found.kind == "megatron":
        remedy = "Write its YAML by hand: it needs corpus.tokenizer.path, which a file of tokens does not name"
        raise DataError(path, "holds tokens, not text", remedy)
    config = config.model_copy(update={"text_key": text_key_of(found)})
    source = Source(config=config, kind=found.kind, files=found.files)
    total = sum(file.path.stat().st_size for file in source.files)
    units: tuple[DocumentUnit, ...] = _UNITS.get(source.kind, ("auto",))
    readings = [_Reading(source, unit, total) for unit in units]
    cuts = tuple(reading.count() for reading in readings)
    if not any(cut.documents for cut in cuts):
        raise _nothing(source, readings[0])
    return ScannedSource(
        config=config,
        kind=source.kind,
        bytes_read=min(readings[0].read, total),
        cuts=cuts,
        sample=tuple(readings[0].sample),
    )


class _Reading:
    """One pass over the beginning of a source.

    Attributes:
        read: Bytes that were read.
        reasons: Things that are not documents, by reason.
        sample: Texts from the beginning.
    """

    def __init__(self, source: Source, unit: DocumentUnit, total: int) -> None:
        config = source.config.model_copy(update={"documents": unit})
        self._source = Source(config=config, kind=source.kind, files=source.files)
        self._unit, self._total = unit, total
        self.read, self.reasons, self.sample = 0, dict[str, int](), list[str]()
        self.first_file = ""

    def count(self) -> DocumentUnitCounts:
        """Count the documents."""
        documents = characters = short = short_characters = 0
        for document in self._documents():
            size = len(document.text)
            documents, characters = documents + 1, characters + size
            if document.words < SHORT_WORDS:
                short, short_characters = short + 1, short_characters + size
        more = max(self._total / self.read, 1.0) if self.read >= MOST_READ else 1.0
        return DocumentUnitCounts(
            unit=self._unit,
            documents=round(documents * more),
            characters=round(characters * more),
            short_documents=round(short * more),
            short_characters=round(short_characters * more),
        )

    def _documents(self) -> Iterator[Document]:
        left = _SAMPLE_CHARACTERS
        for item in read_source(self._source, 1, self._advance):
            if isinstance(item, Document):
                if left > 0:
                    self.sample.append(item.text[:left])
                    left -= len(item.text)
                yield item
            else:
                self.first_file = self.first_file or item.file
                self.reasons[item.reason] = self.reasons.get(item.reason, 0) + 1
            if self.read >= MOST_READ:
                return

    def _advance(self, count: int) -> None:
        self.read += count


def _nothing(source: Source, reading: _Reading) -> DataError:
    """The error for a source without a document, with the likeliest reason."""
    reported = (
        ", ".join(f"{count} {reason}" for reason, count in sorted(reading.reasons.items())) or "its files are empty"
    )
    file = next((file for file in source.files if file.name == reading.first_file), None)
    guess = None if file is None else diagnose(source, file, reading.reasons)
    problem = f"holds no document ({reported})" + (f": {guess.problem}" if guess else "")
    return DataError(_path(source.config), problem, guess.remedy if guess else "Give a folder with text in it")


def _path(config: SourceConfig) -> Path:
    if config.path is None:
        raise ValueError(f"the source {config.name!r} is not a file of a user's")
    return config.path
