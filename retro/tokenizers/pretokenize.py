"""Where a text may be cut so that the tokens of the pieces, end to end, are the tokens of the text.

A tokenizer reads a text one word at a time, but its library does so again each time a word comes by. Who knows the cuts
can remember the tokens of each word. The rules here are exact, not usual: a tokenizer of any other build has no rule.
"""

from __future__ import annotations

import re
import string
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from retro.common.json_files import parse_json

Cut = Callable[[str], list[str]]
"""Cuts a text into pieces. What it leaves out, such as white space, gives no tokens."""

_SPACE = "\u2581"
_PUNCTUATION = re.escape(string.punctuation)
_MARKS_AND_WORDS = re.compile(f"[^{_PUNCTUATION}]+|[{_PUNCTUATION}]")
_SPACED_WORDS = re.compile(f"[ {_SPACE}]*[^ {_SPACE}]+|[ {_SPACE}]+")
_SPACED_WORDS_OF_LINES = re.compile(f"[ {_SPACE}]*[^ {_SPACE}\\n]+|[ {_SPACE}]+|\\n")


def _at_white_space(text: str) -> list[str]:
    # Not `text.split()`: that cuts at characters which BERT's normalizer takes out without parting anything, such as
    # form feeds. Other white space stands inside a piece, where the tokenizer finds it.
    return text.replace("\n", " ").replace("\t", " ").replace("\r", " ").split(" ")


BERT: tuple[Cut, ...] = (_at_white_space, _MARKS_AND_WORDS.findall)
"""White space parts words and is not a token; each ASCII punctuation mark is a word."""
SPACED_WORDS: tuple[Cut, ...] = (_SPACED_WORDS.findall,)
"""A word with the spaces before it."""
SPACED_WORDS_OF_LINES: tuple[Cut, ...] = (_SPACED_WORDS_OF_LINES.findall,)
"""The same, where no token spans a line break."""

BPE = 2
"""The kind of model that joins pieces, as SentencePiece numbers them."""
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Kinds of piece, as SentencePiece and .gguf files number them."""


def huggingface_cuts(tokenizer_json: str) -> tuple[Cut, ...]:
    """The rule of a `tokenizer.json` that is built like BERT's, from coarse cuts to fine ones; empty for any other.

    Such a tokenizer changes characters one by one, cuts at white space and around punctuation, and gives each word its
    tokens whatever is beside it.
    """
    described: dict[str, Any] = parse_json(tokenizer_json)
    kinds = [(described.get(name) or {}).get("type") for name in ("normalizer", "pre_tokenizer")]
    # Other added tokens are looked for in the whole text, across cuts.
    plain = all(token["special"] for token in described.get("added_tokens") or [])
    certain = not described["model"].get("dropout")
    bert = kinds[0] in (None, "BertNormalizer") and kinds[1] == "BertPreTokenizer"
    return BERT if bert and plain and certain else ()


def sentencepiece_cuts(path: Path) -> tuple[Cut, ...]:
    """The rule of a SentencePiece BPE model that leaves the text as it is and knows every byte; empty for any other.

    BPE joins neighboring symbols while their union is a piece. Where no piece holds a space behind another character,
    nothing is ever joined across the start of a run of spaces. Bytes must be known because several unknown characters
    in a row become one token.
    """
    model = path.read_bytes()
    pieces, trainer, normalizer = [], b"", b""
    for number, value in message_fields(model):
        if number == 1:
            pieces.append(value)
        elif number == 2:
            trainer = value
        elif number == 3:
            normalizer = value
    kinds = {kind for _, kind in map(_piece, pieces)}
    texts = [text for text, kind in map(_piece, pieces) if kind == NORMAL]
    if dict(message_fields(trainer)).get(3) != BPE or BYTE not in kinds or kinds & {USER_DEFINED, UNUSED}:
        return ()
    if not _keeps_text(normalizer) or any(_SPACE in text.lstrip(_SPACE) for text in texts):
        return ()
    return SPACED_WORDS if any("\n" in text for text in texts) else SPACED_WORDS_OF_LINES


def _piece(message: bytes) -> tuple[str, int]:
    """Text and kind of a vocabulary entry."""
    found = dict(message_fields(message))
    return found[1].decode("utf-8", "replace"), found.get(3, NORMAL)


def _keeps_text(normalizer: bytes) -> bool:
    """Whether nothing is replaced, put before a text or taken out, but for spaces, which get their own sign."""
    found = dict(message_fields(normalizer))
    return not found.get(2) and found.get(3, 1) == 0 and found.get(4, 1) == 0 and found.get(5, 1) == 1


def message_fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Number and value of each field of a protocol buffer; SentencePiece's own reader needs a package we do not."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(message, at)
            yield number, value
        elif wire == 2:
            size, at = _varint(message, at)
            yield number, message[at : at + size]
            at += size
        else:
            form = {1: "<d", 5: "<f"}[wire]
            yield number, struct.unpack_from(form, message, at)[0]
            at += struct.calcsize(form)


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
