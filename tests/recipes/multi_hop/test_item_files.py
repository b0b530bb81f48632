"""Files and folders of items, and those that cannot be used."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from retro.common.errors import ConfigError, DataError
from retro.recipes.multi_hop.item_files import parts_of, read_items, write_items
from retro.recipes.multi_hop.items import item_of
from tests.recipes.multi_hop.samples import NEW, OLD


def write(path: Path, *records: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(one) + "\n" for one in records))
    return path


def test_both_layouts_may_stand_in_one_file(tmp_path: Path) -> None:
    found = read_items(write(tmp_path / "a.jsonl", NEW, OLD, NEW))
    assert found.items == [item_of(NEW), item_of(OLD), item_of(NEW)]
    assert found.skipped == {}


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize("layout", ["new", "old"])
def test_what_is_written_is_read_again(tmp_path: Path, name: str, layout: Any) -> None:
    items = [item_of(NEW), item_of(OLD)]
    write_items(tmp_path / name, items, layout)
    assert read_items(tmp_path / name).items == items
    assert ((tmp_path / name).read_text()[0] == "[") == name.endswith(".json")


def test_an_item_that_cannot_be_used_is_named_by_its_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", NEW, OLD | {"question": ""})
    with pytest.raises(DataError, match=r"a\.jsonl: line 2 \(item 1\) has a blank 'question'.*--skip-bad"):
        read_items(path)
    path = tmp_path / "a.json"
    path.write_text(json.dumps([NEW, OLD | {"sub_questions": []}]))
    with pytest.raises(DataError, match=r"a\.json: item 1 has no 'sub_questions'"):
        read_items(path)


def test_what_is_left_out_is_counted_by_reason(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", NEW, OLD | {"question": ""}, NEW | {"multihop": False}, 3, OLD)
    path.write_text(path.read_text() + "{broken\n")
    found = read_items(path, skip_bad=True)
    assert found.items == [item_of(NEW), item_of(OLD)]
    assert found.skipped == {"no_question": 1, "number_of_sub_questions": 1, "not_an_object": 1, "broken_json": 1}


def test_a_file_without_items_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no item that could be used \(\{'no_question': 1\}\)"):
        read_items(write(tmp_path / "a.jsonl", OLD | {"question": ""}), skip_bad=True)


def test_items_are_written_under_known_names_only(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"needs a name that ends in \.json or \.jsonl"):
        write_items(tmp_path / "a.csv", [item_of(NEW)])


def test_a_folder_has_parts(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", NEW)
    write(tmp_path / "data" / "val.json", OLD)
    write(tmp_path / "notes.txt", OLD)
    assert parts_of(tmp_path) == {
        "train": (tmp_path / "train.jsonl",),
        "validation": (tmp_path / "data" / "val.json",),
    }
    assert parts_of(tmp_path / "train.jsonl") == {"train": (tmp_path / "train.jsonl",)}


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a.jsonl"], "holds no part of a data set"),
        (["train.jsonl", "train.json"], "has the part 'train' more than once: train.json, train.jsonl"),
        (["train-00000-of-00002.parquet"], "has shards of the part 'train' that are not all of one"),
        (["train-00000-of-00001.json", "train.json"], "has shards of the part 'train' that are not all of one"),
    ],
)
def test_a_folder_whose_parts_are_not_clear_is_refused(tmp_path: Path, names: list[str], words: str) -> None:
    for name in names:
        write(tmp_path / name, OLD)
    with pytest.raises(DataError) as caught:
        parts_of(tmp_path)
    assert words in str(caught.value)


def test_a_path_that_leads_nowhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none: does not exist"):
        parts_of(tmp_path / "none")
    with pytest.raises(DataError, match=r"is a folder without state\.json"):
        read_items(tmp_path)


def tables(records: list[Mapping[str, Any]]) -> Any:
    pyarrow = pytest.importorskip("pyarrow")
    return pyarrow.Table.from_pylist(records)


def test_rows_of_parquet_shards_are_items(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    for number, record in enumerate((NEW, OLD)):
        parquet.write_table(tables([record]), tmp_path / f"train-0000{number}-of-00002.parquet")
    assert read_items(*parts_of(tmp_path)["train"]).items == [item_of(NEW), item_of(OLD)]
    parquet.write_table(tables([NEW, NEW | {"question": ""}]), tmp_path / "bad.parquet")
    with pytest.raises(DataError, match=r"bad\.parquet: row 1 has a blank 'question'"):
        read_items(tmp_path / "bad.parquet")


def test_folders_that_the_datasets_library_saves_are_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    parts = {"train": datasets.Dataset.from_list([NEW, NEW]), "validation": datasets.Dataset.from_list([OLD])}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    found = parts_of(tmp_path / "saved")
    assert list(found) == ["train", "validation"]
    assert read_items(*found["train"]).items == [item_of(NEW), item_of(NEW)]
    assert read_items(*found["validation"]).items == [item_of(OLD)]
    (tmp_path / "saved" / "train" / "data-00000-of-00001.arrow").unlink()
    with pytest.raises(DataError, match="which is missing"):
        read_items(*found["train"])


def test_the_datasets_library_reads_what_is_written(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    for part in ("train", "validation"):
        write_items(tmp_path / "set" / f"{part}.jsonl", [item_of(NEW), item_of(NEW)])
    loaded = datasets.load_dataset(str(tmp_path / "set"), cache_dir=str(tmp_path / "cache"))
    assert [item_of(row) for row in loaded["validation"]] == [item_of(NEW), item_of(NEW)]
