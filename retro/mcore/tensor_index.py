"""The index of a sharded checkpoint, `.metadata`: which tensors there are, and where each piece of them is.

It is a pickle of torch's and megatron-core's own objects. Both read it by calling whatever it names; here it is read as
plain data, once, and nobody reads it again. What it says is checked against the files that are there: every tensor is
whole, and every piece has as many bytes as its numbers need, so no size in it can be made up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from retro.common.errors import ArtifactError
from retro.common.plain_pickle import DescribedObject, Name, Names, PickleError, read_plain
from retro.mcore.torch_files import DTYPES, MOST_PICKLED

INDEX = ".metadata"
_REMEDY = "Use an older checkpoint, or fetch this one again from a source you trust"
_METADATA = "torch.distributed.checkpoint.metadata"
_STRATEGY = "megatron.core.dist_checkpointing.strategies.torch"
_PATHS = frozenset({"Path", "PosixPath", "PurePosixPath"})
_NAMES: Names = {
    "builtins": frozenset({"getattr"}),  # how Pythons before 3.11.4 write a member of an enum
    "collections": frozenset({"OrderedDict", "defaultdict"}),
    "pathlib": _PATHS,
    "pathlib._local": _PATHS,
    "torch": frozenset(
        {"Size", "device", *(name for name in dir(torch) if isinstance(getattr(torch, name), torch.dtype))}
    ),
    "torch.serialization": frozenset({"_get_layout"}),
    _METADATA: frozenset(
        {
            "BytesStorageMetadata",
            "ChunkStorageMetadata",
            "Metadata",
            "MetadataIndex",
            "StorageMeta",
            "TensorProperties",
            "TensorStorageMetadata",
            "_MEM_FORMAT_ENCODING",
        }
    ),
    "torch.distributed.checkpoint.planner": frozenset(
        {"BytesIOWriteData", "SavePlan", "TensorWriteData", "WriteItem", "WriteItemType"}
    ),
    "torch.distributed.checkpoint.filesystem": frozenset({"_StorageInfo", "_StoragePrefix"}),
    # Of checkpoints that older releases of megatron-core wrote.
    _STRATEGY: frozenset({"MCoreMetadata", "MCoreSavePlan"}),
}
_Place = tuple[str, int, int]


@dataclass(frozen=True)
class Piece:
    """A part of a tensor, and where its numbers are."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    path: Path
    start: int
    """Where its torch file begins in the file at `path`, in bytes."""
    length: int
    """Bytes of that torch file."""


@dataclass(frozen=True)
class IndexedTensor:
    """What an index says of one tensor."""

    dtype: torch.dtype
    size: tuple[int, ...]
    pieces: tuple[Piece, ...]


def read_index(directory: Path) -> dict[str, IndexedTensor]:
    """The tensors of a checkpoint, by name.

    Raises:
        ArtifactError: The index is missing or damaged, holds anything but an index, or says of the files what they
            are not.
    """
    path = directory / INDEX
    try:
        # A pipe would be waited for.
        if path.exists() and not path.is_file():
            raise PickleError("it is not a file")
        with path.open("rb") as stream:
            data = stream.read(MOST_PICKLED + 1)
        if len(data) > MOST_PICKLED:
            raise PickleError(f"it is longer than {MOST_PICKLED} bytes")
        return _Reader(directory, read_plain(data, _NAMES)).tensors()
    except FileNotFoundError:
        raise ArtifactError(path, "is missing: the checkpoint was cut short or is of another format", _REMEDY) from None
    except OSError as error:
        raise ArtifactError(path, f"cannot be read ({error.strerror})", _REMEDY) from None
    except PickleError as error:
        raise ArtifactError(path, f"cannot be read safely: {error}", _REMEDY) from None


class _Reader:
    """Takes the tensors out of a plain index."""

    def __init__(self, directory: Path, index: Any) -> None:
        self._directory = directory
        metadata = _state(index, "Metadata")
        self._entries = _dictionary(metadata, "state_dict_metadata")
        self._places = dict(self._stored(_dictionary(metadata, "storage_data")))
        self._pieces_left = len(self._places)

    def tensors(self) -> dict[str, IndexedTensor]:
        """By name; entries that are not tensors are left out."""
        found = {}
        for name, entry in self._entries.items():
            if not isinstance(name, str) or not isinstance(entry, DescribedObject):
                raise PickleError("it has an entry without a name")
            if entry.of.name == "TensorStorageMetadata":
                found[name] = self._tensor(name, _state(entry, "TensorStorageMetadata"))
        return found

    def _tensor(self, name: str, entry: Mapping[Any, Any]) -> IndexedTensor:
        properties, size, chunks = entry.get("properties"), _size(entry.get("size")), entry.get("chunks")
        match properties:
            case DescribedObject(state=(Name("torch", precision), *_)) if precision in DTYPES:
                dtype = DTYPES[precision]
            case _:
                raise PickleError(f"{name[:80]} has no precision that is known here")
        if not isinstance(chunks, list):
            raise PickleError(f"{name[:80]} has no pieces")
        # Each piece has a place of its own, so together they are no more than places.
        self._pieces_left -= len(chunks)
        if self._pieces_left < 0:
            raise PickleError("it has more pieces than places")
        pieces = tuple(self._piece(name, _state(chunk, "ChunkStorageMetadata"), dtype, size) for chunk in chunks)
        if sum(_count(piece.sizes) for piece in pieces) != _count(size):
            raise PickleError(f"{name[:80]} is not whole")
        return IndexedTensor(dtype, size, pieces)

    def _piece(self, name: str, chunk: Mapping[Any, Any], dtype: torch.dtype, size: tuple[int, ...]) -> Piece:
        offsets, sizes = _size(chunk.get("offsets")), _size(chunk.get("sizes"))
        fits = len(offsets) == len(sizes) == len(size)
        if not fits or any(a + b > c for a, b, c in zip(offsets, sizes, size, strict=True)):
            raise PickleError(f"{name[:80]} has a piece outside of it")
        place = self._places.get((name, offsets))
        if place is None:
            raise PickleError(f"{name[:80]} has a piece that is nowhere")
        file, start, length = place
        if length < _count(sizes) * dtype.itemsize:
            raise PickleError(f"{name[:80]} has a piece of {length} bytes, too few for {list(sizes)}")
        return Piece(offsets, sizes, self._directory / file, start, length)

    def _stored(self, places: Mapping[Any, Any]) -> Iterator[tuple[tuple[str, tuple[int, ...]], _Place]]:
        for key, value in places.items():
            match _state(key, "MetadataIndex"), _state(value, "_StorageInfo"):
                case (
                    {"fqn": str(name), **of_key},
                    {"relative_path": str(file), "offset": int(start), "length": int(length), **others},
                ):
                    if others.get("transform_descriptors"):
                        raise PickleError(f"{name[:80]} is compressed, which is not supported")
                    if Path(file).name != file:
                        raise PickleError(f"{name[:80]} lies in {file[:80]!r}, which is not a file of the checkpoint")
                    if start < 0 or length < 0:
                        raise PickleError(f"{name[:80]} starts before the beginning of its file")
                    # What is not a tensor is at no place in one.
                    if of_key.get("offset") is not None:
                        yield (name, _size(of_key["offset"])), (file, start, length)
                case _:
                    raise PickleError("it has a piece without a place")


def _state(value: Any, of: str) -> Mapping[Any, Any]:
    """Attributes of an object that an index describes."""
    if not isinstance(value, DescribedObject) or value.of.name != of or not isinstance(value.state, dict):
        raise PickleError(f"it has something else where a {of} is needed")
    return value.state


def _dictionary(attributes: Mapping[Any, Any], name: str) -> Mapping[Any, Any]:
    found = attributes.get(name)
    if not isinstance(found, dict):
        raise PickleError(f"it has no {name}")
    return found


def _size(value: Any) -> tuple[int, ...]:
    match value:
        case DescribedObject(of=Name("torch", "Size"), args=(tuple() as size,)):
            pass
        case tuple() as size:
            pass
        case _:
            raise PickleError("it has a size that is none")
    if len(size) > 16 or not all(type(length) is int and 0 <= length < 1 << 48 for length in size):
        raise PickleError("it has a size that is none")
    return size


def _count(size: tuple[int, ...]) -> int:
    count = 1
    for length in size:
        count *= length
    return count
