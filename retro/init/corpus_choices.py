"""How a text is parted into documents, which of them are held out, and how large a vocabulary suits it: arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retro.common.errors import DataError
from retro.init.scan import MOST_READ, SHORT_WORDS, DocumentUnitCounts, ScannedSource

ENOUGH, FEW, FEWEST = 40, 10, 3
"""Documents with which 5 % each are two to validate and two to test; with which a tenth is one; and one for each split.
"""
MOST_HELD_OUT = 50_000
"""Tokens each of validation and test: perplexity reads all of them, for each kind of neighbors."""
CHARACTERS_PER_PIECE = 450
"""The pystdlib run has 4,096 pieces for 1.9 million characters of documents."""
LEAST_VOCABULARY, LARGEST_VOCABULARY = 512, 8192
_LEAST_KEPT = 0.8
"""Share of a text that must be left where short documents are rejected."""
_BYTES = 256
_NAMES = {"file": "each file", "blank_line": "text between blank lines", "line": "each line"}
_AUTO = {
    "jsonl": "each line's object",
    "tsv": "each line of the table",
    "html": "each page",
    "wikitext": "each article below a `= Title =` line",
    "parquet": "each row",
    "arrow": "each row",
}


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One setting of the run, and why it has its value."""

    setting: str
    """Dotted, as on the command line."""
    value: Any
    why: str


@dataclass(frozen=True, kw_only=True)
class SplitSource:
    """A source with the way that its documents are parted."""

    source: ScannedSource
    cut: DocumentUnitCounts
    why: str

    @property
    def setting(self) -> dict[str, Any]:
        """The source as a run's YAML file has it."""
        config = self.source.config
        kept = {"name": config.name, "path": str(config.path)}
        if config.kind != "auto":
            kept["kind"] = config.kind
        if config.text_key != "text":
            kept["text_key"] = config.text_key
        natural = self.source.cuts[0].unit
        return kept if self.cut.unit == natural else kept | {"documents": self.cut.unit}


def choose_document_unit(folder: Path, source: ScannedSource) -> SplitSource:
    """Choose what a document of a source is.

    Raises:
        DataError: However it is parted, there is no document for each of train, valid and test.
    """
    wanted = [(ENOUGH, False), (FEW, True), (FEWEST, True)]
    for least, lines_too in wanted:
        for cut in source.cuts:
            if cut.documents >= least and (lines_too or cut.unit != "line"):
                return SplitSource(source=source, cut=cut, why=_why(source, cut))
    found = "; ".join(f"{_unit(source, cut)} would be a document: {cut.documents}" for cut in source.cuts)
    remedy = "Give more files, or put blank lines between its parts"
    raise DataError(folder, f"has too few documents ({found}); train, valid and test need one each", remedy)


def _unit(source: ScannedSource, cut: DocumentUnitCounts) -> str:
    return _AUTO.get(source.kind, "each document") if cut.unit == "auto" else _NAMES[cut.unit]


def _why(source: ScannedSource, cut: DocumentUnitCounts) -> str:
    measured = "counted" if source.bytes_read < MOST_READ else f"estimated from its first {MOST_READ >> 20} MB"
    natural = source.cuts[0]
    why = f"{_unit(source, cut)} is a document: {cut.documents:,}, {cut.characters:,} characters ({measured})"
    if cut.unit == natural.unit:
        return why
    return (
        f"{why}; as {_unit(source, natural)} is one there would be {natural.documents}, too few to hold some out. "
        "Parts of one text may now be neighbors of each other, and held-out parts lie beside trained ones"
    )


def least_words(parted: Sequence[SplitSource]) -> Choice | None:
    """Set headings and the like aside where texts are parted at lines or blank lines, if little of the text goes."""
    cut_up = [one.cut for one in parted if one.cut.unit in ("blank_line", "line")]
    short = sum(cut.short_documents for cut in cut_up)
    whole = sum(one.cut.characters for one in parted)
    left = sum(one.cut.documents for one in parted) - short
    kept = 1 - sum(cut.short_characters for cut in cut_up) / whole
    if not short or kept < _LEAST_KEPT or left < FEW:
        return None
    why = f"{short:,} documents have fewer words, headings as a rule: {1 - kept:.1%} of the characters"
    return Choice(setting="corpus.min_words", value=SHORT_WORDS, why=why)


def left(parted: Sequence[SplitSource], min_words: Choice | None) -> list[tuple[int, int]]:
    """Documents and characters of each source, without what is rejected."""
    cuts = [one.cut for one in parted]
    if min_words is None:
        return [(cut.documents, cut.characters) for cut in cuts]
    # Whatever parted them: the setting is for all sources.
    return [(cut.documents - cut.short_documents, cut.characters - cut.short_characters) for cut in cuts]


def split(documents: int, tokens: float) -> Choice:
    """Choose the shares of train, valid and test.

    Args:
        documents: Of the largest source, which the shares are of.
        tokens: Of all text.
    """
    share, rule = 0.05, "a twentieth"
    if documents < ENOUGH:
        share, rule = 0.1, "a tenth, since there are few"
    if documents < FEW:
        share, rule = 1 / documents, "one document"
    most = MOST_HELD_OUT / tokens
    if most < share and documents >= FEW:
        share = max(most, min(share, ENOUGH / documents))
        rule = f"as many as have {MOST_HELD_OUT:,} tokens, which is enough to measure perplexity on"
    share = float(f"{share:.3g}")
    held_out = math.floor(share * documents + 0.5)
    why = f"{rule} each to validate and to test: some {held_out:,} of {documents:,} documents"
    return Choice(setting="corpus.split", value=[round(1 - 2 * share, 9), share, share], why=why)


def vocabulary(characters: int, letters: int) -> Choice:
    """Choose the size of the vocabulary.

    Args:
        characters: Of all text.
        letters: Distinct characters in it.
    """
    wanted = 2 ** round(math.log2(max(characters / CHARACTERS_PER_PIECE, 1)))
    size = min(max(wanted, LEAST_VOCABULARY), LARGEST_VOCABULARY)
    why = f"the power of two nearest to one piece for {CHARACTERS_PER_PIECE} characters, as the pystdlib run has it"
    if size != wanted:
        why += f"; at {'least' if size > wanted else 'most'} {size:,}"
    room = 2 ** math.ceil(math.log2(2 * letters + _BYTES))
    if size < room:
        size, why = room, f"its {letters:,} distinct characters want a piece each, and as many again for words"
    return Choice(setting="corpus.tokenizer.vocab_size", value=size, why=why)


def weighted(parted: Sequence[SplitSource]) -> list[dict[str, Any]]:
    """The sources, each drawn from in training as often as it is large."""
    if len(parted) == 1:
        return [parted[0].setting]
    whole = sum(one.cut.characters for one in parted)
    return [one.setting | {"weight": float(f"{one.cut.characters / whole:.3g}")} for one in parted]
