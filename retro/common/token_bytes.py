"""How many bytes of text each token stands for: what bits per byte are counted in.

Counted token by token, so that the bytes of a text are the sum over its tokens however it is cut: a character that the
border of a chunk splits gives each side the bytes that its own tokens hold.
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
from retro.common.tokenizers import FILE_NAMES, tokenizer_kind

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_REMEDY = "Run `retro corpus` again"


def bytes_of_tokens(directory: Path) -> NDArray[np.int64] | None:
    """UTF-8 bytes of each token of a saved tokenizer; 0 for end-of-document and other control tokens.

    A SentencePiece space, ▁, is one byte, also where decoding drops it at the start of a text.

    Args:
        directory: Where `retro.common.tokenizers.save_tokenizer` put it.

    Returns:
        int64 [tokens], or None where a token's text depends on the tokens around it (WordPiece, words).

    Raises:
        ArtifactError: The tokenizer is missing or damaged.
    """
    kind = tokenizer_kind(directory)
    path = directory / FILE_NAMES[kind]
    return _sentencepiece(path) if kind == "sentencepiece" else _huggingface(read_json(path, _REMEDY, keys_once=False))


def _sentencepiece(path: Path) -> NDArray[np.int64]:
    model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    silent = [model.is_control(id_) or model.is_unknown(id_) for id_ in range(model.vocab_size())]
    pieces = [model.id_to_piece(id_) for id_ in range(model.vocab_size())]
    return np.array([0 if none else _piece_bytes(piece) for none, piece in zip(silent, pieces, strict=True)])


def _huggingface(file: dict[str, Any]) -> NDArray[np.int64] | None:
    decoder = file.get("decoder") or {}
    kinds = {decoder.get("type"), *(part.get("type") for part in decoder.get("decoders", []))}
    bytes_of: Callable[[str], int]
    if "ByteLevel" in kinds:
        # Each of 256 letters stands for one byte.
        bytes_of = len
    elif kinds & {"ByteFallback", "Metaspace"}:
        bytes_of = _piece_bytes
    else:
        return None
    vocabulary = file["model"]["vocab"]
    # BPE has a mapping, Unigram a list of pieces with their scores.
    pieces = vocabulary if isinstance(vocabulary, dict) else {one[0]: id_ for id_, one in enumerate(vocabulary)}
    added = {one["id"]: one for one in file.get("added_tokens", [])}
    counts = np.zeros(max([*pieces.values(), *added]) + 1, dtype=np.int64)
    for piece, id_ in pieces.items():
        counts[id_] = bytes_of(piece)
    for id_, one in added.items():
        counts[id_] = 0 if one["special"] else len(one["content"].encode())
    return counts


def _piece_bytes(piece: str) -> int:
    return 1 if _BYTE.fullmatch(piece) else len(piece.replace("▁", " ").encode())
