from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retro.common.blocks import Block, BlockStore, ranges
from retro.common.errors import ArtifactError
from tests.db.stops import flip_byte, full_disk


def store(directory: Path, inputs: tuple[str, ...] = ("p", "q", "r"), rows: tuple[int, ...] = (2, 2, 1)) -> BlockStore:
    return BlockStore(directory=directory / "blocks", inputs=inputs, expected_rows=rows, stage="db")


def block(rows: int, start: int = 0) -> Block:
    return Block({"x": np.arange(start, start + rows), "y": np.ones((rows, 3), dtype=np.float16)}, {"dropped": 4})


def fill(blocks: BlockStore) -> BlockStore:
    for number, rows in enumerate(blocks.expected_rows):
        blocks.write(number, block(rows))
    return blocks


def to_build(blocks: BlockStore) -> list[int]:
    return [number for number in range(len(blocks)) if blocks.must_build(number)]


def test_a_block_is_read_as_it_was_written(tmp_path: Path) -> None:
    blocks = fill(store(tmp_path))
    found = blocks.read(1)
    assert found.arrays["x"].tolist() == [0, 1]
    assert found.arrays["y"].dtype == np.float16
    assert found.counts == blocks.counts(1) == {"dropped": 4}
    assert found.rows == 2


def test_a_damaged_block_of_a_recipe_names_its_command(tmp_path: Path) -> None:
    blocks = replace(fill(store(tmp_path)), stage="tiny.label")
    flip_byte(blocks.path(1), "x")
    with pytest.raises(ArtifactError, match=r"Run `retro recipe tiny run CONFIG label` again"):
        blocks.read(1)


def test_equal_blocks_are_equal_files(tmp_path: Path) -> None:
    first, second = fill(store(tmp_path / "1")), fill(store(tmp_path / "2"))
    assert first.path(0).read_bytes() == second.path(0).read_bytes()


@pytest.mark.parametrize("dataset", ["x", "y"])
def test_a_flipped_byte_makes_a_block_pending_and_unreadable(
    tmp_path: Path, dataset: str, caplog: pytest.LogCaptureFixture
) -> None:
    blocks = fill(store(tmp_path))
    flip_byte(blocks.path(1), dataset)
    with pytest.raises(ArtifactError, match=r"000001\.h5: has changed bytes .* Run `retro db` again"):
        blocks.read(1)
    assert to_build(blocks) == [1]
    assert "000001.h5 has changed bytes (checksum); it is built again" in caplog.text
    assert blocks.present() == {0, 2}


def test_a_block_cut_short_is_pending_at_any_length(tmp_path: Path) -> None:
    blocks = fill(store(tmp_path))
    content = blocks.path(0).read_bytes()
    for length in range(0, len(content), 97):
        blocks.path(0).write_bytes(content[:length])
        assert to_build(blocks) == [0]


def test_a_block_of_other_inputs_is_pending_though_it_opens(tmp_path: Path) -> None:
    fill(store(tmp_path))
    other = store(tmp_path, inputs=("p", "changed", "r"))
    with pytest.raises(ArtifactError, match="was made from other inputs or settings"):
        other.read(1)
    assert to_build(other) == [1]


def test_a_block_with_other_rows_than_planned_is_pending(tmp_path: Path) -> None:
    fill(store(tmp_path))
    assert to_build(store(tmp_path, rows=(2, 5, 1))) == [1]


def test_a_block_whose_datasets_lost_rows_is_pending(tmp_path: Path) -> None:
    blocks = fill(store(tmp_path))
    with h5py.File(blocks.path(2), "a") as file:
        file.attrs["rows"] = 7
    assert to_build(blocks) == [2]


def test_a_plan_that_the_maker_breaks_is_a_mistake_of_the_program(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="block 0 has 3 rows, planned were 2"):
        store(tmp_path).write(0, block(3))
    with pytest.raises(ValueError, match=r"lengths \[1, 2\]"):
        store(tmp_path).write(0, Block({"x": np.zeros(1), "y": np.zeros(2)}))


def test_a_missing_block_has_no_counts(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"000001\.h5: is missing"):
        store(tmp_path).counts(1)


def test_a_damaged_block_is_removed_when_it_is_taken_to_be_joined(tmp_path: Path) -> None:
    blocks = fill(store(tmp_path))
    flip_byte(blocks.path(1), "x")
    assert blocks.is_written(1)
    with pytest.raises(ArtifactError, match=r"000001\.h5: has changed bytes"):
        blocks.take(1)
    assert blocks.present() == {0, 2}


def test_a_full_disk_keeps_what_was_complete(tmp_path: Path) -> None:
    blocks = store(tmp_path)
    blocks.write(0, block(2))
    with full_disk(after=0), pytest.raises(ArtifactError, match=r"000001\.h5: the disk is full"):
        blocks.write(1, block(2))
    assert to_build(blocks) == [1, 2]
    assert [path.name for path in blocks.directory.iterdir()] == ["000000.h5"]


def test_removed_blocks_are_gone_and_removing_twice_is_no_error(tmp_path: Path) -> None:
    blocks = fill(store(tmp_path))
    blocks.remove()
    blocks.remove()
    assert not blocks.directory.exists()


def test_counts_belong_to_the_checksum() -> None:
    assert Block({"x": np.zeros(1)}, {"a": 1}).checksum != Block({"x": np.zeros(1)}, {"a": 2}).checksum
    assert Block({"x": np.zeros(2)}).checksum != Block({"x": np.zeros((2, 1))}).checksum


@given(st.integers(0, 50), st.integers(1, 20))
def test_ranges_cover_everything_once_in_order(total: int, size: int) -> None:
    parts = ranges(total, size)
    assert [unit for part in parts for unit in part] == list(range(total))
    assert all(len(part) == size for part in parts[:-1])


def test_a_range_needs_a_size() -> None:
    with pytest.raises(ValueError, match="positive size"):
        ranges(3, 0)
