"""The index of a sharded checkpoint is read as plain data, and held against the files that are there."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING

from retro.common.errors import ArtifactError
from retro.mcore import checkpoint
from retro.mcore.sharded_tensors import StoredTensors
from retro.mcore.tensor_index import read_index
from tests.mcore.hostile import infected, payloads
from tests.model.tiny import tiny_model, tiny_shape

EMBEDDING = "embedding.word_embeddings.weight"


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A checkpoint of a tiny model."""
    state = tiny_model(tiny_shape()).sharded_state_dict(metadata={"non_homogeneous_layers": True})
    checkpoint.save({"weights": state}, tmp_path)
    return tmp_path


def test_the_index_says_what_torch_s_own_reader_says(saved: Path) -> None:
    theirs = pickle.loads((saved / ".metadata").read_bytes())  # noqa: S301 - made by this test
    wanted = {name: entry for name, entry in theirs.state_dict_metadata.items() if hasattr(entry, "chunks")}
    found = read_index(saved)
    assert found.keys() == wanted.keys()
    for name, entry in wanted.items():
        assert (found[name].size, found[name].dtype) == (tuple(entry.size), entry.properties.dtype)
        for piece, chunk in zip(found[name].pieces, entry.chunks, strict=True):
            assert (piece.offsets, piece.sizes) == (tuple(chunk.offsets), tuple(chunk.sizes))
            places = {key.offset: value for key, value in theirs.storage_data.items() if key.fqn == name}
            place = places[chunk.offsets]
            assert (piece.path.name, piece.start, piece.length) == (place.relative_path, place.offset, place.length)


@pytest.mark.parametrize("way", payloads(Path("x")))
def test_no_way_of_running_code_from_an_index_does(way: str, saved: Path) -> None:
    target, index = saved / "ran", saved / ".metadata"
    index.write_bytes(infected(index.read_bytes(), payloads(target)[way]))
    with pytest.raises(ArtifactError, match=r"\.metadata: cannot be read safely: it "):
        StoredTensors(saved)
    assert not target.exists()


class TakenByName:
    """What Pythons before 3.11.4 write for an enum's member: take it from its class by name."""

    def __init__(self, owner: object, name: str) -> None:
        self.owner, self.name = owner, name

    def __reduce__(self) -> tuple[object, tuple[object, str]]:
        return getattr, (self.owner, self.name)


def test_a_member_of_an_enum_may_be_taken_by_name(saved: Path) -> None:
    change(saved, lambda index: setattr(index, "extra", TakenByName(_MEM_FORMAT_ENCODING, "TORCH_CONTIGUOUS_FORMAT")))
    assert EMBEDDING in read_index(saved)


@pytest.mark.parametrize("content", [b"", b"garbage", pickle.dumps({"a": 1})[:-3], pickle.dumps({"a": 1})])
def test_a_damaged_index_is_an_artifact_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ".metadata").write_bytes(content)
    with pytest.raises(ArtifactError, match="cannot be read safely"):
        read_index(tmp_path)


def test_a_missing_index_and_a_folder_in_its_place_are_artifact_errors(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is missing: the checkpoint was cut short"):
        read_index(tmp_path)
    (tmp_path / ".metadata").mkdir()
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_index(tmp_path)
    (tmp_path / ".metadata").rmdir()
    os.mkfifo(tmp_path / ".metadata")
    with pytest.raises(ArtifactError, match="cannot be read safely: it is not a file"):
        read_index(tmp_path)


def change(directory: Path, how: Callable[[Any], object]) -> None:
    """Forge an index."""
    path = directory / ".metadata"
    index = pickle.loads(path.read_bytes())  # noqa: S301 - made by this test
    how(index)
    path.write_bytes(pickle.dumps(index))


def entry(index: Any) -> Any:
    return index.state_dict_metadata[EMBEDDING]


def place(index: Any) -> Any:
    return next(value for key, value in index.storage_data.items() if key.fqn == EMBEDDING)


def enlarge(index: Any) -> None:
    entry(index).size = torch.Size([10**9, 16])
    entry(index).chunks[0].sizes = torch.Size([10**9, 16])


FORGED: dict[str, tuple[Callable[[Any], object], str]] = {
    "a size that no piece fills": (
        lambda index: setattr(entry(index), "size", torch.Size([10**9, 16])),
        "word_embeddings.weight is not whole",
    ),
    "a piece larger than its bytes": (enlarge, r"has a piece of \d+ bytes, too few for \[1000000000, 16\]"),
    "the same piece twice": (
        lambda index: setattr(entry(index), "chunks", entry(index).chunks * 1000),
        "it has more pieces than places",
    ),
    "a piece outside": (
        lambda index: setattr(entry(index).chunks[0], "offsets", torch.Size([1, 0])),
        "has a piece outside of it",
    ),
    "a file elsewhere": (
        lambda index: setattr(place(index), "relative_path", "../x"),
        "is not a file of the checkpoint",
    ),
    "a place before the file": (
        lambda index: setattr(place(index), "offset", -1),
        "starts before the beginning of its file",
    ),
    "another precision": (
        lambda index: setattr(entry(index).properties, "dtype", torch.complex64),
        "has no precision that is known here",
    ),
    "no places": (lambda index: setattr(index, "storage_data", None), "it has no storage_data"),
}


@pytest.mark.parametrize(("how", "message"), FORGED.values(), ids=FORGED.keys())
def test_an_index_that_says_what_the_files_are_not_is_refused(
    how: Callable[[Any], object], message: str, saved: Path
) -> None:
    change(saved, how)
    with pytest.raises(ArtifactError, match=f"cannot be read safely: .*{message}"):
        read_index(saved)


def test_a_place_behind_the_end_of_its_file_is_found_when_it_is_read(saved: Path) -> None:
    change(saved, lambda index: setattr(place(index), "offset", 10**12))
    with pytest.raises(ArtifactError, match=r"word_embeddings\.weight cannot be read: it is cut short"):
        StoredTensors(saved).read(EMBEDDING, (slice(0, 2), slice(0, 16)))
