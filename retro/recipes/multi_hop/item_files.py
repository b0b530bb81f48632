"""Files and folders of items: JSON, JSON lines, Parquet, HuggingFace's folders; read strictly, written whole."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from retro.common.errors import ConfigError, DataError
from retro.common.files import atomic_path
from retro.common.json_files import JsonItem, OnBad, json_items, read_text
from retro.corpus.tables import require_whole_dataset, table_rows
from retro.qa.formats.item import BadItemError
from retro.recipes.multi_hop.items import Layout, MultiHopItem, item_of, record_of

PARTS: Mapping[str, tuple[str, ...]] = {
    "train": ("train",),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test",),
}
"""Parts of a data set, and the names that files and folders of them have."""
_SUFFIXES = (".json", ".jsonl", ".parquet", ".arrow")
_SHARD = re.compile(r"-(\d{5})-of-(?P<count>\d{5})\.")
_STATE = "state.json"
_REMEDY = "Fix the item, or leave such items out, counted: --skip-bad, of the step samples training.skip_bad=true"


@dataclass
class ItemFile:
    """What a file or a folder holds."""

    items: list[MultiHopItem] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    """Items left out, by reason."""


def read_items(*paths: Path, skip_bad: bool = False) -> ItemFile:
    """The items of files in either layout, single and multi-hop mixed.

    Args:
        paths: Each a `.json` list, a file with one object per line, a `.parquet` or `.arrow` file, or a folder in which
            HuggingFace's `save_to_disk` left one part of a data set.
        skip_bad: Whether items that cannot be used are counted instead of refused.

    Raises:
        DataError: The file cannot be read, an item cannot be used (its line or number is named), or none is left.
        DependencyError: pyarrow is needed and missing.
    """
    found = ItemFile()

    def refuse(reason: str, error: DataError) -> None:
        if not skip_bad:
            raise error
        found.skipped[reason] += 1

    for file, one in (found for path in paths for found in _records(path, refuse)):
        try:
            found.items.append(item_of(one.value))
        except BadItemError as error:
            refuse(error.reason, DataError(file, f"{one.place} {error.problem}", _REMEDY))
    if not found.items:
        problem = f"has no item that could be used ({dict(sorted(found.skipped.items()))})"
        raise DataError(paths[0], problem, "Give items with question, sub_questions and final_answer")
    return found


def parts_of(path: Path) -> dict[str, tuple[Path, ...]]:
    """The parts of a data set that a folder holds, for `read_items`: `train`, `validation`, `test`, if they are there.

    A part is a file `train.jsonl` (.json, .parquet), all of HuggingFace's `train-00000-of-00002.parquet`, also below
    `data/`, or a folder that `save_to_disk` left. A file, or one saved part alone, is `train`.

    Raises:
        DataError: The path leads nowhere, a part is there twice or not whole, or none is there.
    """
    if path.is_file() or (path / _STATE).is_file():
        return {"train": (path,)}
    if not path.is_dir():
        raise DataError(path, "does not exist", "Give a file of items, or a folder with train and validation")
    folders = [path, *([path / "data"] if (path / "data").is_dir() else [])]
    entries = sorted(one for folder in folders for one in folder.iterdir() if not one.name.startswith("."))
    found = {}
    for part, names in PARTS.items():
        places = tuple(one for one in entries if _is_part(one, names))
        _require_one(path, part, places)
        if places:
            found[part] = places
    if not found:
        need = "Give train.jsonl and validation.jsonl (.json, .parquet), or a folder of save_to_disk"
        raise DataError(path, "holds no part of a data set", need)
    return found


def write_items(path: Path, items: Iterable[MultiHopItem], layout: Layout = "new") -> None:
    """Write a file of items: a list where the name ends in .json, one object per line where it ends in .jsonl.

    Raises:
        ConfigError: The name ends otherwise.
    """
    write_records(path, (record_of(one, layout) for one in items))


def write_records(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON objects: a list where the name ends in .json, one object per line where it ends in .jsonl.

    Raises:
        ConfigError: The name ends otherwise.
    """
    if path.suffix not in (".json", ".jsonl"):
        raise ConfigError("OUT", str(path), "needs a name that ends in .json or .jsonl")
    lines = [json.dumps(one, ensure_ascii=False) for one in records]
    listed = "[\n" + ",\n".join(lines) + "\n]\n" if lines else "[]\n"
    text = "".join(f"{line}\n" for line in lines) if path.suffix == ".jsonl" else listed
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _is_part(path: Path, names: tuple[str, ...]) -> bool:
    if path.is_dir():
        return path.name in names and (path / _STATE).is_file()
    return path.suffix in _SUFFIXES and path.name.split(".")[0].split("-")[0] in names


def _require_one(path: Path, part: str, places: tuple[Path, ...]) -> None:
    """Check that a part is there once: in one file or folder, or in all the shards of one."""
    shards = [_SHARD.search(one.name) for one in places]
    counts = {int(one["count"]) for one in shards if one}
    if any(shards) and (not all(shards) or counts != {len(places)}):
        problem = f"has shards of the part {part!r} that are not all of one: {', '.join(one.name for one in places)}"
        raise DataError(path, problem, "Copy the folder again, or name the files one by one")
    if len(places) > 1 and not any(shards):
        problem = f"has the part {part!r} more than once: {', '.join(one.name for one in places)}"
        raise DataError(path, problem, "Keep one of them")


def _records(path: Path, on_bad: OnBad) -> Iterator[tuple[Path, JsonItem]]:
    """Objects with the file that each is in."""
    if path.is_dir():
        state = path / _STATE
        if not state.is_file():
            raise DataError(path, f"is a folder without {_STATE}", "Name a file, or one part that save_to_disk left")
        require_whole_dataset(state)
        files = sorted(path.glob("*.arrow"))
    else:
        files = [path]
    for file in files:
        yield from ((file, one) for one in _reader(file)(file, on_bad))


def _reader(path: Path) -> Callable[[Path, OnBad], Iterator[JsonItem]]:
    return _rows if path.suffix in (".parquet", ".arrow") else _objects


def _objects(path: Path, on_bad: OnBad) -> Iterator[JsonItem]:
    return json_items(path, read_text(path, "file of items"), on_bad=on_bad)


def _rows(path: Path, on_bad: OnBad) -> Iterator[JsonItem]:
    kind = path.suffix.removeprefix(".")
    for number, row in enumerate(table_rows(path, kind, None, 0, None)):
        yield JsonItem(number, f"row {number}", row)
