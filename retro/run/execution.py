"""Run stages as the commands do: under their locks, with workers, and again where that is wanted."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

from retro.common.launcher import join_launcher, spawn_workers
from retro.common.progress import duration
from retro.run.inputs import require_inputs
from retro.run.pipeline import (
    Stage,
    drop_replaced,
    redoing,
    require_folders,
    stage,
    stage_lock,
    stages_until,
)

if TYPE_CHECKING:
    from retro.run.config import RunConfig

log = logging.getLogger(__name__)


def run_stages(
    config: RunConfig, until: str, words: Sequence[str] | None, again: bool = False, workers: int = 1
) -> tuple[Stage, ...]:
    """Run all stages up to one in order, skipping what is complete.

    Args:
        config: The run.
        until: The last stage to run.
        words: That name the run on the command line, for the processes that help.
        again: Remove what the stages wrote, first.
        workers: Processes that build stages of blocks.

    Returns:
        The stages.

    Raises:
        ConfigError: There is no such stage, or a setting cannot work.
        RetroError: A stage cannot be run.
    """
    from retro.common.artifacts import is_complete
    from retro.common.leases import run_lock

    stages = stages_until(until)
    require_folders(config, stages)
    require_inputs(config, [one for one in stages if again or not is_complete(one.path(config))])
    if any(one.processes for one in stages):
        join_launcher()
    # Stages of blocks only may be run by many at once, as the tasks of an array do.
    with run_lock(config.run_dir, shared=all(one.blocks for one in stages) and not again):
        for number, one in enumerate(stages, start=1):
            place, first = f"[{number}/{len(stages)}] ", number == 1
            run_stage(one.name, config, words, again and first, workers if one.blocks else 1, place)
    return stages


def run_stage(
    name: str, config: RunConfig, words: Sequence[str] | None, again: bool = False, workers: int = 1, place: str = ""
) -> None:
    """Run a stage, or find it complete.

    Args:
        name: The stage.
        config: The run.
        words: That name the run on the command line, for the processes that help.
        again: Remove what it and the following stages wrote, first.
        workers: Processes that build it.
        place: Among the stages to run, such as `[2/9] `.
    """
    from retro.common.artifacts import is_complete

    if stage(name).processes:
        join_launcher()
    one, started = stage(name), time.monotonic()
    path = one.path(config)
    # Slices of the questions are answered side by side, each holding its own lock too; so do workers on blocks.
    together = one.blocks or (name == "generate" and config.generate.is_slice)
    before = is_complete(path) and not again
    if not before:
        require_inputs(config, [one])
    with stage_lock(config, name, together=together, redo=again):
        # Before any library is loaded, which takes its time.
        log.info("%s%s: %s", place, name, "already complete; checking it" if before else f"begins, in {path}")
        with redoing(config, name) if again else nullcontext(), spawn_workers(workers, [name, *(words or [])]):
            one.run(config)
        if again or not together:
            drop_replaced(config, name)
    # A slice that others are to follow has answered its questions; the stage is not complete.
    if is_complete(path) and not before:
        log.info("%s: done in %s: %s", name, duration(time.monotonic() - started), path)
