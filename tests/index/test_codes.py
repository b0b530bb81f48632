from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retro.common.errors import DependencyError
from retro.index import faiss_loader
from retro.index.codes import CODES, add_codes, encode, lists_of, merge_on_disk
from retro.index.faiss_index import add_vectors, load_index, save_index
from retro.index.faiss_loader import load_faiss
from retro.index.index_choice import create_index
from retro.index.training import gpus_for, train_index
from tests.index.vectors import unit_vectors

VECTORS = unit_vectors(1200).astype(np.float16)
BY_CODES = [
    *("IVF16,Flat", "IVF16,SQ8", "IVF16,PQ4x4", "IVF16_HNSW8,SQ8", "PCA8,IVF16,SQ8"),
    *("OPQ4_16,IVF16,PQ4x4", "OPQ4_16,IVF16_HNSW8,PQ4x4", "RR16,IVF16,RaBitQ", "RR16,IVF16_HNSW8,RaBitQ"),
]
IN_ORDER = ["Flat", "SQ8", "HNSW8", "IVF16,PQ4x4fs", "IVF16,SQ8,RFlat", "RR16,IVF16,RaBitQfs"]


def trained(factory: str) -> bytes:
    """A trained index, none of whose vectors are in it."""
    index = create_index(factory, 16, len(VECTORS))
    train_index(index, factory, VECTORS[::2])
    data: bytes = load_faiss().serialize_index(index).tobytes()
    return data


def opened(data: bytes) -> Any:
    return load_faiss().deserialize_index(np.frombuffer(data, dtype=np.uint8))


def blocks_of_codes(data: bytes, size: int) -> list[Any]:
    """Codes of all vectors, each block by a worker with an index of its own."""
    parts = [VECTORS[start : start + size] for start in range(0, len(VECTORS), size)]
    return [encode(opened(data), part, lambda _: None).arrays[CODES] for part in parts]


@pytest.mark.parametrize("factory", BY_CODES)
@pytest.mark.parametrize("size", [170, 1200])
def test_stored_codes_make_the_bytes_that_adding_in_order_makes(factory: str, size: int) -> None:
    data = trained(factory)
    serial, assembled = opened(data), opened(data)
    add_vectors(serial, VECTORS, reproducible=True)
    add_codes(assembled, blocks_of_codes(data, size), first_row=0, total=len(VECTORS))
    faiss = load_faiss()
    assert assembled.ntotal == len(VECTORS)
    assert faiss.serialize_index(assembled).tobytes() == faiss.serialize_index(serial).tobytes()


@pytest.mark.parametrize("factory", IN_ORDER)
def test_other_kinds_have_no_codes_of_their_own(factory: str) -> None:
    index = create_index(factory, 16, len(VECTORS))
    assert lists_of(index) is None
    with pytest.raises(ValueError, match="cannot be filled with codes"):
        add_codes(index, [], first_row=0, total=0)


@pytest.mark.parametrize("factory", BY_CODES + IN_ORDER)
def test_training_in_parts_gives_an_index_that_faiss_takes_as_trained(factory: str) -> None:
    index = opened(trained(factory))
    assert index.is_trained
    index.add(VECTORS.astype(np.float32))
    _, ids = index.search(VECTORS[:40].astype(np.float32), 10)
    # Not each vector has to be found by codes of four bits, but nearly all are: by chance it would be one in 120.
    assert (ids == np.arange(40)[:, None]).any(axis=1).mean() > 0.4


@pytest.mark.parametrize("factory", ["IVF16,SQ8", "OPQ4_16,IVF16,PQ4x4", "RR16,IVF16_HNSW8,RaBitQ"])
def test_lists_on_disk_are_those_in_memory_and_survive_a_move(
    factory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retro.index.codes.SHARD_ROWS", 300)
    data = trained(factory)
    codes = blocks_of_codes(data, 170)
    sizes = [len(part) for part in codes]
    for name in ("one", "two"):
        index = merge_on_disk(lambda: opened(data), sizes, codes.__getitem__, tmp_path / name)
        save_index(index, tmp_path / name / "index.faiss")
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["index.faiss", "index.ivfdata"]
    for name in ("index.faiss", "index.ivfdata"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    (tmp_path / "one").rename(tmp_path / "moved")
    in_memory = opened(data)
    add_codes(in_memory, codes, first_row=0, total=len(VECTORS))
    mapped = load_index(tmp_path / "moved" / "index.faiss", len(VECTORS), 16)
    queries = unit_vectors(20, seed=5)
    for found, wanted in zip(mapped.search(queries, 5), in_memory.search(queries, 5), strict=True):
        assert np.array_equal(found, wanted)


def test_centroids_are_clustered_on_gpus_where_faiss_sees_them(monkeypatch: pytest.MonkeyPatch) -> None:
    # There is no GPU here: what is shown is that the search for the nearest centroid goes through the index that Faiss
    # gives for all GPUs, and that an index trained so is whole. The stand-in for it is the CPU index itself.
    faiss, moved = load_faiss(), []

    def to_all_gpus(index: Any) -> Any:
        moved.append(type(index).__name__)
        return index

    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 2)
    monkeypatch.setattr(faiss, "index_cpu_to_all_gpus", to_all_gpus, raising=False)
    with_gpus = trained("IVF16,SQ8")
    assert moved == ["IndexFlat"]
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0)
    assert trained("IVF16,SQ8") == with_gpus
    assert moved == ["IndexFlat"]


def test_the_device_decides_where_to_train(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_faiss(), "get_num_gpus", lambda: 3)
    assert [gpus_for("auto"), gpus_for("cpu"), gpus_for("gpu")] == [3, 0, 3]


def test_a_gpu_that_faiss_does_not_see_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_faiss(), "get_num_gpus", lambda: 0)
    assert gpus_for("auto") == 0
    with pytest.raises(DependencyError, match=r"sees no GPU, which index\.device = 'gpu' asks for"):
        train_index(create_index("Flat", 16, 1), "Flat", VECTORS[:1], device="gpu")


def test_graphs_are_built_on_one_thread_and_the_count_is_restored() -> None:
    faiss = load_faiss()
    before, seen = faiss.omp_get_max_threads(), []
    faiss.omp_set_num_threads(3)
    try:
        with faiss_loader.on_one_thread(faiss, when=True):
            seen.append(faiss.omp_get_max_threads())
        with faiss_loader.on_one_thread(faiss, when=False):
            seen.append(faiss.omp_get_max_threads())
    finally:
        faiss.omp_set_num_threads(before)
    assert seen == [1, 3]
