"""Stored documents: what a frozen model reads of each, encoded once, mapped into memory and found by its text or id.

vectors.bin        the numbers of all vectors, one document after the other
documents.jsonl    for each document its id, the digest of its text, and how many vectors it has
store.json         what a vector is, by which model it was made, and how large documents are
"""

# Dims in this file.
#   n vectors of a document   G query groups of the whole model   D head width   E width of a state

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retro.common.artifacts import differences
from retro.common.errors import ArtifactError, DataError
from retro.common.files import atomic_path, read_json, write_json
from retro.common.mmap import MappedFile
from retro.recipes.dynamic_prefix.answering.config import StoredKind, StoredType

HEADER, DOCUMENTS, VECTORS = "store.json", "documents.jsonl", "vectors.bin"
_REMEDY = "Run `retro recipe dynamic_prefix run CONFIG encode` again"
_BITS: Mapping[str, tuple[torch.dtype, type[np.generic]]] = {
    # numpy has no bfloat16: its bits are kept.
    "float16": (torch.float16, np.float16),
    "bfloat16": (torch.bfloat16, np.int16),
    "float32": (torch.float32, np.float32),
}


def text_digest(text: str) -> str:
    """Names a document by what the encoder reads of it: 32 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


@dataclass(frozen=True, kw_only=True)
class StoreHeader:
    """What a store holds."""

    kind: StoredKind
    dtype: StoredType
    vector: tuple[int, ...]
    """Sizes of one vector: (layers, 2, G, D) of keys and values, or (E,) of a state."""
    model: Mapping[str, Any]
    """Identity of the model that made it, as JSON values."""

    @property
    def bytes_per_vector(self) -> int:
        """Of one vector on disk."""
        return prod(self.vector) * np.dtype(_BITS[self.dtype][1]).itemsize


def as_stored(vectors: Tensor, dtype: StoredType, name: str) -> NDArray[Any]:
    """Vectors [n, …] as an array of the stored type, one row each.

    Raises:
        DataError: A number is not finite, or beyond what the type holds.
    """
    kind, bits = _BITS[dtype]
    rows = vectors.detach().float().cpu().flatten(1)
    most, limit = float(rows.abs().max()) if rows.numel() else 0.0, torch.finfo(kind).max
    if not most <= limit:
        problem = f"has a value of {most:g} in its keys and values; {dtype} holds up to {limit:g}"
        raise DataError(name, problem, "Set store.dtype=float32, or train again where it is not finite")
    stored = rows.to(kind).contiguous()
    found: NDArray[Any] = (stored.view(torch.int16) if dtype == "bfloat16" else stored).numpy()
    return found.astype(bits, copy=False)


def write_store(
    directory: Path,
    header: StoreHeader,
    documents: Sequence[tuple[str, str, int]],
    vectors: Iterator[NDArray[Any]],
) -> None:
    """Write a store; the header last, and only a store with one is opened.

    Args:
        directory: Where; it exists.
        header: What a vector is.
        documents: Of each its id, the digest of its text and the number of its vectors.
        vectors: All vectors, one a row, in parts and in the order of the documents.

    Raises:
        ArtifactError: The disk is full.
    """
    with atomic_path(directory / VECTORS) as temporary, temporary.open("wb") as stream:
        for part in vectors:
            stream.write(np.ascontiguousarray(part).data)
    with atomic_path(directory / DOCUMENTS) as temporary:
        lines = (
            json.dumps({"id": name, "digest": digest, "vectors": count}, ensure_ascii=False) + "\n"
            for name, digest, count in documents
        )
        temporary.write_text("".join(lines), encoding="utf-8")
    write_json(directory / HEADER, asdict(header) | {"vector": list(header.vector), **sizes(header, documents)})


def sizes(header: StoreHeader, documents: Sequence[tuple[str, str, int]]) -> dict[str, Any]:
    """How large documents are: vectors and bytes of all, of the largest and on average."""
    counts = [count for *_, count in documents]
    total, each = sum(counts), header.bytes_per_vector
    return {
        "documents": len(counts),
        "vectors": total,
        "bytes": total * each,
        "bytes_per_vector": each,
        "vectors_per_document": round(total / len(counts), 2) if counts else 0.0,
        "bytes_per_document": round(total * each / len(counts)) if counts else 0,
        "largest_document_bytes": max(counts, default=0) * each,
    }


class KnowledgeStore:
    """Stored documents, read-only.

    Attributes:
        header: What a vector is.
    """

    def __init__(self, directory: Path, header: StoreHeader, documents: Sequence[tuple[str, str, int]]) -> None:
        """Map the vectors; use `open`."""
        self.header, self._directory = header, directory
        counts = [count for *_, count in documents]
        self._first = np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))
        self._rows = {digest: row for row, (_, digest, _) in enumerate(documents)}
        self._by_id: dict[str, list[int]] = {}
        for row, (name, _, _) in enumerate(documents):
            self._by_id.setdefault(name, []).append(row)
        self._dtype, bits = _BITS[header.dtype]
        elements = int(self._first[-1]) * prod(header.vector)
        self._mapped = MappedFile(directory / VECTORS, np.dtype(bits), elements)

    @classmethod
    def open(cls, directory: Path, model: Mapping[str, Any]) -> KnowledgeStore:
        """Open what the step `encode` wrote.

        Args:
            directory: The step's.
            model: Identity of the model that is to read it.

        Raises:
            ArtifactError: It is missing or damaged, or was made by another model.
        """
        path = directory / HEADER
        data = read_json(path, _REMEDY)
        try:
            header, wanted = _read_header(data)
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(path, f"does not describe stored documents ({error})", _REMEDY) from None
        changed = differences(header.model, model)
        if changed:
            problem = f"was made by another model: {'; '.join(changed[:3])}"
            raise ArtifactError(directory, problem, _REMEDY + " with --redo: documents are read by who encoded them")
        documents = _read_documents(directory / DOCUMENTS)
        there = (directory / VECTORS).stat().st_size if (directory / VECTORS).exists() else -1
        if sum(count for *_, count in documents) * header.bytes_per_vector != wanted or there != wanted:
            raise ArtifactError(directory / VECTORS, f"has {there:,} bytes, {wanted:,} were written", _REMEDY)
        return cls(directory, header, documents)

    def __len__(self) -> int:
        return len(self._first) - 1

    def find(self, text: str) -> int | None:
        """The row of the document of this text; None where it is not stored."""
        return self._rows.get(text_digest(text))

    def rows_of(self, document_id: str) -> list[int]:
        """The rows of a document's passages, by its id."""
        return self._by_id.get(document_id, [])

    def vectors(self, row: int) -> Tensor:
        """[n, *vector] of a document, a copy of what is mapped."""
        width = prod(self.header.vector)
        first, last = (int(one) * width for one in self._first[row : row + 2])
        found = torch.from_numpy(self._mapped.array[first:last].copy())
        kept = found.view(torch.bfloat16) if self._dtype == torch.bfloat16 else found
        return kept.view(-1, *self.header.vector)


def _read_header(data: Mapping[str, Any]) -> tuple[StoreHeader, int]:
    """What is stored, and how many bytes that is."""
    vector = tuple(int(one) for one in data["vector"])
    kinds = get_args(StoredKind)
    if data["kind"] not in kinds or len(vector) != {"keys_values": 4, "states": 1}[data["kind"]]:
        raise ValueError(f"kind {data['kind']!r} with vectors of {vector}; there are {', '.join(kinds)}")
    if not isinstance(data["model"], dict):
        raise TypeError(f"the model is {data['model']!r}")
    header = StoreHeader(kind=data["kind"], dtype=data["dtype"], vector=vector, model=data["model"])
    return header, int(data["vectors"]) * header.bytes_per_vector


def _read_documents(path: Path) -> list[tuple[str, str, int]]:
    found = []
    try:
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                one = json.loads(line)
                found.append((str(one["id"]), str(one["digest"]), _count(one["vectors"])))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(path, f"cannot be read ({error})", _REMEDY) from None
    return found


def _count(value: object) -> int:
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r} is not a number of vectors")
    return value
