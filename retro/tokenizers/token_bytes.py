"""Which bytes of text each token stands for: what bits per byte are counted in, and what a server gives of a token.

Taken token by token, so that the bytes of a text are those of its tokens in a row however it is cut: a character that a
border splits gives each side the bytes that its own tokens hold.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
from numpy.typing import NDArray

from retro.common.files import read_json
from retro.tokenizers.tokenizer import FILE_NAMES, Tokenizer, tokenizer_kind

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_REMEDY = "Run `retro corpus` again"


def bytes_of_tokens(directory: Path) -> NDArray[np.int64] | None:
    """How many bytes each token has: int64 [tokens]; else as `read_token_bytes`."""
    found = read_token_bytes(directory)
    return None if found is None else np.array([len(one) for one in found], dtype=np.int64)


def read_token_bytes(directory: Path) -> list[bytes] | None:
    """UTF-8 bytes of each token of a saved tokenizer; none for end-of-document and other control tokens.

    A SentencePiece space, ▁, is one byte, also where decoding drops it at the start of a text.

    Args:
        directory: Where `retro.tokenizers.tokenizer.save_tokenizer` put it.

    Returns:
        By token id, or None where a token's text depends on the tokens around it (WordPiece, words).

    Raises:
        ArtifactError: The tokenizer is missing or damaged.
    """
    kind = tokenizer_kind(directory)
    path = directory / FILE_NAMES[kind]
    return _sentencepiece(path) if kind == "sentencepiece" else _huggingface(read_json(path, _REMEDY, keys_once=False))


def shown_token_bytes(directory: Path, tokenizer: Tokenizer) -> list[bytes] | None:
    """The same, of tokens as a text shows them: SentencePiece's unknown token, not text itself, is shown by a sign."""
    found = read_token_bytes(directory)
    return found and [one or tokenizer.decode([id_]).encode() for id_, one in enumerate(found)]


def _sentencepiece(path: Path) -> list[bytes]:
    model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    silent = [model.is_control(id_) or model.is_unknown(id_) for id_ in range(model.vocab_size())]
    pieces = [model.id_to_piece(id_) for id_ in range(model.vocab_size())]
    return [b"" if none else _piece_bytes(piece) for none, piece in zip(silent, pieces, strict=True)]


def _huggingface(file: dict[str, Any]) -> list[bytes] | None:
    decoder = file.get("decoder") or {}
    kinds = {decoder.get("type"), *(part.get("type") for part in decoder.get("decoders", []))}
    bytes_of: Callable[[str], bytes]
    if "ByteLevel" in kinds:
        bytes_of = _letters_bytes
    elif kinds & {"ByteFallback", "Metaspace"}:
        bytes_of = _piece_bytes
    else:
        return None
    vocabulary = file["model"]["vocab"]
    # BPE has a mapping, Unigram a list of pieces with their scores.
    pieces = vocabulary if isinstance(vocabulary, dict) else {one[0]: id_ for id_, one in enumerate(vocabulary)}
    added = {one["id"]: one for one in file.get("added_tokens", [])}
    found = [b""] * (max([*pieces.values(), *added]) + 1)
    for piece, id_ in pieces.items():
        found[id_] = bytes_of(piece)
    for id_, one in added.items():
        found[id_] = b"" if one["special"] else one["content"].encode()
    return found


def _piece_bytes(piece: str) -> bytes:
    byte = _BYTE.fullmatch(piece)
    return bytes([int(byte[1], 16)]) if byte else piece.replace("▁", " ").encode()


def _letters_bytes(piece: str) -> bytes:
    # A letter that stands for no byte is spelled out, as the decoder does.
    return b"".join(_BYTE_OF_LETTER.get(letter, letter.encode()) for letter in piece)


def _byte_letters() -> dict[str, bytes]:
    """The letters of byte-level BPE: printable ones stand for themselves, the rest for letters from 256 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {chr(byte): bytes([byte]) for byte in printable}
    return letters | {chr(256 + number): bytes([byte]) for number, byte in enumerate(others)}


_BYTE_OF_LETTER = _byte_letters()
