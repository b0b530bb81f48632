"""Shards of embeddings, as Contriever's tools write and read them: passages_00, passages_01, …

A shard is a pickle of a pair: a list of N ids, and an array [N, D] of float16 or float32. A pickle runs what it names
when Python reads it, so it is read here as plain data (`retro.common.plain_pickle`).
"""

# Dims in this file. N passages of a shard   D dimension

from __future__ import annotations

import glob
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retro.common.errors import DataError
from retro.common.input_files import kind_of, reason
from retro.common.plain_pickle import PickleError
from retro.recipes.passages.pickled_arrays import StoredArray, read_pickled, stored_array
from retro.recipes.passages.shard_writer import stream_shard

log = logging.getLogger(__name__)

PREFIX = "passages"
_NAME = re.compile(r"(?P<prefix>.*)_(?P<number>\d{1,6})", re.DOTALL)
_NAMED = 8
"""Missing shards that a message names."""


@dataclass(frozen=True)
class Shard:
    """A shard; its vectors are in the file."""

    path: Path
    ids: tuple[str, ...]
    vectors: StoredArray
    """[N, D]"""


def shard_name(number: int, prefix: str = PREFIX) -> str:
    """The file name of a shard."""
    return f"{prefix}_{number:02d}"


def shard_number(path: Path) -> int:
    """The number of a shard, from its name."""
    found = _NAME.fullmatch(path.name)
    if found is None:
        raise ValueError(f"{path} has not the name of a shard")
    return int(found["number"])


def shard_rows(passages: int, number: int, shards: int) -> range:
    """The rows of a shard: equal numbers of passages, and the rest in the last one, as Contriever's tools divide them.

    Args:
        passages: All of them.
        number: Of the shard, from 0.
        shards: How many there are.
    """
    size = passages // shards
    return range(number * size, passages if number == shards - 1 else (number + 1) * size)


def find_shards(pattern: str) -> list[Path]:
    """The shards that a pattern matches, by their numbers. Other files and folders are passed over, and logged.

    Args:
        pattern: As in `wikipedia_embeddings/*`; or a folder.

    Raises:
        DataError: There is none, two have one number, or a number in between is missing.
    """
    found = sorted(Path(pattern).glob("*")) if Path(pattern).is_dir() else sorted(map(Path, glob.glob(pattern)))  # noqa: PTH207
    files = [path for path in found if kind_of(path) == "a file" and not path.name.startswith(".")]
    shards = [path for path in files if _NAME.fullmatch(path.name)]
    others = ", ".join(path.name for path in files if path not in shards)
    if not shards:
        problem = f"matches no shard of embeddings{f'; it matches {others[:200]}' if others else ''}"
        raise DataError(pattern, problem, "Give a pattern of files whose names end in a number, as passages_00")
    if others:
        log.info("%s: passed over, since the name of a shard ends in a number: %s", pattern, others[:200])
    by_number: dict[int, Path] = {}
    for path in shards:
        other = by_number.setdefault(shard_number(path), path)
        if other != path:
            remedy = "Give a pattern that matches the shards of one set of passages"
            raise DataError(path, f"has the number of {other.name}: both are shard {shard_number(path)}", remedy)
    require_numbers(pattern, by_number, max(by_number) + 1)
    return [by_number[number] for number in sorted(by_number)]


def require_numbers(where: Path | str, there: Any, shards: int) -> None:
    """Raise DataError unless the numbers of all `shards` shards are in `there`."""
    missing = [number for number in range(shards) if number not in there]
    if missing:
        named = ", ".join(map(str, missing[:_NAMED])) + (" …" if len(missing) > _NAMED else "")
        problem = f"lacks {len(missing)} of {shards} shards: {named}"
        raise DataError(where, problem, "Embed or fetch them; without them their passages are never found")


def read_shard(path: Path) -> Shard:
    """A shard, checked as far as it can be without its numbers.

    Raises:
        DataError: It is not a pickle of ids and vectors, or is damaged.
    """
    try:
        ids, vectors = _pair(path, read_pickled(path))
    except PickleError as error:
        raise _bad(path, str(error)) from None
    except OSError as error:
        raise DataError(path, f"cannot be read ({reason(error)})", "Check the file and its permissions") from None
    if _may_repeat(ids) and len(set(ids)) < len(ids):
        seen: set[str] = set()
        twice = next(one for one in ids if one in seen or seen.add(one))  # type: ignore[func-returns-value]
        raise DataError(path, f"has the id {twice[:80]!r} twice", "Embed its passages again")
    return Shard(path, ids, vectors)


def _may_repeat(ids: Sequence[str]) -> bool:
    """Whether two hashes are equal: 8 bytes an id, where a set of them takes ten times as much."""
    hashes = np.sort(np.fromiter(map(hash, ids), dtype=np.int64, count=len(ids)))
    return bool((hashes[1:] == hashes[:-1]).any())


def _pair(path: Path, value: Any) -> tuple[tuple[str, ...], StoredArray]:
    match value:
        case (list() | tuple() as ids, described) if isinstance(value, tuple | list):
            vectors = stored_array(path, described)
        case _:
            raise PickleError(f"it holds a {type(value).__name__}, needed is a pair of ids and vectors")
    if vectors is None:
        raise PickleError(f"its second part is a {type(described).__name__}, needed is an array of numbers")
    if len(vectors.shape) != 2 or vectors.dtype not in (np.float16, np.float32):
        found = f"an array {vectors.dtype} {vectors.shape}"
        raise PickleError(f"it has {found}, needed is float16 or float32 [passages, dimension]")
    if len(ids) != vectors.shape[0]:
        raise PickleError(f"it has {len(ids)} ids for {vectors.shape[0]} vectors")
    if not ids or not vectors.shape[1]:
        raise PickleError("it holds no vector")
    return tuple(map(_id, ids)), vectors


def _id(value: Any) -> str:
    if isinstance(value, str):
        return value
    if type(value) is int and abs(value) < 1 << 63:
        return str(value)
    raise PickleError(f"it has a {type(value).__name__} as an id, needed are texts or whole numbers")


def _bad(path: Path, problem: str) -> DataError:
    remedy = "Nothing in it was run. Fetch or embed it again"
    return DataError(path, f"is not a shard of embeddings: {problem}", remedy)


def write_shard(path: Path, ids: Sequence[str], vectors_ND: NDArray[Any]) -> None:
    """Write a shard as other tools read it, atomically.

    Raises:
        ValueError: There is not a vector for each id.
        ArtifactError: The disk is full.
    """
    stream_shard(path, ids, [vectors_ND], vectors_ND.shape, vectors_ND.dtype)
