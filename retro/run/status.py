"""How far a run is: each stage done, running, stopped, stale, missing or broken, with rate and time left."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from retro.common.artifacts import MANIFEST, REPORT, Manifest, is_complete, read_manifest, require_same_config
from retro.common.errors import ArtifactError
from retro.common.files import read_json
from retro.common.leases import WORKERS, Leases
from retro.run.config import RunConfig
from retro.run.parents import require_parents
from retro.run.pipeline import STAGES, Stage, is_being_made, require_folder, stage

if TYPE_CHECKING:
    from retro.common.blocks import BlockStore
    from retro.common.coordinator import Plan

State = Literal["done", "running", "stopped", "stale", "broken", "missing"]
_RATE_OVER_S = 600.0
"""Rates are those of the blocks finished in the last ten minutes."""
_LOOKS = 5
"""So often is a stage looked at whose files vanish between being listed and being read: workers rename and remove."""
_VANISHED = (FileNotFoundError, NotADirectoryError)


@dataclass(frozen=True, kw_only=True)
class Status:
    """How one stage stands, or one part of it while it is being built."""

    stage: str
    state: State
    done: int | None = None
    """Units finished; None for stages that do not count in blocks."""
    total: int | None = None
    unit: str = ""
    per_second: float | None = None
    """Of all workers together; None where nothing was finished lately."""
    seconds_left: float | None = None
    workers: tuple[str, ...] = ()
    """host:pid of those at work."""
    seconds: float | None = None
    """That the stage took, as its report says; None while it is not finished, or where no report is left."""
    bytes: int | None = None
    """Of its files."""
    fingerprint: str = ""
    """Of its manifest."""
    note: str = ""
    """What is wrong and what to do, or what else there is to say."""


def status_of(config: RunConfig, *, compare_settings: bool) -> list[Status]:
    """Every stage of a run, in order; nothing is changed, and no big file is read that was read before.

    Args:
        config: The run.
        compare_settings: Whether `config` holds the settings that the stages should have been made with.
    """
    found: list[Status] = []
    for one in STAGES:
        found += _stage_status(one, config, compare_settings)
    return found + _recipe_steps(config.run_dir)


def _recipe_steps(run_dir: Path) -> list[Status]:
    for _ in range(_LOOKS):
        try:
            return _look_at_recipes(run_dir)
        except _VANISHED:
            continue
    return [Status(stage="recipe", state="running", note="its files change while they are read; look again")]


def _look_at_recipes(run_dir: Path) -> list[Status]:
    """Steps of recipes that were begun, in the order in which they finished; no recipe is imported to say so."""
    found: list[tuple[float, Status]] = []
    for directory in sorted(run_dir.glob("recipe_*/*/")):
        if not (directory / "config.json").exists():
            continue
        name = f"{directory.parent.name.removeprefix('recipe_')}.{directory.name}"
        title = f"recipe {name.replace('.', ': ', 1)}"
        if not is_complete(directory):
            found.append((math.inf, Status(stage=title, state="stopped", note="run the recipe again to resume")))
            continue
        try:
            manifest = read_manifest(directory, name)
        except ArtifactError as error:
            found.append((math.inf, Status(stage=title, state="broken", note=str(error))))
            continue
        seconds, mark = _seconds(directory), manifest.fingerprint
        when = (directory / MANIFEST).stat().st_mtime
        found.append((when, Status(stage=title, state="done", seconds=seconds, fingerprint=mark)))
    return [status for _, status in sorted(found, key=lambda one: one[0])]


def _stage_status(one: Stage, config: RunConfig, compare_settings: bool) -> list[Status]:
    for number in range(_LOOKS):
        try:
            found = _look(one, config, compare_settings)
        except _VANISHED:
            continue
        # That a file is missing is believed when it is missing twice.
        if number or all(status.state != "broken" for status in found):
            return found
    return [Status(stage=one.name, state="running", note="its files change while they are read; look again")]


def _look(one: Stage, config: RunConfig, compare_settings: bool) -> list[Status]:
    directory = one.path(config)
    try:
        require_folder(directory)
    except ArtifactError as error:
        return [_broken(one, error, "move it away, or put the folder back")]
    if is_complete(directory):
        return [_complete(one, directory, config, compare_settings)]
    plans = sorted((directory / WORKERS).glob("*.json"))
    if plans:
        return [_building(one, directory, path) for path in plans]
    if one.trains and any(directory.rglob("log.jsonl")):
        return [_training(one, directory, config)]
    return [Status(stage=one.name, state="missing", note=f"retro {one.name} makes it")]


def _broken(one: Stage, error: ArtifactError, what_to_do: str) -> Status:
    """What to say of a damaged file, unless it is gone by now: then the stage is not what it was.

    Raises:
        FileNotFoundError: It is gone.
    """
    if not os.path.lexists(error.path):
        raise FileNotFoundError(error.path)
    return Status(stage=one.name, state="broken", note=f"{error.path.name} {error.problem}; {what_to_do}")


def _complete(one: Stage, directory: Path, config: RunConfig, compare_settings: bool) -> Status:
    try:
        manifest = read_manifest(directory, one.name)
    except ArtifactError as error:
        if not is_complete(directory):
            raise FileNotFoundError(directory) from None
        what = f"{error.path.name} {error.problem}"
        return Status(stage=one.name, state="broken", note=f"{what}; `retro verify` says which block")
    try:
        require_parents(directory, manifest, config)
        if compare_settings:
            _require_settings(directory, manifest, config)
    except ArtifactError as error:
        return Status(stage=one.name, state="stale", note=str(error))
    return Status(
        stage=one.name,
        state="done",
        seconds=_seconds(directory),
        bytes=_bytes(directory, config),
        fingerprint=manifest.fingerprint,
    )


def _seconds(directory: Path) -> float | None:
    """What a stage's report says that it took; reports are for people, so that a damaged one is as good as none."""
    if not (directory / REPORT).exists():
        return None
    try:
        report = read_json(directory / REPORT, "")
    except ArtifactError:
        return None
    # The index stage counts its two halves.
    parts = (
        [report.get(name) for name in ("seconds", "embed_seconds", "index_seconds")] if isinstance(report, dict) else []
    )
    known = [float(part) for part in parts if isinstance(part, int | float)]
    return sum(known) if known else None


def _bytes(directory: Path, config: RunConfig) -> int:
    """Of all files of a stage, those of a stage within it aside. One that is removed meanwhile counts nothing."""
    inner = [path for path in (one.path(config) for one in STAGES) if directory in path.parents]
    total = 0
    for path in directory.rglob("*"):
        if not any(other in path.parents for other in inner):
            with suppress(FileNotFoundError):
                total += path.stat().st_size if path.is_file() else 0
    return total


def _require_settings(directory: Path, manifest: Manifest, config: RunConfig) -> None:
    section = getattr(config, manifest.stage, None)
    settings = getattr(section, "shaping", None)
    if settings is not None and stage(manifest.stage).blocks:
        require_same_config(directory, manifest, settings, compared=getattr(section, "filled", dict))


def _building(one: Stage, directory: Path, path: Path) -> Status:
    # Here, because a run whose stages are finished is looked at without numpy and h5py.
    from retro.common.coordinator import Plan

    try:
        plan = Plan.read(path)
    except ArtifactError as error:
        return _broken(one, error, f"delete {path.parent}")
    store = plan.store(directory)
    holders = Leases(directory / WORKERS).holders()
    written, wrong = _look_at(store)
    done, total = sum(plan.sizes[number] for number in written), sum(plan.sizes)
    rate = _rate(store, plan, written) if holders else None
    return Status(
        stage=one.name,
        state="running" if holders else "stopped",
        done=done,
        total=total,
        unit=plan.unit,
        per_second=rate,
        seconds_left=(total - done) / rate if rate else None,
        workers=tuple(sorted({holder.name for holder in holders.values()})),
        note=f"{path.stem}: {len(written)} of {len(store)} blocks" + (f"; {wrong}" if wrong else ""),
    )


def _look_at(store: BlockStore) -> tuple[list[int], str]:
    """The blocks that are there, and what to say of files that are not such block."""
    present = sorted(store.present())
    written = [number for number in present if number < len(store) and store.is_written(number)]
    wrong = [number for number in present if number not in set(written)]
    if not wrong:
        return written, ""
    return written, f"stale or damaged, will be built again: {', '.join(map(str, wrong[:5]))}"


def _rate(store: BlockStore, plan: Plan, written: Sequence[int]) -> float | None:
    """Units a second, from when the blocks of the last minutes were finished."""
    since = time.time() - _RATE_OVER_S
    finished = sorted((store.path(number).stat().st_mtime, plan.sizes[number]) for number in written)
    lately = [(when, units) for when, units in finished if when >= since]
    if len(lately) < 2:
        return None
    # The first one's work was done before it appeared.
    return sum(units for _, units in lately[1:]) / max(time.time() - lately[0][0], 1e-3)


def _training(one: Stage, directory: Path, config: RunConfig) -> Status:
    from retro.training.log import read_log

    logs = {path.stat().st_mtime: path for path in directory.rglob("log.jsonl")}
    if not logs:
        raise FileNotFoundError(directory)
    newest = logs[max(logs)]
    try:
        steps = [line for line in read_log(newest) if "step" in line]
    except ArtifactError as error:
        return _broken(one, error, f"delete {newest}: it only says how training went")
    last = steps[-1] if steps else {}
    running = is_being_made(config, one)
    rate = float(last["tokens_per_second"]) if running and "tokens_per_second" in last else None
    ago = time.time() - max(logs)
    return Status(
        stage=one.name,
        state="running" if running else "stopped",
        done=int(last["step"]) if last else None,
        unit="steps",
        note=f"{newest.parent.name}: last step logged {ago:.0f} s ago" + (f", {rate:.0f} tokens/s" if rate else ""),
    )


def as_json(statuses: Sequence[Status]) -> list[dict[str, object]]:
    """The same for machines."""
    return [{name: value for name, value in vars(one).items() if value not in (None, "", ())} for one in statuses]


def has_run(run_dir: Path) -> bool:
    """Whether a directory holds anything of a run."""
    for _ in range(_LOOKS):
        try:
            return any(any(run_dir.glob(pattern)) for pattern in (f"*/{MANIFEST}", f"*/{WORKERS}", "*/blocks"))
        except _VANISHED:
            continue
    return True  # something is at work there
