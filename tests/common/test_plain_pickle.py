"""A pickle read as plain data gives values or an error, whatever its bytes are, and calls nothing."""

from __future__ import annotations

import io
import pickle
import random
import tracemalloc
from collections import OrderedDict
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from retro.common.plain_pickle import (
    BytesInFile,
    DescribedObject,
    Name,
    PickleError,
    plain_values,
    read_plain,
    read_plain_file,
)
from tests.mcore.hostile import call, forged, named, payloads, text

# Python 3.13 keeps its paths in a module of their own.
PATHS = PurePosixPath.__module__
NAMES = dict.fromkeys(("pathlib", PATHS), frozenset({"PurePosixPath"})) | {"collections": frozenset({"OrderedDict"})}
VALUES: list[Any] = [
    {"a": [1, -1, 2**40, -(2**70), 0.5, True, None], "b": ("x", b"y", ()), 3: {"c": []}},
    [(1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
    "a text that is longer than 256 letters, with é and \U0001f600" * 20,
]


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_are_those_that_were_written(protocol: int) -> None:
    values = [value if protocol > 2 else without_bytes(value) for value in VALUES]
    assert read_plain(pickle.dumps(values, protocol), NAMES) == values


def without_bytes(value: Any) -> Any:
    """Older protocols call a function to make bytes."""
    return {**value, "b": "x"} if isinstance(value, dict) else value


def test_an_object_is_described_and_not_made() -> None:
    found = read_plain(pickle.dumps(PurePosixPath("a"), 4), NAMES)
    assert isinstance(found, DescribedObject)
    assert (found.of, found.args, found.state) == (Name(PATHS, "PurePosixPath"), ("a",), None)


def test_an_ordered_dictionary_is_a_dictionary_and_its_attributes_are_dropped() -> None:
    ordered = OrderedDict(a=1, b=2)
    ordered._metadata = {"version": 1}  # type: ignore[attr-defined]
    assert read_plain(pickle.dumps(ordered, 2), NAMES) == {"a": 1, "b": 2}


@pytest.mark.parametrize("way", payloads(Path("x")))
def test_no_way_of_running_code_does(way: str, tmp_path: Path) -> None:
    payload = payloads(tmp_path / "ran")[way]
    with pytest.raises(PickleError):
        read_plain(b"\x80\x04" + payload + b"N.", {})
    assert not (tmp_path / "ran").exists()


def test_the_attributes_of_a_class_that_may_be_named_cannot_be_replaced() -> None:
    operations = named("pathlib", "PurePosixPath") + b"}(" + text("__init__") + b"Nub."
    with pytest.raises(PickleError, match=r"it replaces the attributes of pathlib\.PurePosixPath"):
        read_plain(operations, NAMES)


def test_what_a_call_gives_cannot_be_called() -> None:
    operations = call(call(named("pathlib", "PurePosixPath"), text("a")), text("b")) + b"."
    with pytest.raises(PickleError, match="it calls what is not a name"):
        read_plain(operations, NAMES)


HUGE = {
    "a byte array by its length": b"\x80\x05\x96" + (10**12).to_bytes(8, "little") + b".",
    "bytes by their length": b"\x80\x04\x8e" + (10**12).to_bytes(8, "little") + b".",
    "a byte array by a call": forged("builtins", "bytearray", size=10**12),
    "a number of a gigabyte": b"\x80\x04\x8b" + (2**30).to_bytes(4, "little") + b"x.",
    "a number with many digits": b"L" + b"9" * 100_000 + b"L\n.",
    "many lists": b"]" * 3_000 + b".",
    "deep tuples as a key": b")" + b"\x85" * 100_000 + b"}(" + b")" + b"\x85" * 100_000 + b"Nu.",
    "a list that holds itself": b"]2a" * 2000 + b".",
}


@pytest.mark.parametrize("way", HUGE)
def test_a_short_file_takes_little_memory(way: str) -> None:
    tracemalloc.start()
    with pytest.raises(PickleError):
        read_plain(HUGE[way], NAMES, most=2_000)
    assert tracemalloc.get_traced_memory()[1] < 40_000_000
    tracemalloc.stop()


def test_values_that_are_shared_many_times_are_not_copied_without_end() -> None:
    value: list[Any] = []
    for _ in range(40):
        value = [value, value]
    with pytest.raises(PickleError, match="more values than can be read"):
        plain_values(read_plain(pickle.dumps(value), NAMES), most=5_000)
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(PickleError, match="more values than can be read"):
        plain_values(read_plain(pickle.dumps(loop), NAMES), most=5_000)


def test_plain_values_hold_no_objects() -> None:
    with pytest.raises(PickleError, match=f"a {PATHS}.PurePosixPath where a plain value is needed"):
        plain_values(read_plain(pickle.dumps([PurePosixPath("a")], 4), NAMES))


def test_any_bytes_give_a_value_or_one_error() -> None:
    generator = random.Random(5)
    seeds = [pickle.dumps(VALUES, protocol) for protocol in range(6)] + list(payloads(Path("x")).values())
    for _ in range(3_000):
        data = bytearray(generator.choice(seeds))
        for _ in range(generator.randint(1, 4)):
            data[generator.randrange(len(data))] = generator.randrange(256)
        try:
            read_plain(bytes(data), NAMES)
        except PickleError:
            continue


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("length", [3, 300, 100_000])
def test_byte_strings_of_a_file_are_left_in_it(protocol: int, length: int) -> None:
    content = random.Random(length).randbytes(length)
    value = {"a": [1, "x" * 300], "b": content}
    data = b"before" + pickle.dumps(value, protocol)
    stream = io.BytesIO(data)
    stream.seek(len(b"before"))
    found = read_plain_file(stream, {})
    left = found.pop("b")
    assert found == {"a": [1, "x" * 300]}
    assert isinstance(left, BytesInFile)
    assert data[left.start : left.start + left.length] == content


def test_a_byte_array_of_a_file_is_left_in_it_too() -> None:
    data = pickle.dumps(bytearray(b"12345"), 5)
    left = read_plain_file(io.BytesIO(data), {})
    assert data[left.start : left.start + left.length] == b"12345"


@pytest.mark.parametrize("way", payloads(Path("x")))
def test_no_way_of_running_code_does_in_a_file(way: str, tmp_path: Path) -> None:
    payload = payloads(tmp_path / "ran")[way]
    with pytest.raises(PickleError):
        read_plain_file(io.BytesIO(b"\x80\x04" + payload + b"N."), {})
    assert not (tmp_path / "ran").exists()


def test_any_file_gives_a_value_or_one_error() -> None:
    generator = random.Random(6)
    seeds = [pickle.dumps([*VALUES, b"y" * 400], protocol) for protocol in range(3, 6)]
    for _ in range(2_000):
        data = bytearray(generator.choice(seeds))
        for _ in range(generator.randint(1, 4)):
            data[generator.randrange(len(data))] = generator.randrange(256)
        try:
            read_plain_file(io.BytesIO(bytes(data[: generator.randint(1, len(data))])), NAMES)
        except PickleError:
            continue


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "cut short"),
        (b"\x80\x04B\xff\x00\x00\x00abc.", "cut short"),
        (b"\x80\x04\x8e\x01\x00", "cut short"),
        (b"\x80\x04N", "cut short"),
        (b"\x80\x04\xff.", "0xff is no operation"),
    ],
)
def test_a_file_that_is_cut_short_says_so(data: bytes, problem: str) -> None:
    with pytest.raises(PickleError, match=problem):
        read_plain_file(io.BytesIO(data), {})
