"""Sizes from factory strings, against real indexes."""

from __future__ import annotations

import numpy as np
import pytest

from retro.common.errors import ConfigError
from retro.index.faiss_loader import load_faiss
from retro.planning.faiss_bytes import code_bytes, index_bytes, searched_bytes, training_flops
from retro.planning.faiss_string import FLAT, Code, FaissString, Transform, parse


def real_bytes(factory: str, dimension: int, vectors: int) -> int:
    """Bytes of such an index as Faiss stores it; trained as little as it lets us, since sizes do not depend on it."""
    faiss = load_faiss()
    index = faiss.index_factory(dimension, factory, faiss.METRIC_INNER_PRODUCT)
    data = np.random.default_rng(7).standard_normal((max(vectors, 300), dimension)).astype(np.float32)
    if isinstance(index, faiss.IndexPreTransform):
        rotation = faiss.downcast_VectorTransform(index.chain.at(0))
        rotation.niter = rotation.niter_pq = rotation.niter_pq_0 = 1
    index.train(data)
    index.add(data[:vectors])
    return len(faiss.serialize_index(index))


EXACT = [
    "Flat", "SQ8", "SQ4", "SQ6", "SQfp16", "SQbf16", "PQ4x4np", "PQ8x4np", "RaBitQ", "RaBitQ4", "IVF8,Flat", "IVF8,SQ8",
    "IVF8,SQfp16", "IVF8,PQ8x4np", "IVF8,RaBitQ", "IVF8,RaBitQ4", "RR16,IVF8,RaBitQ",
    "PCA16,Flat", "PCAR8,IVF8,SQ8", "L2norm,Flat", "IVF8,RaBitQ,RFlat", "IVF8,SQ8,Refine(SQfp16)", "SQ4,Refine(SQ8)",
    "PCA16,IVF8,RaBitQ,RFlat",
]  # fmt: skip


@pytest.mark.parametrize("dimension", [32, 48])
@pytest.mark.parametrize("factory", EXACT)
def test_the_bytes_of_an_index_are_those_that_faiss_writes(factory: str, dimension: int) -> None:
    for vectors in (40, 137):
        assert index_bytes(parse(factory), dimension, vectors).total == real_bytes(factory, dimension, vectors)


def test_the_original_recipe_is_exact_too() -> None:
    for factory in ("OPQ8_16,IVF8,PQ8np", "OPQ4,PQ4x4np"):
        assert index_bytes(parse(factory), 32, 280).total == real_bytes(factory, 32, 280)


@pytest.mark.parametrize("factory", ["HNSW8", "HNSW16,SQ8", "HNSW", "IVF200_HNSW16,Flat", "IVF256_HNSW,SQ8"])
def test_the_levels_of_a_graph_are_random_so_its_bytes_are_a_mean(factory: str) -> None:
    assert index_bytes(parse(factory), 32, 2000).total == pytest.approx(real_bytes(factory, 32, 2000), rel=0.01)


def test_a_string_is_taken_apart() -> None:
    assert parse("OPQ64_128,IVF4194304_HNSW32,PQ64") == FaissString(
        text="OPQ64_128,IVF4194304_HNSW32,PQ64",
        transforms=(Transform("OPQ", 128),),
        lists=4_194_304,
        coarse_links=32,
        links=0,
        code=Code("product", 8, 64),
        refine=None,
    )
    assert parse("IVF4M,SQ8").lists == 4 * 2**20
    assert parse("HNSW16").code == FLAT
    assert parse("IVF8,PQ16x4,RFlat").refine == FLAT


@pytest.mark.parametrize("text", ["OPQ64_128,IVF4194304_HNSW32,PQ64", "RR384,IVF9,RaBitQ4,RFlat", "HNSW16,SQ8", "L2norm,Flat"])  # fmt: skip  # noqa: E501
def test_a_string_written_again_means_the_same(text: str) -> None:
    parsed = parse(text)
    again = parse(parsed.factory(1024))
    assert (again.lists, again.links, again.coarse_links) == (parsed.lists, parsed.links, parsed.coarse_links)
    assert (again.transforms, again.code, again.refine) == (parsed.transforms, parsed.code, parsed.refine)


def test_a_benchmark_takes_fewer_lists_and_a_rotation_that_needs_no_training() -> None:
    small = parse("OPQ64_128,IVF4194304_HNSW32,PQ64").with_lists(1024)
    assert small.factory(1024) == "RR128,IVF1024_HNSW32,PQ64"


def test_codes_by_hand() -> None:
    assert code_bytes(Code("product", 8, 64), 128) == 64
    assert code_bytes(Code("product", 4, 48), 384) == 24
    assert code_bytes(Code("scalar", 8), 384) == 384
    # 384 signs are 48 bytes; two factors of 4.
    assert code_bytes(Code("rabitq", 1), 384) == 56
    assert code_bytes(FLAT, 384) == 1536


def test_a_mapped_index_keeps_all_but_its_lists_in_memory() -> None:
    found = index_bytes(parse("IVF1024,SQ8"), 64, 50_000)
    assert found.total - found.resident == 50_000 * (64 + 8)
    assert found.per_vector(50_000) == 72
    graph = index_bytes(parse("HNSW16"), 64, 1000)
    assert graph.resident == graph.total


def test_a_query_reads_its_share_of_the_codes() -> None:
    assert searched_bytes(parse("IVF100,SQ8"), 32, 5000, 4) == 4 / 100 * 5000 * 32
    assert searched_bytes(parse("IVF4,SQ8"), 32, 5000, 64) == 5000 * 32
    assert searched_bytes(parse("Flat"), 32, 5000, 4) == 5000 * 128
    assert searched_bytes(parse("HNSW32"), 32, 5000, 4) is None


def test_clustering_compares_each_vector_with_each_centroid_ten_times() -> None:
    assert training_flops(parse("OPQ4_16,IVF10,PQ4"), 32, 500) == 10 * 500 * 10 * 2 * 16
    # Faiss uses 256 vectors a centroid at most.
    assert training_flops(parse("IVF10,SQ8"), 32, 1e6) == 10 * 2560 * 10 * 2 * 32
    assert training_flops(parse("Flat"), 32, 1e6) == 0


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "a string that ends too early"),
        ("IVF100", "a string that ends too early"),
        ("LSH", "the part 'LSH'"),
        ("IVF8,PQ8,Rflat", "the part 'Rflat'"),
        ("IVF8,PQ8,RFlat,Flat", "the part 'Flat'"),
        ("IVF8,PQ8x4fs", "fast-scan codes are padded in each list"),
        ("IVF8,SQ8,Refine(LSH)", "the part 'LSH'"),
    ],
)
def test_a_part_of_unknown_size_is_named(text: str, found: str) -> None:
    with pytest.raises(ConfigError, match=r"--index = .*: needs parts of known size") as caught:
        parse(text)
    assert found in str(caught.value)


def test_a_string_that_does_not_fit_the_dimension_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"needs vectors of 128 values or more; they have 64"):
        index_bytes(parse("OPQ64_128,IVF8,PQ64"), 64, 10)
    with pytest.raises(ConfigError, match=r"subspaces that divides the 64 values of a vector, not 48"):
        index_bytes(parse("IVF8,PQ48"), 64, 10)
