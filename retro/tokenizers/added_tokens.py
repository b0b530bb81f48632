"""A tokenizer with further special tokens: a file of its own, the ids of the old tokens unchanged.

New tokens get the ids after the last old one. They are special: a text that spells one is text, so nobody's documents
can hold a control token; who wants the token itself asks for its id (`token_ids`).
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Sequence
from pathlib import Path

import tokenizers

from retro.common.errors import ConfigError
from retro.common.files import atomic_path
from retro.tokenizers.conventions import write_conventions
from retro.tokenizers.tokenizer import (
    FILE_NAMES,
    Tokenizer,
    conventions_of,
    load_tokenizer,
    tokenizer_kind,
    write_meta,
)

log = logging.getLogger(__name__)

# Fields of SentencePiece's ModelProto and of a piece in it, and the kind of piece that no text is spelled with.
_PIECES, _TEXT, _SCORE, _KIND, _CONTROL = 1, 1, 2, 3, 3


def add_tokens(directory: Path, tokens: Sequence[str], out: Path, setting: str) -> Tokenizer:
    """Write the tokenizer in `directory` with further special tokens into `out`; equal input gives equal bytes.

    Args:
        directory: As `save_tokenizer` wrote it.
        tokens: Their names, in the order of their ids; those that it has already keep their ids.
        out: A directory, made where it is missing; what `save_tokenizer` would write comes there.
        setting: Who asked for them, for messages.

    Raises:
        ConfigError: A name is blank, given twice, or cannot be added.
        ArtifactError: The tokenizer in `directory` is missing or damaged.
    """
    old = load_tokenizer(directory)
    for token in tokens:
        if not token.strip() or tokens.count(token) > 1:
            raise ConfigError(setting, token, "needs names that are not blank, each once")
    new = [token for token in tokens if token_id(old, token) is None]
    known = [token for token in tokens if token not in new]
    if known:
        log.info("%s has %s already; %s ids stay", directory, ", ".join(known), "its" if len(known) == 1 else "their")
    kind = tokenizer_kind(directory)
    out.mkdir(parents=True, exist_ok=True)
    source, path = directory / FILE_NAMES[kind], out / FILE_NAMES[kind]
    with atomic_path(path) as temporary:
        if kind == "huggingface":
            _extend_huggingface(source, new, temporary)
        else:
            temporary.write_bytes(source.read_bytes() + b"".join(map(_control_piece, new)))
    write_conventions(conventions_of(old), out)
    write_meta(out, kind, old.eod, [*added_tokens(old), *new])
    made = load_tokenizer(out)
    for number, token in enumerate(new):
        if token_id(made, token) != old.vocab_size + number:
            raise ConfigError(setting, token, f"needs a name that {source} can take as token {old.vocab_size + number}")
    return made


def added_tokens(tokenizer: object) -> tuple[str, ...]:
    """The special tokens that `add_tokens` gave a tokenizer, in the order of their ids."""
    found: tuple[str, ...] = getattr(tokenizer, "added", ())
    return found


def token_id(tokenizer: object, token: str) -> int | None:
    """The id of the token of that name; None where there is none."""
    find = getattr(tokenizer, "token_id", None)
    return None if find is None else find(token)


def token_ids(tokenizer: object, tokens: Sequence[str], setting: str) -> dict[str, int]:
    """The ids of tokens by name.

    Raises:
        ConfigError: The tokenizer lacks one.
    """
    found = {}
    for token in tokens:
        id_ = token_id(tokenizer, token)
        if id_ is None:
            raise ConfigError(
                setting,
                token,
                "needs a tokenizer that has this token: name it in sft.special_tokens when the model is tuned",
            )
        found[token] = id_
    return found


def _extend_huggingface(source: Path, new: Sequence[str], out: Path) -> None:
    model = tokenizers.Tokenizer.from_file(str(source))
    model.add_special_tokens([tokenizers.AddedToken(token, special=True, normalized=False) for token in new])
    out.write_text(model.to_str(), encoding="utf-8")


def _control_piece(token: str) -> bytes:
    """A piece as SentencePiece stores it. What is appended to a protocol buffer's list comes after its last item."""
    text = token.encode()
    piece = b"".join(
        [
            bytes([_TEXT << 3 | 2]) + _varint(len(text)) + text,
            bytes([_SCORE << 3 | 5]) + struct.pack("<f", 0.0),
            bytes([_KIND << 3, _CONTROL]),
        ]
    )
    return bytes([_PIECES << 3 | 2]) + _varint(len(piece)) + piece


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])
