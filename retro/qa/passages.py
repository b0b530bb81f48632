"""Passages as neighbor tokens: what the encoder reads beside a question.

Passages come with the question or from a retriever; both look the same from here on. The model was pretrained
on neighbors of R tokens, so a passage is its first R tokens.
"""

# Dims in this file.
#   N questions   K passages of a question   R tokens of a passage

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from retro.common.errors import ConfigError
from retro.common.progress import Progress
from retro.qa.question import PassageLike, Question

PassagesFrom = Literal["contexts", "retriever", "live"]
NeighborText = Literal["text", "title_and_text"]
Retrieve = Callable[[list[str]], Sequence[Sequence[PassageLike]]]
"""Texts in, passages for each out, best first."""

# One search call embeds this many texts; Faiss and embedders gain nothing from more.
_TEXTS_AT_ONCE = 256


class Encoder(Protocol):
    """The part of a tokenizer that is needed here."""

    @property
    def eod(self) -> int:
        """End-of-document id; ends every answer, and fills pads."""

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Token ids of each text, with nothing added."""

    def decode_batch(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """Text of each row of token ids."""


@dataclass(frozen=True)
class NeighborTokens:
    """Neighbor tokens of N questions, or of whatever else reads passages."""

    tokens_NKR: NDArray[np.int32]
    lengths_NK: NDArray[np.int32]
    """Real tokens of each passage; 0 where there is none."""

    def mask(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """[rows, K, R], True where a token is real."""
        mask: NDArray[np.bool_] = np.arange(self.tokens_NKR.shape[2]) < self.lengths_NK[rows][..., None]
        return mask


def passages_of(
    questions: Sequence[Question], source: PassagesFrom, retrieve: Retrieve | None, *, what: str
) -> list[tuple[PassageLike, ...]]:
    """The passages of each question, from the file or from the retriever.

    Raises:
        ConfigError: The retriever is asked for, and there is none.
    """
    if source == "contexts":
        return [question.contexts for question in questions]
    if retrieve is None:
        raise ConfigError(
            "passages_from",
            source,
            "needs a database and an index; run those stages, or use passages_from=contexts",
        )
    texts = [question.question for question in questions]
    return list(search(texts, retrieve, what=what, unit="questions searched"))


def search(texts: Sequence[str], retrieve: Retrieve, *, what: str, unit: str) -> Iterator[tuple[PassageLike, ...]]:
    """The passages of each text, many texts asked at a time.

    Args:
        texts: To search with.
        retrieve: From texts to passages.
        what: For progress lines.
        unit: What one text is, in the plural.
    """
    with Progress(len(texts), what=what, unit=unit) as bar:
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            asked = list(texts[start : start + _TEXTS_AT_ONCE])
            found = retrieve(asked)
            if len(found) != len(asked):
                raise ValueError(f"the retriever answered {len(found)} of {len(asked)} texts")
            yield from (tuple(passages) for passages in found)
            bar.advance(len(asked))


def chunk_texts(chunks: Sequence[Sequence[int]], tokenizer: Encoder) -> list[str]:
    """What chunks of tokens are searched with, in tuning and in generation: their text, as the database's chunks were
    embedded, so without the space that a word's first token may begin with."""
    return [text.strip() for text in tokenizer.decode_batch(chunks)]


def neighbor_text(passage: PassageLike, form: NeighborText) -> str:
    """What of a passage the encoder reads.

    With `title_and_text` the title goes before the text unless the text begins with it: a title often names
    what the text only calls "it".
    """
    if form == "text" or not passage.title or passage.text.startswith(passage.title):
        return passage.text
    return f"{passage.title}\n{passage.text}"


def neighbor_tokens(
    passages: Sequence[Sequence[PassageLike]],
    tokenizer: Encoder,
    *,
    passages_per_question: int,
    retrieved_length: int,
    form: NeighborText,
) -> NeighborTokens:
    """Tokens of the first K passages of each question, each cut to R tokens.

    Args:
        passages: [N] passages of each question, best first; may be fewer than K, or none.
        tokenizer: Encodes the passages; its `eod` fills the pads.
        passages_per_question: K.
        retrieved_length: R, the length the model was pretrained with.
        form: Whether the title is read as well.
    """
    shape = (len(passages), passages_per_question, retrieved_length)
    tokens_NKR = np.full(shape, tokenizer.eod, dtype=np.int32)
    lengths_NK = np.zeros(shape[:2], dtype=np.int32)
    places = [(n, k) for n, mine in enumerate(passages) for k in range(min(len(mine), passages_per_question))]
    encoded = tokenizer.encode_batch([neighbor_text(passages[n][k], form) for n, k in places]) if places else []
    for (n, k), ids in zip(places, encoded, strict=True):
        kept = ids[:retrieved_length]
        tokens_NKR[n, k, : len(kept)] = kept
        lengths_NK[n, k] = len(kept)
    return NeighborTokens(tokens_NKR, lengths_NK)
