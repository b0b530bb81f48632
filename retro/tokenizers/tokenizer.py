"""Text to token ids and back, from a SentencePiece or a HuggingFace `tokenizers` file.

The two libraries are called directly. megatron.core's tokenizer facade has no batch encoding (one Python call
per document, on one core) and needs `transformers` merely to open a `tokenizer.json`. Nothing here runs code
from a tokenizer file.

Every directory that holds a tokenizer has its file, `tokenizer.model` or `tokenizer.json`, and a
`tokenizer_meta.json` that fixes the end-of-document token and the file's SHA-256; a `conventions.json` where more is
known (`retro.tokenizers.conventions`).
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NotRequired, Protocol, TypeAlias

import numpy as np
import sentencepiece
import tokenizers
from numpy.typing import NDArray
from typing_extensions import TypedDict

from retro.common.artifacts import fingerprint
from retro.common.errors import ArtifactError, ConfigError, DataError, short_reason
from retro.common.files import atomic_path, fsync, read_json, sha256_file, write_json
from retro.common.json_files import Count, wrong_type
from retro.tokenizers.conventions import (
    CONVENTIONS,
    Conventions,
    folder_conventions,
    load_conventions,
    named_eod,
    write_conventions,
)
from retro.tokenizers.pretokenize import Cut, huggingface_cuts, sentencepiece_cuts

Kind: TypeAlias = Literal["sentencepiece", "huggingface"]
TokenIds: TypeAlias = Sequence[int] | NDArray[Any]

log = logging.getLogger(__name__)

META = "tokenizer_meta.json"
FILE_NAMES: dict[str, str] = {"sentencepiece": "tokenizer.model", "huggingface": "tokenizer.json"}
EOD_NAMES = ("<|endoftext|>", "</s>", "[EOD]", "[SEP]")
"""Looked for in this order when neither the user nor the tokenizer's folder names an end-of-document token."""
LARGEST_VOCABULARY = 10_000_000
"""Tokens; the largest published vocabularies have 262,144. Ids beyond would make embeddings of terabytes."""
_WORDS_IN_A_ROW = 512
_PROBE_S = 120.0


class Tokenizer(Protocol):
    """What every stage may ask of a tokenizer. No method adds a token that is not in the text."""

    @property
    def vocab_size(self) -> int:
        """Ids run from 0 to this, exclusive."""

    @property
    def eod(self) -> int:
        """Id that ends a document, and an answer."""

    @property
    def fingerprint(self) -> str:
        """Equal for equal files with the same end-of-document token, and for no others."""

    def encode(self, text: str) -> list[int]:
        """Token ids of one text, without BOS or EOD."""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of many texts, on all cores of this process; the ids do not depend on how many."""

    def decode(self, ids: TokenIds) -> str:
        """Text of token ids. EOD and other control tokens give nothing; a cut character gives U+FFFD."""

    def decode_batch(self, ids: Sequence[TokenIds]) -> list[str]:
        """Texts of many rows of token ids."""


class SentencePieceTokenizer:
    """A SentencePiece model."""

    conventions = Conventions()
    added: tuple[str, ...] = ()
    """Special tokens that were added to the file as it came (`retro.tokenizers.added_tokens`)."""

    def __init__(self, path: Path, *, eod: int | None = None, eod_token: str | None = None) -> None:
        try:
            self._model = sentencepiece.SentencePieceProcessor(model_file=str(path))
        except (OSError, RuntimeError, UnicodeDecodeError) as error:
            raise DataError(
                path, f"is not a SentencePiece model ({short_reason(error)})", "Give a .model file"
            ) from None
        self.vocab_size: int = _require_vocabulary(path, self._model.vocab_size())
        self.eod: int = self._find_eod(path, eod_token) if eod is None else eod
        self.fingerprint: str = _fingerprint("sentencepiece", path, self.vocab_size, self.eod)
        self._path = path
        self._threads = _cores()

    def _find_eod(self, path: Path, eod_token: str | None) -> int:
        if eod_token is None and self._model.eos_id() >= 0:
            return int(self._model.eos_id())
        unknown = self._model.unk_id()
        ids = {name: self._model.piece_to_id(name) for name in _wanted(eod_token)}
        return _first_known({name: None if id_ == unknown else id_ for name, id_ in ids.items()}, path, eod_token)

    def has(self, token: str) -> bool:
        """Whether it has a token of that name."""
        return self.token_id(token) is not None

    def token_id(self, token: str) -> int | None:
        """The id of the token of that name; None where there is none."""
        id_ = int(self._model.piece_to_id(token))
        return None if id_ == self._model.unk_id() else id_

    def piece(self, id_: int) -> str | None:
        """The name of a token; None where there is none."""
        return str(self._model.id_to_piece(id_)) if 0 <= id_ < self.vocab_size else None

    def encode(self, text: str) -> list[int]:
        """Token ids of one text."""
        ids: list[int] = self._model.encode(text)
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of many texts."""
        ids: list[list[int]] = self._model.encode(list(texts), num_threads=self._threads)
        return ids

    @cached_property
    def cuts(self) -> tuple[Cut, ...]:
        """How to cut a text into words that are encoded alone, coarse to fine; empty where nothing is sure."""
        return sentencepiece_cuts(self._path)

    def encode_words(self, words: Sequence[str]) -> list[list[int]]:
        """Token ids of many short texts."""
        return self.encode_batch(words)

    def decode(self, ids: TokenIds) -> str:
        """Text of token ids."""
        text: str = self._model.decode(_plain(ids))
        return text

    def decode_batch(self, ids: Sequence[TokenIds]) -> list[str]:
        """Texts of many rows of token ids."""
        texts: list[str] = self._model.decode([_plain(row) for row in ids], num_threads=self._threads)
        return texts


class HuggingFaceTokenizer:
    """A `tokenizer.json` of the HuggingFace `tokenizers` library."""

    conventions = Conventions()
    added: tuple[str, ...] = ()
    """Special tokens that were added to the file as it came (`retro.tokenizers.added_tokens`)."""

    def __init__(self, path: Path, *, eod: int | None = None, eod_token: str | None = None) -> None:
        try:
            self._model = tokenizers.Tokenizer.from_file(str(path))
        # The library raises a bare Exception for every kind of bad file.
        except Exception as error:  # noqa: BLE001
            raise DataError(
                path, f"is not a tokenizer.json ({short_reason(error)})", "Give a HuggingFace tokenizers file"
            ) from None
        # Sentence embedders ship files with truncation to 128 tokens, which would cut documents silently.
        self._model.no_truncation()
        self._model.no_padding()
        # A text that spells the name of a special token is text: it must not end its own document.
        self._model.encode_special_tokens = True
        ids = self._model.get_vocab(with_added_tokens=True).values()
        self.vocab_size: int = _require_vocabulary(path, max(ids, default=-1) + 1)
        self._path = path
        self.eod: int = self._find_eod(path, eod_token) if eod is None else eod
        self.fingerprint: str = _fingerprint("huggingface", path, self.vocab_size, self.eod)

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    def _find_eod(self, path: Path, eod_token: str | None) -> int:
        return _first_known({name: self._model.token_to_id(name) for name in _wanted(eod_token)}, path, eod_token)

    def has(self, token: str) -> bool:
        """Whether it has a token of that name."""
        return self.token_id(token) is not None

    def token_id(self, token: str) -> int | None:
        """The id of the token of that name; None where there is none."""
        found: int | None = self._model.token_to_id(token)
        return found

    def piece(self, id_: int) -> str | None:
        """The name of a token; None where there is none."""
        found: str | None = self._model.id_to_token(id_) if 0 <= id_ < self.vocab_size else None
        return found

    def encode(self, text: str) -> list[int]:
        """Token ids of one text."""
        try:
            return list(self._model.encode(text, add_special_tokens=False).ids)
        # The library raises a bare Exception for a word that its model cannot spell.
        except Exception as error:  # noqa: BLE001
            raise _cannot_spell(self._path, text, error) from None

    def starts(self, text: str) -> list[int]:
        """The character of a text at which each of its tokens begins; several where a character has several."""
        try:
            return [start for start, _ in self._model.encode(text, add_special_tokens=False).offsets]
        except Exception as error:  # noqa: BLE001
            raise _cannot_spell(self._path, text, error) from None

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of many texts."""
        try:
            return [list(row.ids) for row in self._model.encode_batch_fast(list(texts), add_special_tokens=False)]
        except Exception:  # noqa: BLE001
            # It does not say which text it was; one of these fails, unless the fault was of the moment.
            return [self.encode(text) for text in texts]

    @cached_property
    def cuts(self) -> tuple[Cut, ...]:
        """How to cut a text into words that are encoded alone, coarse to fine; empty where nothing is sure."""
        return huggingface_cuts(self._model.to_str())

    def encode_words(self, words: Sequence[str]) -> list[list[int]]:
        """Token ids of many short texts: twice as fast as `encode_batch`, because rows hold many words each."""
        groups = [list(words[at : at + _WORDS_IN_A_ROW]) for at in range(0, len(words), _WORDS_IN_A_ROW)]
        # The fast call does not say which word a token belongs to.
        try:
            rows = self._model.encode_batch(groups, is_pretokenized=True, add_special_tokens=False)
        except Exception:  # noqa: BLE001
            return [self.encode(word) for word in words]
        return [ids for group, row in zip(groups, rows, strict=True) for ids in _by_word(row, len(group))]

    def decode(self, ids: TokenIds) -> str:
        """Text of token ids."""
        return str(self._model.decode(_plain(ids)))

    def decode_batch(self, ids: Sequence[TokenIds]) -> list[str]:
        """Texts of many rows of token ids."""
        return list(self._model.decode_batch([_plain(row) for row in ids]))


_CLASSES: dict[str, type[SentencePieceTokenizer] | type[HuggingFaceTokenizer]] = {
    "sentencepiece": SentencePieceTokenizer,
    "huggingface": HuggingFaceTokenizer,
}


def load_tokenizer(directory: Path) -> Tokenizer:
    """Open the tokenizer that `save_tokenizer` put into `directory`.

    Raises:
        ArtifactError: It is missing, or its bytes are not those that were saved.
    """
    remedy = "Run `retro corpus` again"
    meta = _read_meta(directory)
    path = directory / FILE_NAMES[meta["kind"]]
    if not path.exists():
        raise ArtifactError(path, "is missing", remedy)
    if sha256_file(path) != meta.get("sha256"):
        raise ArtifactError(path, f"is not the file that {META} describes: its SHA-256 differs", remedy)
    tokenizer = _CLASSES[meta["kind"]](path, eod=meta["eod"])
    tokenizer.conventions = load_conventions(directory)
    tokenizer.added = tuple(meta.get("added", ()))
    return tokenizer


def conventions_of(tokenizer: object) -> Conventions:
    """How a tokenizer's prompts begin, where answers end, and its chat template, as far as that is known."""
    if isinstance(tokenizer, SentencePieceTokenizer | HuggingFaceTokenizer):
        return tokenizer.conventions
    return Conventions()


def tokenizer_kind(directory: Path) -> Kind:
    """Which kind of tokenizer `save_tokenizer` put into `directory`.

    Raises:
        ArtifactError: Its description is missing or damaged.
    """
    kind: Kind = _read_meta(directory)["kind"]
    return kind


class _Meta(TypedDict):
    kind: Kind
    eod: Count
    added: NotRequired[list[str]]


def _read_meta(directory: Path) -> dict[str, Any]:
    path, remedy = directory / META, "Run `retro corpus` again"
    meta: dict[str, Any] = read_json(path, remedy, Any)
    if wrong_type(meta, _Meta) is not None:
        raise ArtifactError(path, "does not describe a tokenizer", remedy)
    return meta


def save_tokenizer(file: Path, kind: Kind, directory: Path, eod_token: str | None = None) -> Tokenizer:
    """Copy a tokenizer file into `directory`, with what its folder says of it, and its description written last.

    Args:
        file: A SentencePiece model or a `tokenizer.json`; it may already stand in `directory`.
        kind: Which of the two it is.
        directory: Where it goes.
        eod_token: The token that ends a document; None takes that of the file's folder (see `folder_eod`), else the
            model's EOS, else the first of EOD_NAMES.

    Raises:
        DataError: It is not such a file.
        ConfigError: It has no such token.
    """
    path = directory / FILE_NAMES[kind]
    brought = file.resolve() != path.resolve()
    if brought:
        probe_tokenizer(file, kind)
    # A directory that this function wrote says itself what its folder said.
    saved: Any = load_tokenizer(file.parent) if brought and (file.parent / META).exists() else None
    if eod_token is None and saved is not None:
        tokenizer = _CLASSES[kind](file, eod=saved.eod)
    else:
        token = eod_token if eod_token is not None or not brought else folder_eod(file, kind)
        tokenizer = _CLASSES[kind](file, eod_token=token)
    log.info("documents end with token %d of %s", tokenizer.eod, file)
    if brought:
        known = folder_conventions(file.parent, file) if saved is None else conventions_of(saved)
        write_conventions(known, directory)
        with atomic_path(path) as temporary:
            shutil.copyfile(file, temporary)
    write_meta(directory, kind, tokenizer.eod, [] if saved is None else saved.added)
    return load_tokenizer(directory)


def write_meta(directory: Path, kind: Kind, eod: int, added: Sequence[str] = ()) -> None:
    """Describe the tokenizer file in `directory`; written last."""
    path = directory / FILE_NAMES[kind]
    meta = {
        "kind": kind,
        "vocab_size": _CLASSES[kind](path, eod=eod).vocab_size,
        "eod": eod,
        "sha256": sha256_file(path),
    }
    write_json(directory / META, meta | ({"added": list(added)} if added else {}))


def tokenizer_files(directory: Path) -> list[Path]:
    """The files that `save_tokenizer` put into `directory`."""
    files = (directory / name for name in (META, CONVENTIONS, *FILE_NAMES.values()))
    return [file for file in files if file.exists()]


def copy_tokenizer_files(directory: Path, out: Path) -> None:
    """Copy what `save_tokenizer` put into `directory` to a new directory.

    Raises:
        ArtifactError: It is missing, or its bytes are not those that were saved.
    """
    load_tokenizer(directory)
    out.mkdir()
    for file in tokenizer_files(directory):
        shutil.copyfile(file, out / file.name)
        fsync(out / file.name)
    fsync(out)


def folder_eod(file: Path, kind: Kind) -> str | None:
    """The token that the folder of a tokenizer file says ends a text; None where it says nothing.

    Raises:
        DataError: A file there is damaged, or names a token that the tokenizer has not.
    """
    found = named_eod(file.parent)
    if found is None:
        return None
    where, token = found
    model = _CLASSES[kind](file, eod=0)
    if isinstance(token, int):
        text = model.piece(token)
        problem = f"says that texts end with token {token}"
    else:
        text = token if model.has(token) else None
        problem = f"says that texts end with {token[:80]!r}"
    if text is None:
        remedy = "Give corpus.tokenizer.eod_token, or the tokenizer file that belongs to this folder"
        raise DataError(where, f"{problem}, which {file.name} has not", remedy)
    log.info("%s %s", where, problem)
    return text


def probe_tokenizer(file: Path, kind: Kind) -> None:
    """Open a tokenizer file, encode and decode with it, in another process: a damaged one may end the process.

    Raises:
        DataError: It ends the process, or takes longer than two minutes.
    """
    command = [sys.executable, "-m", "retro.tokenizers.probe", kind, str(file)]
    try:
        found = subprocess.run(command, capture_output=True, timeout=_PROBE_S, check=False)
    except subprocess.TimeoutExpired:
        raise DataError(file, "is damaged: its library does not return from it", "Fetch the file again") from None
    if found.returncode:
        last = found.stderr.decode(errors="replace").strip().splitlines()[-1:]
        problem = (
            f"is damaged: its library fails when it is used ({' '.join(last)[:200] or f'exit {found.returncode}'})"
        )
        raise DataError(file, problem, "Fetch the file again")


def _require_vocabulary(path: Path, size: int) -> int:
    if not 0 < size <= LARGEST_VOCABULARY:
        problem = f"has {'no tokens' if size <= 0 else f'token ids up to {size - 1:,}'}"
        raise DataError(path, problem, f"Give a tokenizer of 1 to {LARGEST_VOCABULARY:,} tokens")
    return size


def _cannot_spell(path: Path, text: str, error: Exception) -> DataError:
    problem = f"cannot encode the text {text[:60]!r} ({short_reason(error)})"
    return DataError(path, problem, "Give a tokenizer with an unknown token, or one that falls back to bytes")


def find_tokenizer_file(path: Path, kind: Kind) -> Path:
    """The tokenizer file that the user meant: `path` itself, or the one of that kind in the folder `path`.

    Raises:
        DataError: There is none, or a folder holds several models.
    """
    pattern = {"sentencepiece": "*.model", "huggingface": "tokenizer.json"}[kind]
    if path.is_file():
        return path
    found = sorted(path.glob(pattern)) if path.is_dir() else []
    if len(found) == 1:
        return found[0]
    problem = f"holds {len(found)} {pattern} files" if path.is_dir() else "no such file"
    raise DataError(path, problem, f"Give the path of one {kind} tokenizer file")


def _by_word(row: tokenizers.Encoding, words: int) -> Iterator[list[int]]:
    """Ids of each word of a row; a word without any, such as a control character, is passed over by the library."""
    ids, ends = row.ids, np.cumsum(np.bincount(np.array(row.word_ids, dtype=np.int64), minlength=words))
    at = 0
    for end in ends.tolist():
        yield ids[at:end]
        at = end


def _wanted(eod_token: str | None) -> tuple[str, ...]:
    return EOD_NAMES if eod_token is None else (eod_token,)


def _first_known(ids: dict[str, int | None], path: Path, eod_token: str | None) -> int:
    for id_ in ids.values():
        if id_ is not None:
            return id_
    names = ", ".join(ids)
    raise ConfigError("tokenizer.eod_token", eod_token, f"needs a token that {path} has; looked for {names}")


def _fingerprint(kind: Kind, path: Path, vocab_size: int, eod: int) -> str:
    return fingerprint({"kind": kind, "vocab_size": vocab_size, "eod": eod, "sha256": sha256_file(path)})


def _plain(ids: TokenIds) -> list[int]:
    plain: list[int] = np.asarray(ids, dtype=np.int64).tolist()
    return plain


def _cores() -> int:
    # A container's share, not the machine's: more threads than cores only queue.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
