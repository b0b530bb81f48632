"""Which index a step uses, that it is built while training goes on, and that a stopped run builds the same one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from retro.common.errors import ArtifactError
from retro.common.files import sha256_file
from retro.recipes.dynamic_prefix.joint.refresh import FlatIndex, IndexRefresher, Schedule, Searcher

TEN = Schedule(every=10, delay=4)


class Weight:
    """An "index" that finds the weight of the retriever that it was built with."""

    def __init__(self, retriever: nn.Module) -> None:
        self.value = int(next(retriever.parameters()))

    def search(self, questions: Sequence[str], k: int) -> NDArray[np.int64]:
        return np.full((len(questions), k), self.value)


def retriever(value: float) -> nn.Linear:
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, value)
    return module


def refresher(folder: Path, build: type[Weight] | None = None, steps: int = 100, kept: int = 0) -> IndexRefresher:
    found = IndexRefresher(folder, TEN, build or Weight, steps=steps, kept=kept)
    found.set_up(retriever(-1))
    return found


def value(index: Searcher) -> int:
    return int(index.search(["q"], 1)[0, 0])


def test_steps_use_the_last_snapshot_that_is_a_delay_behind_them() -> None:
    assert [TEN.snapshot_of(step) for step in (1, 10, 13, 14, 23, 24)] == [0, 0, 0, 10, 10, 20]
    assert [step for step in range(31) if TEN.taken_after(step)] == [0, 10, 20, 30]
    # Step 13 computes with the weights after 12 steps, step 14 with those after 13.
    assert TEN.uses(20) == [
        {"snapshot": 0, "first_step": 1, "last_step": 13, "stale_first": 0, "stale_last": 12},
        {"snapshot": 10, "first_step": 14, "last_step": 20, "stale_first": 3, "stale_last": 9},
    ]


def test_without_a_refresh_all_steps_use_the_start() -> None:
    never = Schedule(every=0, delay=4)
    assert {never.snapshot_of(step) for step in range(1, 100)} == {0}
    assert [step for step in range(100) if never.taken_after(step)] == [0]
    assert never.uses(7) == [{"snapshot": 0, "first_step": 1, "last_step": 7, "stale_first": 0, "stale_last": 6}]


@pytest.mark.parametrize(("every", "delay"), [(4, 3), (5, 4), (10, 3), (10, 9), (100, 37)])
def test_every_step_has_one_index_that_was_published_before_its_samples_are_read(every: int, delay: int) -> None:
    schedule = Schedule(every=every, delay=delay)
    of_step: dict[int, int] = {}
    for use in schedule.uses(257):
        of_step |= dict.fromkeys(range(use["first_step"], use["last_step"] + 1), use["snapshot"])
    assert of_step == {step: schedule.snapshot_of(step) for step in range(1, 258)}
    # Step t is read while step t - 1 is computed, and snapshot s is taken when step s + 1 begins.
    assert all(snapshot == 0 or snapshot + 1 <= step - 2 for step, snapshot in of_step.items())


@pytest.mark.parametrize("delay", [2, 10, 11])
def test_a_delay_that_cannot_work_is_refused(delay: int) -> None:
    with pytest.raises(ValueError, match=rf"a delay of {delay} steps needs to be from 3 to below 10"):
        Schedule(every=10, delay=delay)


def test_training_goes_on_with_the_old_index_while_the_new_one_is_built_and_then_waits_for_it(tmp_path: Path) -> None:
    begun, go_on = Event(), Event()

    class Slow(Weight):
        def __init__(self, module: nn.Module) -> None:
            super().__init__(module)
            if self.value:
                begun.set()
                assert go_on.wait(60)

    with refresher(tmp_path, Slow) as indexes:
        indexes.publish(0, retriever(0))
        trained = retriever(7)
        indexes.publish(10, trained)
        # What is trained afterwards is not in the snapshot.
        nn.init.constant_(trained.weight, 99)
        assert begun.wait(60)
        assert [value(indexes.index_of(step)) for step in (11, 13)] == [0, 0]
        go_on.set()
        assert value(indexes.index_of(14)) == 7


def snapshots(folder: Path) -> dict[str, str]:
    """SHA-256 of each snapshot, by its name."""
    return {path.name: sha256_file(path) for path in folder.rglob("step_*.safetensors")}


def test_a_run_that_was_stopped_builds_what_its_next_step_uses_from_the_snapshot(tmp_path: Path) -> None:
    with refresher(tmp_path) as indexes:
        for snapshot in (0, 10, 20):
            indexes.publish(snapshot, retriever(snapshot + 5))
        before = snapshots(tmp_path)
    assert indexes.stopped
    with refresher(tmp_path) as again:
        assert [value(again.index_of(step)) for step in (22, 23, 24)] == [15, 15, 25]
        # The step that follows a checkpoint at 20 takes the snapshot of it once more: the same bytes.
        again.publish(20, retriever(25))
        assert snapshots(tmp_path) == before
    assert sorted(before) == [f"step_{step:08d}.safetensors" for step in (0, 10, 20)]


def test_a_missing_and_a_damaged_snapshot_are_named(tmp_path: Path) -> None:
    with refresher(tmp_path) as indexes:
        with pytest.raises(ArtifactError, match=r"step_00000010.safetensors: is missing, and the index that training"):
            indexes.index_of(14)
        indexes.path(10).write_bytes(b"cut")
        with pytest.raises(ArtifactError, match=r"step_00000010.safetensors: is not a whole snapshot"):
            indexes.index_of(14)


def test_snapshots_that_no_kept_checkpoint_needs_are_deleted(tmp_path: Path) -> None:
    with refresher(tmp_path, kept=15) as indexes:
        for snapshot in (0, 10, 20, 30):
            indexes.publish(snapshot, retriever(snapshot))
        # From a checkpoint at 15, step 16 would use snapshot 10.
        assert [path.name[-14:-12] for path in sorted(tmp_path.iterdir())] == ["10", "20", "30"]


def test_an_index_that_no_step_uses_is_not_built_and_its_snapshot_is_kept_for_a_longer_run(tmp_path: Path) -> None:
    built = []

    class Noted(Weight):
        def __init__(self, module: nn.Module) -> None:
            super().__init__(module)
            built.append(self.value)

    with refresher(tmp_path, Noted, steps=13) as indexes:
        indexes.publish(0, retriever(0))
        indexes.publish(10, retriever(10))
        indexes.index_of(13)
    assert built == [0]
    with refresher(tmp_path, steps=30) as longer:
        assert value(longer.index_of(14)) == 10


def test_only_one_process_writes_and_those_that_do_not_search_build_nothing(tmp_path: Path) -> None:
    with refresher(tmp_path / "none") as indexes:
        indexes.publish(0, retriever(3), writes=False)
        assert value(indexes.index_of(1)) == 3
    assert not (tmp_path / "none").exists()
    with IndexRefresher(tmp_path, TEN, Weight, steps=5) as indexes:
        # Nothing is built, so nothing misses the retriever that was never set up.
        indexes.publish(0, retriever(0), builds=False)
        with pytest.raises(ValueError, match="call set_up first"):
            indexes.index_of(1)


def test_the_flat_index_finds_the_largest_inner_products() -> None:
    pytest.importorskip("faiss")
    vectors = np.array([[1, 0], [0, 1], [3, -3], [0.5, 0.5]], dtype=np.float32)
    words = {"first": [1, 0], "second": [0, 1]}
    index = FlatIndex(vectors, lambda texts: np.array([words[text] for text in texts], dtype=np.float32))
    assert index.search(["first", "second"], 3).tolist() == [[2, 0, 3], [1, 3, 0]]
    assert torch.is_grad_enabled()
