"""What a question's documents and positives are, over all its pairs, and what of a corpus is held out.

A passage is of a document if this is named by what the passage says it is from, by its id, by the id of what it was cut
from, or by its title: pairs of Natural Questions, DPR and HotpotQA name documents by title, segments by id.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from retro.recipes.dense_retriever.data.pair_split import Split
from retro.recipes.dense_retriever.data.segments import document_of_segment
from retro.recipes.dense_retriever.pairs import Pair, PairPassage, question_key, text_key
from retro.recipes.dense_retriever.trigrams import trigrams


def names_of(identifier: str, title: str, document: str = "") -> Iterator[str]:
    """The names that the document of a passage may have: as it says, its own id, that of what it was cut from, its
    title."""
    yield from (name for name in (document, identifier, document_of_segment(identifier), title) if name)


def document_among(identifier: str, title: str, documents: Container[str], *, document: str = "") -> str | None:
    """Which of some documents a passage is of; None: of none.

    Args:
        identifier: Of the passage.
        title: Of the passage, or empty.
        documents: Names of documents.
        document: What the passage says it was cut from, or empty.
    """
    return next((name for name in names_of(identifier, title, document) if name in documents), None)


@dataclass(frozen=True)
class Positives:
    """All positives of a question."""

    documents: frozenset[str]
    """Their documents, by their names and by the ids of the positives."""
    titles: frozenset[str]
    texts: tuple[str, ...]
    answers: tuple[str, ...] = ()
    """Short answers."""

    @classmethod
    def of(cls, pairs: Iterable[Pair]) -> Positives:
        """Of the pairs of one question."""
        documents, titles = set[str](), set[str]()
        texts, answers = dict[str, None](), dict[str, None]()
        for pair in pairs:
            documents.add(pair.document)
            answers |= dict.fromkeys(pair.answers)
            for one in (pair.positive, *pair.other_positives):
                documents.update(names_of(one.id, "", one.document))
                titles |= {one.title} - {""}
                texts[one.text.strip()] = None
        return cls(frozenset(documents), frozenset(titles), tuple(texts), tuple(answers))

    @cached_property
    def names(self) -> frozenset[str]:
        """Documents and titles."""
        return self.documents | self.titles

    def has(self, passage: PairPassage) -> bool:
        """Whether a passage is one of them, or of one of their documents."""
        named = document_among(passage.id, passage.title, self.documents, document=passage.document)
        return named is not None or text_key(passage.text) in map(text_key, self.texts)

    @cached_property
    def trigrams(self) -> list[frozenset[tuple[str, ...]]]:
        """Those of each text."""
        return [trigrams(one) for one in self.texts]


def positives_of(pairs: Sequence[Pair]) -> list[Positives]:
    """For each pair the positives of its question; pairs of one question share them."""
    keys = [question_key(one.question) for one in pairs]
    grouped: dict[str, list[Pair]] = {}
    for key, one in zip(keys, pairs, strict=True):
        grouped.setdefault(key, []).append(one)
    found = {key: Positives.of(some) for key, some in grouped.items()}
    return [found[key] for key in keys]


@dataclass(frozen=True)
class HeldOut:
    """What training must not see: the held-out side of the split by document, and the held-out positives."""

    split: Split
    documents: frozenset[str]
    texts: frozenset[str]

    @classmethod
    def of(cls, valid: Sequence[Pair], split: Split) -> HeldOut:
        """By the held-out pairs."""
        return cls(
            split, frozenset(one.document for one in valid), frozenset(text_key(one.positive.text) for one in valid)
        )

    def has(self, identifier: str, title: str, text: str) -> bool:
        """Whether a passage is held out."""
        if document_among(identifier, title, self.documents) is not None or text_key(text) in self.texts:
            return True
        names = {name for name in (document_of_segment(identifier), title) if name}
        return any(self.split.part(name) == "valid" for name in names)
