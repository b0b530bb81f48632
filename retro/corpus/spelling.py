"""Whether a tokenizer file can encode the text: what of a sample comes back after encoding and decoding."""

from __future__ import annotations

import logging
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from retro.common.errors import ConfigError, DataError
from retro.corpus.config import CorpusConfig
from retro.corpus.files import Source
from retro.corpus.layouts import Document, read_source
from retro.tokenizers.tokenizer import Tokenizer

log = logging.getLogger(__name__)

_DOCUMENTS, _CHARACTERS = 200, 5_000
"""Of each source: how many documents from its beginning, and how much of each."""


@dataclass(frozen=True)
class Spelling:
    """What a tokenizer makes of a sample."""

    characters: int
    """Letters, digits and signs in it."""
    lost: Counter[str]
    """How often each of them did not come back."""

    @property
    def lost_fraction(self) -> float:
        """Share that did not come back."""
        return self.lost.total() / max(self.characters, 1)


def require_spelling(config: CorpusConfig, sources: Sequence[Source], tokenizer: Tokenizer, file: Path) -> None:
    """Check on the beginning of each source that a tokenizer can spell it.

    Raises:
        DataError: It has no tokens for a document.
        ConfigError: More of the sample is lost than `max_lost_fraction`.
    """
    texts = [source for source in sources if source.kind != "megatron"]
    found = spelling(tokenizer, (document for source in texts for document in _beginning(config, source)), file)
    if not found.lost:
        return
    most = ", ".join(repr(character) for character, _ in found.lost.most_common(12))
    reported = (
        f"{found.lost.total():,} of {found.characters:,} characters of a sample do not come back, {most} most often"
    )
    if found.lost_fraction > config.tokenizer.max_lost_fraction:
        need = f"needs a tokenizer that can encode the text: with {file}, {reported}"
        raise ConfigError("corpus.tokenizer.max_lost_fraction", config.tokenizer.max_lost_fraction, need)
    log.warning("corpus: %s cannot encode all of the text: %s", file, reported)


def _beginning(config: CorpusConfig, source: Source) -> Iterator[Document]:
    items = read_source(source, config.min_words, lambda _: None)
    return islice((item for item in items if isinstance(item, Document)), _DOCUMENTS)


def spelling(tokenizer: Tokenizer, documents: Iterable[Document], file: Path) -> Spelling:
    """Encode and decode the beginnings of documents.

    Args:
        tokenizer: The tokenizer.
        documents: The sample.
        file: Where the tokenizer is from, for messages.

    Raises:
        DataError: It has no tokens for a document; the document is named.
    """
    characters, lost = 0, Counter[str]()
    for document in documents:
        text = document.text[:_CHARACTERS]
        try:
            again = tokenizer.decode(tokenizer.encode(text))
        except DataError as error:
            problem = f"has no tokens for the document {document.id[:100]!r}: {str(error).partition(': ')[2]}"
            raise DataError(file, problem.partition(". Give")[0], _REMEDY) from None
        wanted = _compared(text)
        characters += wanted.total()
        lost += wanted - _compared(again)
    return Spelling(characters, lost)


_REMEDY = "Give a tokenizer with an unknown token or with a fallback to bytes, or one that was made for such text"


def _compared(text: str) -> Counter[str]:
    """How often each letter, digit and sign is in a text, whatever its case, accents, width and white space.

    Tokenizers that fold these lose nothing that they were not made to.
    """
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    return Counter(
        one for one in folded if unicodedata.category(one)[0] not in "MZC" and one != "\N{LOWER ONE EIGHTH BLOCK}"
    )
