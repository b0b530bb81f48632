"""A SentencePiece BPE vocabulary as a tokenizer of the HuggingFace `tokenizers` library, with the same ids.

SentencePiece joins the two neighbors whose union has the highest score, the leftmost of equals; the library joins by a
list of merges. Every way to halve a piece is a merge with the piece's rank. That is exact where no two pieces share a
score, but rows of one character, and every character of a piece is a piece itself; `inexact` names what else there may
be.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers

from retro.tokenizers.pretokenize import BPE, BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, message_fields

_SPACE = "\u2581"
_BYTES = 256
_LONGEST, _LONGEST_ROW = 1_000, 64
"""Characters of a piece, and of a row of one character: what is longer would take minutes to split in every way."""
# Numbers of fields in SentencePiece's published protocol buffer.
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_TEXT, _SCORE, _KIND = 1, 2, 3
_MODEL_TYPE, _SPACE_BEHIND = 3, 24
_CHARACTER_MAP, _PREFIX, _COLLAPSES, _MARKS_SPACES = 2, 3, 4, 5


@dataclass(frozen=True, kw_only=True)
class PieceVocabulary:
    """What a SentencePiece BPE model consists of, where it changes no character of a text but spaces."""

    pieces: Sequence[str]
    """By id."""
    scores: Sequence[float]
    """Of each piece: the higher, the sooner it is joined."""
    kinds: Sequence[int]
    """Of each piece."""
    prefix: bool
    """Whether a space is put before a text."""
    collapses: bool
    """Whether spaces at the ends of a text are dropped, and several become one."""


def read_vocabulary(model: Path) -> PieceVocabulary | None:
    """What a SentencePiece file consists of; None where it joins no pieces or changes characters.

    Args:
        model: A file that the library opens.
    """
    pieces: list[dict[int, Any]] = []
    trainer: dict[int, Any] = {}
    normalizer: dict[int, Any] = {}
    for number, value in message_fields(model.read_bytes()):
        if number == _PIECES:
            pieces.append(dict(message_fields(value)))
        elif number == _TRAINER:
            trainer = dict(message_fields(value))
        elif number == _NORMALIZER:
            normalizer = dict(message_fields(value))
    changes = normalizer.get(_CHARACTER_MAP) or not normalizer.get(_MARKS_SPACES, 1)
    if trainer.get(_MODEL_TYPE) != BPE or changes or trainer.get(_SPACE_BEHIND):
        return None
    return PieceVocabulary(
        pieces=[piece[_TEXT].decode() for piece in pieces],
        scores=[piece.get(_SCORE, 0.0) for piece in pieces],
        kinds=[piece.get(_KIND, NORMAL) for piece in pieces],
        prefix=bool(normalizer.get(_PREFIX, 1)),
        collapses=bool(normalizer.get(_COLLAPSES, 1)),
    )


def inexact(vocabulary: PieceVocabulary) -> str | None:
    """Why `bpe_tokenizer` might give other ids than SentencePiece; None where it gives the same."""
    kinds = Counter(vocabulary.kinds)
    texts, normal = vocabulary.pieces, _normal(vocabulary)
    if max(map(len, texts), default=0) > _LONGEST:
        return f"one of its pieces is longer than {_LONGEST:,} characters"
    if len(set(texts)) < len(texts):
        return "two of its pieces are equal"
    if kinds[UNUSED]:
        return "some of its pieces are unused"
    if kinds[USER_DEFINED]:
        return "some of its pieces are user-defined"
    if kinds[BYTE] not in (0, _BYTES) or kinds[UNKNOWN] != 1:
        return f"it has {kinds[BYTE]} bytes and {kinds[UNKNOWN]} unknown pieces"
    if any(len(text) == 1 and kind != NORMAL for text, kind in zip(texts, vocabulary.kinds, strict=True)):
        return "a special piece is a character"
    if not {letter for text in normal for letter in text} <= set(normal):
        return "a character of a piece is none itself"
    if not all(_same_in_a_row(vocabulary, tied) for tied in _tied(vocabulary)):
        return "two of its pieces have the same score"
    return None


def bpe_tokenizer(vocabulary: PieceVocabulary) -> tokenizers.Tokenizer:
    """The tokenizer. Control pieces are special tokens, user-defined ones are found in a text before it is changed.

    Raises:
        Exception: A bare one of the library's, for a vocabulary that cannot be.
    """
    numbered = {text: id_ for id_, text in enumerate(vocabulary.pieces)}
    kinds = vocabulary.kinds
    unknown = next((text for text, kind in zip(vocabulary.pieces, kinds, strict=True) if kind == UNKNOWN), None)
    tokenizer = tokenizers.Tokenizer(
        models.BPE(numbered, list(_merges(vocabulary)), unk_token=unknown, fuse_unk=True, byte_fallback=BYTE in kinds)
    )
    before = [normalizers.Replace(Regex(r"\A +"), ""), normalizers.Replace(Regex(" +"), " ")]
    # At its end, SentencePiece takes a text's own U+2581 for a space.
    after = [normalizers.Replace(Regex(rf"{_SPACE}+\z"), "")]
    tokenizer.normalizer = normalizers.Sequence(
        [
            *(before if vocabulary.collapses else []),
            *([normalizers.Prepend(_SPACE)] if vocabulary.prefix else []),
            normalizers.Replace(" ", _SPACE),
            *(after if vocabulary.collapses else []),
        ]
    )
    bare = [decoders.Strip(" ", 1, 0)] if vocabulary.prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *bare]
    )
    tokenizer.add_tokens(
        [
            AddedToken(text, special=kind != USER_DEFINED, normalized=False)
            for text, kind in zip(vocabulary.pieces, kinds, strict=True)
            if kind in (UNKNOWN, CONTROL, USER_DEFINED)
        ]
    )
    return tokenizer


def _tied(vocabulary: PieceVocabulary) -> list[list[str]]:
    """Pieces of several characters that share a score, those of each score together."""
    by_score: dict[float, list[str]] = defaultdict(list)
    for text, id_ in _normal(vocabulary).items():
        if len(text) > 1:
            by_score[vocabulary.scores[id_]].append(text)
    return [texts for texts in by_score.values() if len(texts) > 1]


def _same_in_a_row(vocabulary: PieceVocabulary, tied: Sequence[str]) -> bool:
    """Whether pieces that share a score are rows of one character, as Llama's are of spaces, and rows of it four times
    as long as the longest are cut as SentencePiece cuts them."""
    letters = {letter for text in tied for letter in text}
    if len(letters) > 1 or max(map(len, tied)) > _LONGEST_ROW:
        return False
    letter, sizes = letters.pop(), set(map(len, tied))
    pieces = [letter, *tied]
    alone = PieceVocabulary(
        pieces=pieces, scores=[0.0] * len(pieces), kinds=[NORMAL] * len(pieces), prefix=False, collapses=False
    )
    tokenizer = bpe_tokenizer(alone)
    return all(
        [len(pieces[id_]) for id_ in tokenizer.encode(letter * count, add_special_tokens=False).ids]
        == _leftmost(count, sizes)
        for count in range(1, 4 * max(sizes) + 1)
    )


def _leftmost(count: int, sizes: set[int]) -> list[int]:
    """Lengths of the pieces of a row of one character, where the leftmost two that make a piece are joined first."""
    lengths, at = [1] * count, 0
    while at < len(lengths) - 1:
        if lengths[at] + lengths[at + 1] in sizes:
            lengths[at : at + 2] = [lengths[at] + lengths[at + 1]]
            at = max(at - 1, 0)
        else:
            at += 1
    return lengths


def _normal(vocabulary: PieceVocabulary) -> dict[str, int]:
    """Id of each piece that text is spelled with."""
    kinds = zip(vocabulary.pieces, vocabulary.kinds, strict=True)
    return {text: id_ for id_, (text, kind) in enumerate(kinds) if kind == NORMAL}


def _merges(vocabulary: PieceVocabulary) -> Iterator[tuple[str, str]]:
    normal = _normal(vocabulary)
    for text in sorted(normal, key=lambda text: -vocabulary.scores[normal[text]]):
        for middle in range(1, len(text)):
            if text[:middle] in normal and text[middle:] in normal:
                yield text[:middle], text[middle:]
