"""Shards of embeddings as other tools write them, read as plain data, and joined to one file."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from retro.common.errors import DataError
from retro.recipes.passages import vectors as conversion
from retro.recipes.passages.passages import Passages
from retro.recipes.passages.shard_writer import stream_shard
from retro.recipes.passages.shards import find_shards, read_shard, shard_name, shard_rows, write_shard
from retro.recipes.passages.vectors import Vectors, open_vectors
from tests.mcore.hostile import Evil, infected, payloads
from tests.recipes.passages.world import made_passages, write_tsv


def numbers(rows: int, dimension: int = 3, dtype: str = "float32") -> NDArray[Any]:
    return np.arange(rows * dimension, dtype=dtype).reshape(rows, dimension)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_shard_is_read_as_pickle_wrote_it(protocol: int, dtype: str, order: Any, tmp_path: Path) -> None:
    wanted = np.asarray(np.random.default_rng(0).normal(size=(70, 33)).astype(dtype), order=order)
    path = tmp_path / "passages_00"
    path.write_bytes(pickle.dumps(([str(n) for n in range(70)], wanted), protocol))
    shard = read_shard(path)
    assert shard.ids == tuple(str(n) for n in range(70))
    assert np.array_equal(shard.vectors.map(), wanted)
    assert shard.vectors.map().dtype == dtype


def test_the_names_of_numpy_1_and_numpy_2_are_understood(tmp_path: Path) -> None:
    path = tmp_path / "passages_00"
    written = pickle.dumps((["a"], numbers(1)), 3)
    former, current = b"cnumpy.core.multiarray\n", b"cnumpy._core.multiarray\n"
    assert current in written or former in written
    for name in (former, current):
        path.write_bytes(written.replace(current, former).replace(former, name))
        assert read_shard(path).vectors.map().tolist() == [[0, 1, 2]]


def test_other_tools_read_what_is_written_and_whole_numbers_are_ids(tmp_path: Path) -> None:
    write_shard(tmp_path / "passages_00", ["a", "b"], numbers(2, dtype="float16"))
    ids, vectors = pickle.loads((tmp_path / "passages_00").read_bytes())  # noqa: S301 - as other tools do
    assert (ids, vectors.tolist(), vectors.dtype) == (["a", "b"], [[0, 1, 2], [3, 4, 5]], np.float16)
    (tmp_path / "passages_01").write_bytes(pickle.dumps([[7, "b"], numbers(2)]))
    assert read_shard(tmp_path / "passages_01").ids == ("7", "b")
    with pytest.raises(ValueError, match="got 1 ids and 2 vectors"):
        write_shard(tmp_path / "passages_02", ["a"], numbers(2))


WRONG: dict[str, tuple[Any, str]] = {
    "a dictionary": ({"a": 1}, "it holds a dict, needed is a pair of ids and vectors"),
    "three parts": ((["a"], numbers(1), 1), "it holds a tuple, needed is a pair"),
    "no array": ((["a"], [[1.0]]), "its second part is a list, needed is an array of numbers"),
    "objects": ((["a"], np.array([["x"]], dtype=object)), "it has an array of 'O8', which are not plain numbers"),
    "texts": ((["a"], np.array([["x"]])), "it has an array of 'U1', which are not plain numbers"),
    "records": ((["a"], np.zeros(1, dtype=[("x", "f4")])), "it has an array of what are not plain numbers"),
    "doubles": ((["a"], np.zeros((1, 2))), r"it has an array float64 \(1, 2\), needed is float16 or float32"),
    "whole numbers": ((["a"], np.zeros((1, 2), np.int32)), r"it has an array int32 \(1, 2\)"),
    "another byte order": ((["a"], np.zeros((1, 2), ">f4")), "their bytes in another order"),
    "one axis": ((["a"], np.zeros(1, np.float32)), r"it has an array float32 \(1,\)"),
    "ids that lack": ((["a"], numbers(2)), "it has 1 ids for 2 vectors"),
    "an id that is a number": (([0.5], numbers(1)), "it has a float as an id"),
    "an id that is a truth": (([True], numbers(1)), "it has a bool as an id"),
    "an id of many digits": (([10**40], numbers(1)), "it has a int as an id"),
    "nothing": (([], numbers(0)), "it holds no vector"),
    "no values": ((["a"], np.zeros((1, 0), np.float32)), "it holds no vector"),
    "code": ((["a"], Evil(Path("x"))), r"it names posix\.system"),
    "a scalar": ((["a"], np.float32(1)), r"it names numpy\._?core\.multiarray\.scalar"),
}


@pytest.mark.parametrize("way", WRONG)
def test_what_is_no_shard_says_what_it_is(way: str, tmp_path: Path) -> None:
    value, problem = WRONG[way]
    (tmp_path / "passages_00").write_bytes(pickle.dumps(value))
    with pytest.raises(DataError, match=rf"passages_00: is not a shard of embeddings: .*{problem}"):
        read_shard(tmp_path / "passages_00")


@pytest.mark.parametrize("way", payloads(Path("x")))
def test_a_shard_that_runs_code_is_refused_and_runs_nothing(way: str, tmp_path: Path) -> None:
    good = pickle.dumps((["a"], numbers(1)), 4)
    path = tmp_path / "passages_00"
    path.write_bytes(infected(good, payloads(tmp_path / "ran")[way]))
    with pytest.raises(DataError, match=r"passages_00: is not a shard of embeddings: .* Nothing in it was run"):
        read_shard(path)
    assert not (tmp_path / "ran").exists()


def test_a_class_that_unpickling_would_call_is_not_called(tmp_path: Path) -> None:
    path = tmp_path / "passages_00"
    path.write_bytes(pickle.dumps(([Evil(tmp_path / "ran")], numbers(1))))
    with pytest.raises(DataError, match=r"names posix\.system, which such a file has no use for"):
        read_shard(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("cut", [0, 1, 30, 200, -1])
def test_a_shard_that_is_cut_short_is_named(cut: int, tmp_path: Path) -> None:
    content = pickle.dumps(([str(n) for n in range(50)], numbers(50)), 4)
    (tmp_path / "passages_00").write_bytes(content[:cut])
    with pytest.raises(DataError, match=r"passages_00: is not a shard of embeddings: it is (cut short|damaged)"):
        read_shard(tmp_path / "passages_00")


def test_an_array_that_claims_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    content = pickle.dumps((["a"] * 1, numbers(1, 200)), 4)
    # The shape (1, 200), as two small numbers and a tuple.
    assert content.count(b"K\x01K\xc8\x86") == 1
    forged = content.replace(b"K\x01K\xc8\x86", b"K\x01K\xff\x86")
    (tmp_path / "passages_00").write_bytes(forged)
    with pytest.raises(DataError, match=r"\(1, 255\) of float32, which takes 1,020 bytes, and holds 800 bytes"):
        read_shard(tmp_path / "passages_00")


def test_a_shard_with_one_id_twice_or_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    write_shard(tmp_path / "passages_00", ["a", "b", "a"], numbers(3))
    with pytest.raises(DataError, match="passages_00: has the id 'a' twice"):
        read_shard(tmp_path / "passages_00")
    with pytest.raises(DataError, match="passages_01: cannot be read"):
        read_shard(tmp_path / "passages_01")


@pytest.mark.parametrize(("passages", "shards"), [(10, 1), (10, 3), (7, 7), (21, 4)])
def test_shards_divide_passages_as_the_tools_do(passages: int, shards: int) -> None:
    rows = [shard_rows(passages, number, shards) for number in range(shards)]
    assert [row for part in rows for row in part] == list(range(passages))
    assert {len(part) for part in rows[:-1]} <= {passages // shards}
    assert [shard_name(0), shard_name(11), shard_name(3, "wiki")] == ["passages_00", "passages_11", "wiki_03"]


def test_shards_are_found_by_their_numbers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("p_2", "p_10", "p_0", "p_1", *(f"p_{n}" for n in range(3, 10)), "index.faiss", ".hidden_0"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "folder_11").mkdir()
    wanted = [tmp_path / f"p_{number}" for number in range(11)]
    with caplog.at_level("INFO"):
        assert find_shards(f"{tmp_path}/*") == find_shards(str(tmp_path)) == find_shards(f"{tmp_path}/p_*") == wanted
    assert "passed over, since the name of a shard ends in a number: index.faiss" in caplog.text


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        ([], "matches no shard of embeddings"),
        (["index.faiss"], r"matches no shard of embeddings; it matches index\.faiss"),
        (["p_00", "p_01", "p_03"], "lacks 1 of 4 shards: 2"),
        (["p_1"], "lacks 1 of 2 shards: 0"),
        (["p_2020"], r"lacks 2020 of 2021 shards: 0, 1, 2, 3, 4, 5, 6, 7 …"),
        (["p_00", "q_00"], "q_00: has the number of p_00: both are shard 0"),
    ],
)
def test_shards_that_are_missing_or_of_two_sets_are_named(names: list[str], problem: str, tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match=problem):
        find_shards(f"{tmp_path}/*")


@pytest.fixture
def passages(tmp_path: Path) -> Passages:
    """Six passages, 100 to 105."""
    return Passages.open(write_tsv(tmp_path / "passages.tsv", made_passages(6)), tmp_path / "store")


def converted(folder: Path, passages: Passages) -> Vectors:
    return open_vectors(find_shards(f"{folder}/passages_*"), passages, folder / "store")


def test_shards_become_one_mapped_file(passages: Passages, tmp_path: Path) -> None:
    write_shard(tmp_path / "passages_00", ["103", "100"], numbers(2, dtype="float16"))
    write_shard(tmp_path / "passages_01", ["101", "102", "105", "104"], 10 + numbers(4, dtype="float16"))
    found = converted(tmp_path, passages)
    assert (len(found), found.dimension, found.vectors_ND.dtype.name) == (6, 3, "float16")
    assert found.vectors_ND.tolist() == [*numbers(2).tolist(), *(10 + numbers(4)).tolist()]
    assert found.rows_N.tolist() == [3, 0, 1, 2, 5, 4]


def test_of_shards_in_two_precisions_none_is_rounded(passages: Passages, tmp_path: Path) -> None:
    write_shard(tmp_path / "passages_00", ["100", "101", "102"], numbers(3, dtype="float16"))
    write_shard(tmp_path / "passages_01", ["103", "104", "105"], numbers(3) + np.float32(1e-6))
    found = converted(tmp_path, passages)
    assert found.vectors_ND.dtype == np.float32
    assert np.array_equal(found.vectors_ND[3:], numbers(3) + np.float32(1e-6))


def test_conversion_is_done_once_and_again_when_a_shard_changes(
    passages: Passages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [str(100 + n) for n in range(6)]
    write_shard(tmp_path / "passages_00", ids, numbers(6))
    first = converted(tmp_path, passages)
    with monkeypatch.context() as patch:
        patch.setattr(conversion, "_convert", lambda *_: pytest.fail("converted again"))
        assert converted(tmp_path, passages).fingerprint == first.fingerprint
    write_shard(tmp_path / "passages_00", ids, 1 + numbers(6))
    again = converted(tmp_path, passages)
    assert again.vectors_ND[0].tolist() == [1, 2, 3]
    assert again.fingerprint != first.fingerprint


WRONG_SETS: dict[str, tuple[list[tuple[list[str], NDArray[Any]]], str]] = {
    "a foreign shard": (
        [(["100", "101"], numbers(2)), (["7", "102", "8"], numbers(3))],
        r"passages_01: has 2 of 3 ids that passages\.tsv has not, '7' first",
    ),
    "an id in two shards": (
        [(["100", "101"], numbers(2)), (["102", "101"], numbers(2))],
        "passages_01: has the id '101', which passages_00 has too",
    ),
    "another dimension": (
        [(["100"], numbers(1)), (["101"], numbers(1, 4))],
        "passages_01: has vectors of 4 values, passages_00 of 3",
    ),
    "the last shards missing": (
        [(["100", "101"], numbers(2)), (["102"], numbers(1))],
        r"passages\.tsv: has 3 of 6 passages without a vector, '103' first. Shards are missing after passages_01",
    ),
    "not a number": (
        [([str(100 + n) for n in range(6)], numbers(6) * np.array([1, 1, 1, np.nan, 1, 1], np.float32)[:, None])],
        r"passages_00: has infinite values or NaN in the vector of '103' \(number 3\)",
    ),
    "infinite": (
        [([str(100 + n) for n in range(6)], np.full((6, 3), np.inf, dtype=np.float16))],
        r"passages_00: has infinite values or NaN in the vector of '100' \(number 0\)",
    ),
}


@pytest.mark.parametrize("way", WRONG_SETS)
def test_shards_that_do_not_fit_are_named_and_leave_nothing(way: str, passages: Passages, tmp_path: Path) -> None:
    shards, problem = WRONG_SETS[way]
    for number, (ids, vectors) in enumerate(shards):
        write_shard(tmp_path / shard_name(number), ids, vectors)
    with pytest.raises(DataError, match=problem):
        converted(tmp_path, passages)
    assert not (tmp_path / "store" / conversion.FOLDER).exists()


def test_vectors_are_copied_some_at_a_time(passages: Passages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "_AT_ONCE", 2)
    write_shard(tmp_path / "passages_00", [str(100 + n) for n in range(5)], numbers(5))
    write_shard(tmp_path / "passages_01", ["105"], 50 + numbers(1))
    assert converted(tmp_path, passages).vectors_ND.tolist() == [*numbers(5).tolist(), [50, 51, 52]]


def test_a_large_shard_takes_no_memory_for_its_vectors(tmp_path: Path) -> None:
    import tracemalloc

    write_shard(tmp_path / "passages_00", ["a", "b"], np.zeros((2, 8_000_000), np.float16))
    tracemalloc.start()
    shard = read_shard(tmp_path / "passages_00")
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()
    assert not shard.vectors.map()[1, :9].any()


def test_a_shard_is_streamed_as_it_would_be_written_whole(tmp_path: Path) -> None:
    ids = [f"é{number}" * (1 + 100 * (number % 2)) for number in range(2500)]
    whole = numbers(2500)
    blocks = (whole[start : start + 999] for start in range(0, 2500, 999))
    stream_shard(tmp_path / "passages_00", iter(ids), blocks, (2500, 3), np.dtype(np.float32))
    write_shard(tmp_path / "passages_01", ids, whole)
    assert (tmp_path / "passages_00").read_bytes() == (tmp_path / "passages_01").read_bytes()
    found, vectors = pickle.loads((tmp_path / "passages_00").read_bytes())  # noqa: S301 - as other tools do
    assert found == ids
    assert np.array_equal(vectors, whole)
    shard = read_shard(tmp_path / "passages_00")
    assert shard.ids == tuple(ids)
    assert np.array_equal(shard.vectors.map(), whole)


@pytest.mark.parametrize(
    ("shape", "problem"),
    [
        ((3, 3), "got 2 ids and 3 vectors"),
        ((2, 4), r"a shard of \(2, 4\) got a block \(1, 3\)"),
        ((2, 3), "got 2 ids and 1 vectors"),
    ],
)
def test_parts_that_do_not_make_the_shard_leave_nothing(shape: tuple[int, int], problem: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=problem):
        stream_shard(tmp_path / "passages_00", ["a", "b"], [numbers(1)], shape, np.dtype(np.float32))
    assert list(tmp_path.iterdir()) == []
