"""Run stages as the commands do: under their locks, with workers, and again where that is wanted."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

from retro.common.errors import ConfigError, DataError
from retro.common.launcher import join_launcher, spawn_workers
from retro.common.progress import duration
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


def require_inputs(config: RunConfig, stages: Sequence[Stage]) -> None:
    """Look for the texts and question files of some stages.

    Args:
        config: The run; its `inputs_from` says what to do where something is missing.
        stages: Those that are to be run, and are not complete.

    Raises:
        DataError: A file is not there.
        ConfigError: There are no questions to tune on.
    """
    names = {one.name for one in stages}
    try:
        for stage, look in (("corpus", _corpus), ("sft", _sft), ("generate", _generate)):
            if stage in names:
                look(config)
    except DataError as error:
        if not config.inputs_from:
            raise
        raise DataError(error.path, error.problem, " ".join(config.inputs_from.split())) from None


def _corpus(config: RunConfig) -> None:
    """Sources on this machine; what is at an address, the corpus stage fetches or refuses."""
    from retro.corpus.hub import local_path_if_there

    for source in config.corpus.sources:
        path = source.path
        if path is not None and ":/" not in str(path) and local_path_if_there(path) is None:
            raise DataError(path, "no such file or folder", "Check the source's path")


def _sft(config: RunConfig) -> None:
    from retro.run.pipeline import stage
    from retro.sft.sets import PARTS, question_files

    corpus, blend = stage("corpus").path(config), config.sft.data.resolved_blend()
    derived = any(source.built_in for source in config.corpus.sources) or corpus.exists()
    for one in blend.sets:
        if not one.from_corpus:
            for part in PARTS:
                question_files(one, blend.data, part, None)
        elif not derived:
            need = (
                "needs a question file to tune on: none can be derived from text of one's own. Give sft.data.sets, or "
                "stop before with `retro run --until perplexity`; `retro init --questions FILE` writes all of it"
            )
            raise ConfigError("sft.data.sets", config.sft.data.sets, need)


def _generate(config: RunConfig) -> None:
    from retro.qa.question_files import existing_file

    for path in config.generate.questions:
        existing_file(path)


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
        log.info("%s%s: %s", place, name, "already complete; checking it" if before else f"starting in {path}")
        with redoing(config, name) if again else nullcontext(), spawn_workers(workers, [name, *(words or [])]):
            one.run(config)
        if again or not together:
            drop_replaced(config, name)
    # A slice that others are to follow has answered its questions; the stage is not complete.
    if is_complete(path) and not before:
        log.info("%s: done in %s: %s", name, duration(time.monotonic() - started), path)
