"""Token files in Megatron's own format: all tokens of a corpus in `.bin`, where documents start in `.idx`.

Existing Megatron corpora work here and ours work there: a test holds reader and writer equal to megatron-core's. They
are our own because importing megatron-core costs 6 seconds of processor time, with torch, and because its checks are
assertions that do not notice a `.bin` cut short; its writer keeps three Python lists with an entry per document, 100
bytes of memory for each, where ours writes the same bytes from an array of 4.

    .idx    magic, version, type code, sequences, boundaries; then int32 tokens of each sequence, int64 its first byte
            in the .bin, int64 the sequence that each document begins with, and the number of sequences; then, where it
            was written as multimodal, int8 the mode of each sequence, which is left aside here
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from retro.common.errors import ArtifactError
from retro.common.files import failed_writes_are_artifact_errors, fsync, temporary_path
from retro.common.mmap import MappedFile

_MAGIC = b"MMIDIDX\x00\x00"
_HEADER = struct.Struct("<9sQBQQ")
_TYPES = {1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 8: np.uint16}
"""Type codes of tokens; 6 and 7 are floats, which no tokenizer makes."""
_CODES = {np.dtype(kind): code for code, kind in _TYPES.items()}
_NARROW = 65_500
"""Vocabularies below this are stored as uint16."""
_REMEDY = "Make the corpus again (`retro corpus`), or copy both the .bin and the .idx again"
_INDEX_PIECE = 1 << 20
_DISORDER = "its sequences do not lie end to end in document order"


def bin_path(prefix: Path) -> Path:
    """`<prefix>.bin`; a dot in the prefix's last part is kept."""
    return prefix.with_name(prefix.name + ".bin")


def idx_path(prefix: Path) -> Path:
    """`<prefix>.idx`."""
    return prefix.with_name(prefix.name + ".idx")


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """Type of a stored token: uint16 for vocabularies below 65,500, else int32."""
    return np.dtype(np.uint16 if vocab_size < _NARROW else np.int32)


class TokenFileWriter:
    """Writes documents under temporary names; `finish` gives them their names at once.

    Used as a context manager it removes the temporary files when the body fails.
    """

    def __init__(self, prefix: Path, vocab_size: int) -> None:
        self.prefix = prefix
        self.tokens = 0
        self._bin, self._idx = (temporary_path(path) for path in (bin_path(prefix), idx_path(prefix)))
        self.dtype = token_dtype(vocab_size)
        self._lengths = array("i")
        with failed_writes_are_artifact_errors(bin_path(prefix)):
            self._stream = self._bin.open("wb")

    def __enter__(self) -> TokenFileWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stream.close()
        if kind is not None:
            self._bin.unlink(missing_ok=True)
            self._idx.unlink(missing_ok=True)

    @property
    def documents(self) -> int:
        """Documents written so far."""
        return len(self._lengths)

    def add_document(self, ids: ArrayLike) -> None:
        """Append one document, its end-of-document token included."""
        tokens = np.asarray(ids, dtype=self.dtype)
        self.add_documents(tokens, np.array([tokens.size]))

    def add_documents(self, tokens: NDArray[Any], lengths: NDArray[np.integer]) -> None:
        """Append many documents.

        Args:
            tokens: [tokens] of all of them, end to end.
            lengths: [documents] tokens of each.

        Raises:
            ValueError: The lengths do not add up to the tokens.
        """
        if int(lengths.sum()) != len(tokens):
            raise ValueError(f"documents of {int(lengths.sum())} tokens were announced, {len(tokens)} given")
        with failed_writes_are_artifact_errors(bin_path(self.prefix)):
            self._stream.write(np.ascontiguousarray(tokens, dtype=self.dtype).data)
        self._lengths.frombytes(lengths.astype(np.int32).tobytes())
        self.tokens += len(tokens)

    def finish(self) -> None:
        """Write the index, then rename `.bin` and `.idx`, in this order: the `.idx` completes the pair."""
        with failed_writes_are_artifact_errors(bin_path(self.prefix)):
            self._stream.close()
            with self._idx.open("wb") as index:
                index.writelines(self._index())
            for temporary, final in ((self._bin, bin_path(self.prefix)), (self._idx, idx_path(self.prefix))):
                fsync(temporary)
                temporary.replace(final)
            fsync(self.prefix.parent)

    def _index(self) -> Iterator[bytes]:
        """The `.idx`: header, tokens of each sequence, its first byte, and where documents begin; here each is one."""
        lengths = np.frombuffer(self._lengths, dtype=np.int32)
        yield _HEADER.pack(_MAGIC, 1, _CODES[self.dtype], len(lengths), len(lengths) + 1)
        yield lengths.tobytes()
        begin = 0
        for at in range(0, len(lengths), _INDEX_PIECE):
            piece = lengths[at : at + _INDEX_PIECE].astype(np.int64) * self.dtype.itemsize
            ends = begin + np.cumsum(piece)
            yield (ends - piece).tobytes()
            begin = int(ends[-1])
        for at in range(0, len(lengths) + 1, _INDEX_PIECE):
            yield np.arange(at, min(at + _INDEX_PIECE, len(lengths) + 1), dtype=np.int64).tobytes()


class TokenFile:
    """A finished token file, memory-mapped.

    Attributes:
        dtype: Type of a stored token, uint16 for vocabularies below 65,500, else int32 as a rule.
        tokens: [tokens] memory map of the whole `.bin`.
        sequences: Sequences in the file; each document has one in all corpora but multi-part ones.
        document_starts: [documents + 1] int64; document d is tokens[starts[d]:starts[d + 1]].
    """

    def __init__(self, prefix: Path) -> None:
        self.prefix = prefix
        index = _read_index(prefix)
        self.dtype: np.dtype[Any] = index.dtype
        self.sequences = len(index.lengths)
        self.document_starts = _document_starts(prefix, index)
        self._mapped = _map_tokens(prefix, self.dtype, int(self.document_starts[-1]))
        self.tokens = self._mapped.array

    @property
    def documents(self) -> int:
        """How many documents there are."""
        return len(self.document_starts) - 1

    @property
    def token_count(self) -> int:
        """How many tokens all documents have together."""
        return len(self.tokens)

    def advise(self, *, random: bool) -> None:
        """Say whether runs of tokens will be read at random places, or one after the other."""
        self._mapped.advise(random=random)

    def will_need(self, start_N: NDArray[np.int64], count_N: NDArray[np.int64]) -> None:
        """Have runs of tokens read in the background, where the file is read at random."""
        self._mapped.will_need(start_N, count_N)


@dataclass(frozen=True)
class _Index:
    """What an `.idx` holds, memory-mapped."""

    dtype: np.dtype[Any]
    """Of the tokens."""
    lengths: NDArray[np.int32]
    """[sequences] tokens of each."""
    pointers: NDArray[np.int64]
    """[sequences] first byte of each."""
    boundaries: NDArray[np.int64]
    """[documents + 1] first sequence of each document."""


def _read_index(prefix: Path) -> _Index:
    """The index, once both files are there and its header fits its length; raises ArtifactError where they do not."""
    path = idx_path(prefix)
    for needed in (path, bin_path(prefix)):
        if not needed.is_file():
            raise ArtifactError(needed, "is missing; a token file is a .bin and an .idx of one name", _REMEDY)
    size = path.stat().st_size
    if size < _HEADER.size:
        raise ArtifactError(path, f"has {size} bytes; its header alone needs {_HEADER.size}", _REMEDY)
    with path.open("rb") as stream:
        magic, version, code, sequences, boundaries = _HEADER.unpack(stream.read(_HEADER.size))
    if magic != _MAGIC:
        raise ArtifactError(path, f"starts with {magic!r}; a Megatron index starts with {_MAGIC!r}", _REMEDY)
    if version != 1:
        raise ArtifactError(path, f"is of index version {version}; version 1 is needed", _REMEDY)
    if code not in _TYPES:
        raise ArtifactError(path, f"says that its tokens have type code {code}; an integer is needed", _REMEDY)
    needed_size = _HEADER.size + 12 * sequences + 8 * boundaries
    # One more byte per sequence where it was written as multimodal.
    if size not in (needed_size, needed_size + sequences) or boundaries < 1:
        raise ArtifactError(
            path,
            f"has {size} bytes; its {sequences} sequences and {boundaries} boundaries need {needed_size}",
            _REMEDY,
        )
    content = np.memmap(path, dtype=np.uint8, mode="r")
    places = (_HEADER.size, _HEADER.size + 4 * sequences, _HEADER.size + 12 * sequences)
    return _Index(
        dtype=np.dtype(_TYPES[code]),
        lengths=np.frombuffer(content, np.dtype("<i4"), sequences, places[0]),
        pointers=np.frombuffer(content, np.dtype("<i8"), sequences, places[1]),
        boundaries=np.frombuffer(content, np.dtype("<i8"), boundaries, places[2]),
    )


def _document_starts(prefix: Path, index: _Index) -> NDArray[np.int64]:
    """[documents + 1] token offsets, from sequences (one or more to a document) that must be end to end."""
    sequence_starts = np.zeros(len(index.lengths) + 1, dtype=np.int64)
    np.cumsum(index.lengths, out=sequence_starts[1:])
    boundaries = index.boundaries
    whole = boundaries[0] == 0 and boundaries[-1] == len(index.lengths)
    # Compared, not subtracted: the difference of two forged numbers may be any.
    ordered = bool(np.all(boundaries[1:] >= boundaries[:-1])) and bool(np.all(index.lengths >= 0))
    if not (whole and ordered and np.array_equal(index.pointers, sequence_starts[:-1] * index.dtype.itemsize)):
        raise ArtifactError(idx_path(prefix), _DISORDER, _REMEDY)
    return sequence_starts[boundaries]


def _map_tokens(prefix: Path, dtype: np.dtype[Any], tokens: int) -> MappedFile:
    path = bin_path(prefix)
    found, needed = path.stat().st_size, tokens * dtype.itemsize
    if found != needed:
        raise ArtifactError(
            path, f"has {found} bytes; its .idx says {tokens} tokens of {dtype.name}, {needed} bytes", _REMEDY
        )
    return MappedFile(path, dtype, tokens)
