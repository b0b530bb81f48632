from __future__ import annotations

import io
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from retro.cli.status import show_status
from retro.common.leases import WORKERS, Leases, is_held, run_lock
from retro.run.config import RunConfig, as_yaml
from retro.run.pipeline import stage
from retro.run.status import Status, status_of
from tests.db.stops import Stopped, flip_byte, stopped_at_rename
from tests.tiny_road import run_stages, small_config


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    config = small_config(tmp_path_factory.mktemp("status"))
    run_stages(config, "corpus", "db", "index")
    return config


@pytest.fixture
def run(finished: RunConfig, tmp_path: Path) -> RunConfig:
    shutil.copytree(finished.run_dir, tmp_path / "run")
    return finished.model_copy(update={"run_dir": tmp_path / "run"})


def statuses(config: RunConfig) -> dict[str, Status]:
    return {one.stage: one for one in status_of(config, compare_settings=True)}


def stop_half_way(config: RunConfig) -> Path:
    """Neighbors with two blocks done."""
    with pytest.raises(Stopped), stopped_at_rename(6):
        run_stages(config, "neighbors")
    return stage("neighbors").path(config)


def test_finished_stages_are_done_and_the_rest_is_missing(run: RunConfig) -> None:
    found = statuses(run)
    assert [one.state for one in found.values()] == ["done"] * 3 + ["missing"] * 6


def test_a_stage_that_was_stopped_says_how_far_it_came(run: RunConfig) -> None:
    stop_half_way(run)
    found = statuses(run)["neighbors"]
    assert (found.state, found.done, found.unit, found.workers) == ("stopped", 200, "queries", ())
    assert found.total is not None
    assert found.total > 200
    assert found.note.startswith("blocks: 2 of ")


def test_a_stage_at_work_has_a_rate_and_its_workers(run: RunConfig) -> None:
    directory = stop_half_way(run)
    now = time.time()
    for number, ago_s in ((0, 30.0), (1, 10.0)):
        os.utime(directory / "blocks" / f"00000{number}.h5", (now - ago_s, now - ago_s))
    with Leases(directory / WORKERS).claim("blocks.000002"):
        found = statuses(run)["neighbors"]
    assert found.state == "running"
    assert len(found.workers) == 1
    assert found.workers[0].endswith(f":{os.getpid()}")
    # 100 queries in the 30 seconds since the first block appeared.
    assert found.per_second == pytest.approx(100 / 30, rel=0.2)
    assert found.total is not None
    assert found.seconds_left == pytest.approx((found.total - 200) * 30 / 100, rel=0.2)


def test_blocks_that_are_none_are_named(run: RunConfig) -> None:
    directory = stop_half_way(run)
    (directory / "blocks" / "000001.h5").write_bytes(b"no block")
    found = statuses(run)["neighbors"]
    assert found.done == 100
    assert "1 of " in found.note
    assert found.note.endswith(" blocks; stale or damaged, will be built again: 1")


def test_a_changed_file_makes_a_stage_broken(run: RunConfig) -> None:
    flip_byte(stage("db").path(run) / "db.h5", "document")
    found = statuses(run)["db"]
    assert found.state == "broken"
    assert "db.h5 has SHA-256" in found.note


def test_another_parent_or_other_settings_make_a_stage_stale(run: RunConfig) -> None:
    other = run.model_copy(update={"index": run.index.model_copy(update={"seed": 5})})
    found = statuses(other)["index"]
    assert found.state == "stale"
    assert "seed was 1234, now 5" in found.note
    shutil.rmtree(stage("db").path(run))
    smaller = run.model_copy(update={"db": run.db.model_copy(update={"chunk_length": 8})})
    run_stages(smaller, "db")
    assert "was made from db" in statuses(smaller)["index"].note


def test_a_run_directory_alone_is_enough_and_numbers_can_be_had(
    run: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    show_status([str(run.run_dir)], as_numbers=True)
    found = json.loads(capsys.readouterr().out)
    assert [one["state"] for one in found[:4]] == ["done", "done", "done", "missing"]
    (tmp_path / "run.yaml").write_text(as_yaml(run))
    show_status([str(tmp_path / "run.yaml")], as_numbers=False)
    assert "retro neighbors makes it" in capsys.readouterr().out


def test_a_run_is_held_while_a_process_works_in_it(tmp_path: Path) -> None:
    assert not is_held(tmp_path)
    with run_lock(tmp_path, shared=True):
        assert is_held(tmp_path)
    assert not is_held(tmp_path)


@contextmanager
def vanishing(nth: int, act: Callable[[], None] | None = None) -> Iterator[list[int]]:
    """The n-th call to the file system finds nothing there, or something happens right before it."""
    calls = [0]

    def wrapped(call: Callable[..., Any]) -> Callable[..., Any]:
        def one(*arguments: Any, **options: Any) -> Any:
            calls[0] += 1
            if calls[0] == nth:
                if act is None:
                    raise FileNotFoundError(2, "No such file or directory", str(arguments[:1]))
                act()
            return call(*arguments, **options)

        return one

    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((os, "stat"), (os, "scandir"), (os, "listdir"), (io, "open")):
            patch.setattr(module, name, wrapped(getattr(module, name)))
        yield calls


def calls_of(config: RunConfig) -> int:
    with vanishing(0) as calls:
        statuses(config)
    return calls[0]


def test_whatever_vanishes_between_two_looks_status_has_every_stage(run: RunConfig) -> None:
    stop_half_way(run)
    truth, calls = statuses(run), calls_of(run)
    assert calls > 50
    for nth in range(1, calls + 1):
        with vanishing(nth):
            found = statuses(run)
        assert list(found) == list(truth)
        # What was there once and then was not may rightly be missing, and what was made from it stale.
        assert {one.state for one in found.values()} <= {"done", "stopped", "missing", "stale"}, nth


@pytest.mark.parametrize("gone", ["blocks/000000.h5", ".workers", "."])
def test_files_that_are_removed_in_the_middle_of_a_look_are_no_error(run: RunConfig, gone: str) -> None:
    directory = stop_half_way(run)
    kept = directory.with_name("kept")
    calls = calls_of(run)
    for nth in range(1, calls + 1, 3):
        shutil.copytree(directory, kept)

        def remove() -> None:
            path = directory / gone
            path.rename(directory.with_name("removed"))

        with vanishing(nth, remove):
            found = statuses(run)["neighbors"]
        assert found.state in {"stopped", "missing"}, nth
        shutil.rmtree(directory, ignore_errors=True)
        removed = directory.with_name("removed")
        shutil.rmtree(removed, ignore_errors=True) if removed.is_dir() else removed.unlink(missing_ok=True)
        kept.rename(directory)


def test_a_finished_stage_says_how_long_it_took_and_how_much_it_holds(
    run: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, directory = statuses(run)["db"], stage("db").path(run)
    assert found.seconds == json.loads((directory / "report.json").read_text())["seconds"]
    assert found.bytes == sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    assert found.fingerprint == json.loads((directory / "manifest.json").read_text())["fingerprint"]
    (directory / "report.json").write_text("[")
    assert statuses(run)["db"].seconds is None
    (tmp_path / "run.yaml").write_text(as_yaml(run))
    show_status([str(tmp_path / "run.yaml")], as_numbers=False)
    shown = capsys.readouterr().out
    assert found.fingerprint not in shown
    assert f"next: retro run {tmp_path}/run.yaml" in shown.splitlines()[-1]


@pytest.mark.parametrize("kind", ["file", "pipe", "link to nothing"])
def test_what_is_no_folder_where_a_stage_should_be_makes_it_broken(run: RunConfig, kind: str) -> None:
    path = stage("sft").path(run)
    if kind == "file":
        path.write_text("hi")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("nowhere")
    found = statuses(run)
    assert [found[name].state for name in ("index", "sft", "generate")] == ["done", "broken", "missing"]
    assert found["sft"].note.startswith("6_sft is not a folder")


@pytest.mark.parametrize("columns", [20, 30, 40, 60, 80])
def test_what_a_narrow_terminal_shows_is_whole(
    run: RunConfig, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    show_status([str(run.run_dir)], as_numbers=False)
    shown = capsys.readouterr().out
    assert "\u2026" not in shown
    lines = shown.splitlines()
    assert max(map(len, lines)) <= columns
    heading = next(line for line in lines if line.startswith("stage")).split()
    wanted = {20: [], 30: ["took"], 40: ["took", "size"], 60: ["took", "size"]}
    assert heading == ["stage", "state", *wanted.get(columns, ["done", "rate", "left", "took", "size"])]
    assert " ".join(shown.split()).count("neighbors makes it") == 1
