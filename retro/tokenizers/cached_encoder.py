"""Many texts to one run of tokens, remembering the tokens of every word seen.

Of a large text nearly every word has come by before. Looking its tokens up takes a fraction of the time that the
tokenizers' libraries take, and gives the same tokens, because it is done only where `pieces` has an exact rule.
"""

# Dims in this file. D texts   P pieces of all of them   T tokens   V pieces remembered

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retro.tokenizers.pretokenize import Cut
from retro.tokenizers.tokenizer import HuggingFaceTokenizer, SentencePieceTokenizer, Tokenizer

_PART_CHARACTERS = 4_000_000
_BEGINS_SPACE = re.compile("(?<![ \u2581]) ")
_REMEMBERED_PIECES = 500_000
_REMEMBERED_CHARACTERS = 16_000_000


class TokenizedTexts(NamedTuple):
    """The tokens of some texts, end to end."""

    tokens: NDArray[Any]
    """[T]"""
    lengths: NDArray[np.int64]
    """[D] tokens of each text."""


Encode = Callable[[Sequence[str]], TokenizedTexts]


def cached_encoder(tokenizer: Tokenizer, dtype: np.dtype[Any]) -> Encode:
    """What encodes texts with `tokenizer` to tokens of type `dtype`, no EOD added.

    It remembers words where that is exact; it belongs to one thread.
    """
    if not isinstance(tokenizer, HuggingFaceTokenizer | SentencePieceTokenizer) or not tokenizer.cuts:
        return lambda texts: _pack(tokenizer.encode_batch(texts), dtype)
    encode: Encode = lambda words: _pack(tokenizer.encode_words(words), dtype)  # noqa: E731 - is replaced in turn
    # The finest cut first: a coarse piece that is new is looked up by its parts.
    for cut in reversed(tokenizer.cuts):
        encode = _CachedWords(cut, encode, dtype).encode
    return _InParts(encode, dtype).encode


class _InParts:
    """Encodes long texts part by part: the list of a text's pieces takes twenty times the text."""

    def __init__(self, encode: Encode, dtype: np.dtype[Any]) -> None:
        self._encode, self._dtype = encode, dtype

    def encode(self, texts: Sequence[str]) -> TokenizedTexts:
        """Tokens of some texts."""
        if sum(map(len, texts)) <= _PART_CHARACTERS:
            return self._encode(texts)
        tokens, lengths_D = [np.zeros(0, dtype=self._dtype)], np.zeros(len(texts), dtype=np.int64)
        for number, text in enumerate(texts):
            for part in _parts(text):
                packed = self._encode([part])
                tokens.append(packed.tokens)
                lengths_D[number] += len(packed.tokens)
        return TokenizedTexts(np.concatenate(tokens), lengths_D)


def _parts(text: str) -> Iterator[str]:
    """The text from space to space, where every `Cut` cuts too: a space begins a piece, or belongs to none."""
    begin = 0
    while len(text) - begin > _PART_CHARACTERS:
        found = _BEGINS_SPACE.search(text, begin + _PART_CHARACTERS)
        if found is None:
            break
        yield text[begin : found.start()]
        begin = found.start()
    yield text[begin:]


class DocumentEncoder:
    """Encodes documents end to end, each with its end-of-document token behind it.

    Attributes:
        dtype: Type of a token.
    """

    def __init__(self, tokenizer: Tokenizer, dtype: np.dtype[Any]) -> None:
        self.dtype, self._eod = dtype, tokenizer.eod
        self._encode = cached_encoder(tokenizer, dtype)

    def encode(self, texts: Sequence[str]) -> TokenizedTexts:
        """Tokens of some documents, and of each how many, its EOD counted."""
        packed = self._encode(texts)
        return TokenizedTexts(np.insert(packed.tokens, np.cumsum(packed.lengths), self._eod), packed.lengths + 1)


class _CachedWords:
    """Encodes texts by looking up their pieces."""

    def __init__(self, cut: Cut, encode: Encode, dtype: np.dtype[Any]) -> None:
        """Prepare.

        Args:
            cut: Cuts a text into pieces.
            encode: Encodes pieces that are new.
            dtype: Type of a token.
        """
        self._cut, self._encode = cut, encode
        self._memory = _Memory()
        self._tokens_V = np.zeros(0, dtype=dtype)
        self._bounds_V = np.zeros(1, dtype=np.int64)

    def encode(self, texts: Sequence[str]) -> TokenizedTexts:
        """Tokens of some texts."""
        pieces: list[str] = []
        ends_D = np.zeros(len(texts), dtype=np.int64)
        for number, text in enumerate(texts):
            pieces += self._cut(text)
            ends_D[number] = len(pieces)
        known_P = np.fromiter(map(self._memory.__getitem__, pieces), dtype=np.int64, count=len(pieces))
        self._learn()
        begin_P = self._bounds_V[known_P]
        lengths_P = self._bounds_V[known_P + 1] - begin_P
        ends_P = np.cumsum(lengths_P)
        places_T = np.repeat(begin_P - (ends_P - lengths_P), lengths_P)
        places_T += np.arange(len(places_T))
        ends_T = np.concatenate([np.zeros(1, dtype=np.int64), ends_P])[ends_D]
        packed = TokenizedTexts(self._tokens_V[places_T], np.diff(ends_T, prepend=0))
        if len(self._memory) > _REMEMBERED_PIECES or self._memory.characters > _REMEMBERED_CHARACTERS:
            self._forget()
        return packed

    def _learn(self) -> None:
        """Encode the pieces that came by for the first time."""
        new = self._memory.take_new()
        if new:
            packed = self._encode(new)
            self._tokens_V = np.concatenate([self._tokens_V, packed.tokens])
            self._bounds_V = np.concatenate([self._bounds_V, self._bounds_V[-1] + np.cumsum(packed.lengths)])

    def _forget(self) -> None:
        """Begin again, so that text of any kind takes some memory and no more."""
        self._memory = _Memory()
        self._tokens_V = self._tokens_V[:0].copy()
        self._bounds_V = self._bounds_V[:1].copy()


class _Memory(dict[str, int]):
    """Numbers of pieces; a new piece gets the next number when it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.characters = 0
        self._new: list[str] = []

    def __missing__(self, piece: str) -> int:
        number = self[piece] = len(self)
        self._new.append(piece)
        return number

    def take_new(self) -> list[str]:
        """Pieces since the last call, in the order of their numbers."""
        new, self._new = self._new, []
        self.characters += sum(map(len, new))
        return new


def _pack(rows: Sequence[Sequence[int]], dtype: np.dtype[Any]) -> TokenizedTexts:
    lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    tokens = np.fromiter(itertools.chain.from_iterable(rows), dtype=dtype, count=int(lengths.sum()))
    return TokenizedTexts(tokens, lengths)
