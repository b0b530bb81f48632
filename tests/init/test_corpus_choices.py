"""Documents, split and vocabulary by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from retro.common.errors import DataError
from retro.corpus.config import CorpusConfig, DocumentUnit, SourceConfig
from retro.corpus.split import require_documents_in_splits, split_documents
from retro.init.corpus_choices import SplitSource, choose_document_unit, least_words, left, split, vocabulary, weighted
from retro.init.scan import DocumentUnitCounts, ScannedSource


def cut(
    unit: DocumentUnit, documents: int, *, characters: int = 10_000, short: int = 0, gone: int = 0
) -> DocumentUnitCounts:
    return DocumentUnitCounts(
        unit=unit, documents=documents, characters=characters, short_documents=short,
        short_characters=gone,
    )  # fmt: skip


def source(*cuts: DocumentUnitCounts, kind: str = "folder", name: str = "a") -> ScannedSource:
    config = SourceConfig(name=name, path=Path(name))
    return ScannedSource(config=config, kind=kind, bytes_read=10_000, cuts=cuts, sample=("text",))


def chosen(*cuts: DocumentUnitCounts, kind: str = "folder") -> SplitSource:
    return choose_document_unit(Path("a"), source(*cuts, kind=kind))


def test_each_file_is_a_document_where_there_are_enough() -> None:
    found = chosen(cut("file", 40), cut("blank_line", 900), cut("line", 2000))
    assert found.setting == {"name": "a", "path": "a"}
    assert found.why == "each file is a document: 40, 10,000 characters (counted)"


def test_few_long_files_are_parted_at_blank_lines_and_the_reason_says_what_that_costs() -> None:
    found = chosen(cut("file", 5), cut("blank_line", 900), cut("line", 2000))
    assert found.setting == {"name": "a", "path": "a", "documents": "blank_line"}
    assert "as each file is one there would be 5, too few to hold some out" in found.why
    assert "neighbors of each other" in found.why


@pytest.mark.parametrize(
    ("counts", "unit"),
    [((12, 12, 70), "file"), ((1, 1, 70), "line"), ((5, 5, 5), "file"), ((1, 2, 9), "line"), ((12, 39, 80), "file")],
)
def test_lines_are_the_last_resort(counts: tuple[int, int, int], unit: str) -> None:
    units: tuple[DocumentUnit, ...] = ("file", "blank_line", "line")
    assert chosen(*(cut(one, count) for one, count in zip(units, counts, strict=True))).cut.unit == unit


def test_too_few_documents_however_parted_are_an_error_with_the_counts() -> None:
    with pytest.raises(DataError) as caught:
        chosen(cut("blank_line", 1), cut("line", 2), kind="text")
    assert str(caught.value) == (
        "a: has too few documents (text between blank lines would be a document: 1; each line would be a "
        "document: 2); train, valid and test need one each. Give more files, or put blank lines between its parts"
    )


def test_headings_are_set_aside_unless_much_of_the_text_would_go() -> None:
    parted = [chosen(cut("file", 5), cut("blank_line", 900, short=300, gone=500))]
    choice = least_words(parted)
    assert choice is not None
    assert (choice.setting, choice.value) == ("corpus.min_words", 5)
    assert "300 documents have fewer words, headings as a rule: 5.0% of the characters" in choice.why
    assert left(parted, choice) == [(600, 9_500)]
    assert left(parted, None) == [(900, 10_000)]
    assert least_words([chosen(cut("file", 5), cut("blank_line", 900, short=300, gone=2_001))]) is None
    assert least_words([chosen(cut("file", 900, short=300, gone=10))]) is None


@pytest.mark.parametrize(
    ("documents", "tokens", "shares"),
    [
        (1000, 100_000, [0.9, 0.05, 0.05]),
        (20, 100_000, [0.8, 0.1, 0.1]),
        (3, 100_000, [0.334, 0.333, 0.333]),
        (5, 100_000, [0.6, 0.2, 0.2]),
        (100_000, 10e6, [0.99, 0.005, 0.005]),
        (1000, 100e6, [0.92, 0.04, 0.04]),
    ],
)
def test_the_split_is_by_documents_and_by_tokens(documents: int, tokens: float, shares: list[float]) -> None:
    assert split(documents, tokens).value == shares


@pytest.mark.parametrize("documents", [*range(3, 120), 1_000, 54_321])
@pytest.mark.parametrize("tokens", [1e3, 1e6, 1e9])
def test_each_split_has_a_document_whatever_the_number(documents: int, tokens: float) -> None:
    train, valid, test = split(documents, tokens).value
    assert train + valid + test == pytest.approx(1, abs=1e-9)
    drawn = split_documents(documents, (train, valid, test), 1234, "a")
    config = CorpusConfig(sources=(SourceConfig(name="a", path=Path("a")),), split=(train, valid, test))
    require_documents_in_splits({"a": drawn}, config)


@pytest.mark.parametrize(
    ("characters", "letters", "size"),
    [(1_900_000, 90, 4096), (10_000, 60, 512), (900_000_000, 90, 8192), (400_000, 3_000, 8192), (400_000, 60, 1024)],
)
def test_the_vocabulary_suits_the_text(characters: int, letters: int, size: int) -> None:
    choice = vocabulary(characters, letters)
    assert choice.value == size
    assert ("distinct characters" in choice.why) == (letters == 3_000)


def test_sources_are_drawn_from_as_they_are_large() -> None:
    one, other = (
        choose_document_unit(Path("a"), source(cut("file", 50, characters=size), name=name))
        for name, size in (("a", 30_000), ("b", 10_000))
    )
    assert [entry["weight"] for entry in weighted([one, other])] == [0.75, 0.25]
    assert weighted([one]) == [{"name": "a", "path": "a"}]
