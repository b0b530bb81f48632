"""The stages: where each writes, and the one call that runs it. The only statement of the order."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retro.common.errors import ArtifactError, ConfigError, RetroError
from retro.common.files import discard
from retro.common.launcher import worker_of
from retro.common.leases import is_held, run_lock
from retro.common.stage_order import STAGE_ORDER

if TYPE_CHECKING:
    from retro.common.artifacts import Manifest
    from retro.generate.config import ModelPaths
    from retro.run.config import RunConfig
    from retro.updates.state import VersionedDatabase

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stage:
    """One process between files."""

    name: str
    """As the user types it."""
    directory: str
    """Below the run directory."""
    summary: str
    """One line of help."""
    run: Callable[[RunConfig], Manifest]
    """Does the work, or finds it done."""
    trains: bool = False
    """Whether it trains a model, or measures one."""
    blocks: bool = False
    """Whether any number of workers may build it together."""
    named: bool = False
    """Whether `generate.name` gives it a folder of its own."""
    swapped: bool = False
    """Whether it has a folder of its own for each database that is read in place of the run's."""

    @property
    def processes(self) -> bool:
        """Whether several processes may do it together, each with its part of the model or of the batch."""
        return self.trains or self.name == "generate"

    def path(self, config: RunConfig) -> Path:
        """Where the stage writes in this run."""
        name = _answers_name(config) if self.named else _database_name(config) if self.swapped else ""
        return config.run_dir / (self.directory + name)


def _answers_name(config: RunConfig) -> str:
    return f"_{config.generate.name}" if config.generate.name else ""


def _database_name(config: RunConfig) -> str:
    """What folders are called that belong to another database than the run's own as the stages wrote it."""
    if config.database.run_dir is None and config.database.version in (0, "auto"):
        return ""
    owner = "" if config.database.run_dir is None else f"_{config.database.run_dir.resolve().name}"
    return f"{owner}_v{_database_version(config)}"


def _database_owner(config: RunConfig) -> RunConfig:
    return config.model_copy(update={"run_dir": config.database.run_dir or config.run_dir})


def database_home(config: RunConfig) -> VersionedDatabase:
    """Where the database is that this run reads, and its versions: its own, or another run's."""
    from retro.db.versions import VERSIONS, Part
    from retro.updates.state import VersionedDatabase

    owner = _database_owner(config)
    base = Part(corpus=_dir(owner, "corpus"), db=_dir(owner, "db"), index=_dir(owner, "index"))
    return VersionedDatabase(base=base, versions=owner.run_dir / VERSIONS)


def _database_version(config: RunConfig, *, answers: bool = False) -> int:
    automatic = "latest" if answers else 0
    wanted = automatic if config.database.version == "auto" else config.database.version
    # Version 0 is always there; to look for others takes the modules that read them.
    return 0 if wanted == 0 else database_home(config).number(wanted)


def database_dirs(config: RunConfig, *, answers: bool = False) -> tuple[Path, Path]:
    """Database and index that neighbors and passages come from.

    Args:
        config: The run.
        answers: Whether questions are answered, which without a setting follows the latest version.

    Raises:
        ConfigError: There is no such version.
    """
    number = _database_version(config, answers=answers)
    if number == 0:
        owner = _database_owner(config)
        return _dir(owner, "db"), _dir(owner, "index")
    return database_home(config).place(number)


def _corpus(config: RunConfig) -> Manifest:
    from retro.corpus import build

    return build.run(config.corpus, _dir(config, "corpus"), worker=worker_of())


def _db(config: RunConfig) -> Manifest:
    from retro.db import build

    return build.run(config.db, _dir(config, "corpus"), _dir(config, "db"), worker=worker_of())


def _index(config: RunConfig) -> Manifest:
    from retro.index import build

    corpus, db, out = (_dir(config, name) for name in ("corpus", "db", "index"))
    if config.reads_words:
        from retro.index.bm25 import build as bm25
        from retro.index.config import DIRECTORY
        from retro.updates.change import index_words

        # First, so that a stage with a manifest has both.
        bm25.run(config.bm25, corpus, db, out / DIRECTORY, worker=worker_of())
        home = database_home(config)
        for number in range(1, home.latest + 1 if config.database.run_dir is None else 1):
            index_words(home, number)
    return build.run(config.index, corpus, db, out, worker=worker_of())


def _neighbors(config: RunConfig) -> Manifest:
    from retro.neighbors import build

    dirs = (_dir(config, "corpus"), *database_dirs(config), _dir(config, "neighbors"))
    return build.run(config.neighbors, *dirs, worker=worker_of())


def _pretrain(config: RunConfig) -> Manifest:
    from retro.pretrain import run

    database, _ = database_dirs(config)
    dirs = (_dir(config, "corpus"), database, _dir(config, "neighbors"), _dir(config, "pretrain"))
    return run.run(config.pretrain, config.model, config.train, config.parallel, *dirs)


def _perplexity(config: RunConfig) -> Manifest:
    checkpoints = {path.parent.name: path.parent for path in sorted(_dir(config, "pretrain").glob("*/result.json"))}
    return _measure_perplexity(config, checkpoints, _dir(config, "perplexity"))


def _measure_perplexity(config: RunConfig, checkpoints: dict[str, Path], out: Path) -> Manifest:
    from retro.pretrain import in_context, perplexity

    database, index = database_dirs(config)
    dirs = (_dir(config, "corpus"), database, _dir(config, "neighbors"))
    prompts = in_context.prepare(config.perplexity, config.parallel, checkpoints, *dirs, index, config.search)
    manifest = perplexity.run(config.perplexity, config.parallel, checkpoints, *dirs, out)
    if prompts is not None:
        in_context.run(prompts, out)
    return manifest


def measure_checkpoint(config: RunConfig, path: Path, *, again: bool = False) -> Path:
    """Measure the perplexity of any checkpoint on this run's text: no stage, and the run's own numbers stay.

    Args:
        config: The run whose text and neighbors are read.
        path: A checkpoint, a directory of them (of a run that was stopped too), or a finished stage.
        again: Remove what was measured of it before, first.

    Returns:
        The folder with its numbers, one for each checkpoint.
    """
    from retro.training import checkpoint
    from retro.training.result import of_stage

    found = checkpoint.find(of_stage(path)).resolve()
    out = measured_checkpoint_path(config, found)
    if again:
        discard(out)
    _measure_perplexity(config, {out.name.rpartition("_")[0]: found}, out)
    return out


def measured_checkpoint_path(config: RunConfig, checkpoint: Path) -> Path:
    """Where the perplexity of a checkpoint goes that is not a model of this run's pretraining stage."""
    from retro.common.artifacts import fingerprint

    model = f"{checkpoint.parent.parent.name}_" if checkpoint.parent.name == "checkpoints" else ""
    name = f"{model}{checkpoint.name}_{fingerprint(str(checkpoint))[:8]}"
    return config.run_dir / f"perplexity_of{_database_name(config)}" / name


def _sft(config: RunConfig) -> Manifest:
    from retro.sft import tune

    start = config.sft.start_from or pretrained(config)
    dirs = (_dir(config, "corpus"), *database_dirs(config), _dir(config, "sft"))
    return tune.run(config.sft, config.parallel, start, *dirs, search=config.search)


def _generate(config: RunConfig) -> Manifest:
    from retro.generate import run

    return run.run(config.generate, config.parallel, model_paths(config), _dir(config, "generate"))


def _evaluate(config: RunConfig) -> Manifest:
    from retro.evaluate import score

    dirs = (_dir(config, name) for name in ("generate", "evaluate"))
    return score.run(
        config.evaluate, *dirs, report=report_path(config), run_dir=config.run_dir, asked=config.generate.name
    )


def model_paths(config: RunConfig) -> ModelPaths:
    """What questions are answered from: the model that generates, and the database as it is now.

    Raises:
        ConfigError: There is no such version of the database.
    """
    from retro.generate.config import ModelPaths

    db, index = database_dirs(config, answers=True)
    checkpoint = config.generate.checkpoint or _dir(config, "sft")
    return ModelPaths(checkpoint=checkpoint, corpus=_dir(config, "corpus"), db=db, index=index, search=config.search)


def measure_leakage(config: RunConfig) -> dict[str, Any]:
    """Measure leakage: no stage, for nothing is made from it."""
    from retro.analysis.leakage import run

    database, _ = database_dirs(config)
    dirs = run.Directories(_dir(config, "corpus"), database, _dir(config, "neighbors"), _dir(config, "perplexity"))
    out = leakage_path(config)
    return run.run(config.leakage, config.perplexity.split, config.model.neighbors, dirs, out, worker=worker_of())


def leakage_path(config: RunConfig) -> Path:
    """Where leakage is measured."""
    return config.run_dir / f"leakage{_database_name(config)}"


def report_path(config: RunConfig) -> Path:
    """Where the page of this run goes."""
    return config.run_dir / f"report{_answers_name(config)}.html"


_HOW: dict[str, dict[str, Any]] = {
    "corpus": {"run": _corpus, "blocks": True},
    "db": {"run": _db, "blocks": True},
    "index": {"run": _index, "blocks": True},
    "neighbors": {"run": _neighbors, "blocks": True, "swapped": True},
    "pretrain": {"run": _pretrain, "trains": True},
    "perplexity": {"run": _perplexity, "trains": True, "swapped": True},
    "sft": {"run": _sft, "trains": True},
    "generate": {"run": _generate, "named": True},
    "evaluate": {"run": _evaluate, "named": True},
}
STAGES: tuple[Stage, ...] = tuple(Stage(one.name, one.directory, one.summary, **_HOW[one.name]) for one in STAGE_ORDER)


def stage(name: str) -> Stage:
    """The stage of that name."""
    return next(one for one in STAGES if one.name == name)


def number_of(name: str) -> int:
    """Where the stage of that name is in the order, from 0."""
    return next(number for number, one in enumerate(STAGES) if one.name == name)


def _dir(config: RunConfig, name: str) -> Path:
    return stage(name).path(config)


def pretrained(config: RunConfig) -> Path:
    """The checkpoint directory of the model under `model`, as stage 5 leaves it."""
    return _dir(config, "pretrain") / ("retro" if config.model.retrieval else "gpt")


def stages_until(name: str) -> tuple[Stage, ...]:
    """The stages up to and with that one.

    Raises:
        ConfigError: There is none of that name; the nearest is named.
    """
    names = [one.name for one in STAGES]
    if name not in names:
        from retro.common.config import unknown_name

        raise ConfigError("--until", name, unknown_name(name, names).replace("a setting", "a stage"))
    return STAGES[: names.index(name) + 1]


def require_folder(path: Path) -> None:
    """Check that the path of a stage is a folder, or free.

    Raises:
        ArtifactError: Something else is there.
    """
    if os.path.lexists(path) and not path.is_dir():
        remedy = "Move it away, or put the folder back, and run the same command again"
        raise ArtifactError(path, "is not a folder, and a stage is to be there", remedy)


def require_folders(config: RunConfig, stages: Sequence[Stage] = STAGES) -> None:
    """Check the paths of several stages, before any work is done.

    Raises:
        ArtifactError: One is neither a folder nor free.
    """
    for one in stages:
        require_folder(one.path(config))


@contextmanager
def stage_lock(config: RunConfig, name: str, *, together: bool = False, redo: bool = False) -> Iterator[None]:
    """Keep a stage from being made by two processes, and what it reads from being removed meanwhile.

    Several stages of a run may be worked on at once, as answers are while another model trains.

    Args:
        config: The run.
        name: The stage.
        together: Whether others may make it too: workers on blocks, slices of the questions.
        redo: Whether what it and the following ones wrote is removed.

    Raises:
        ArtifactError: Another process makes it, or works with what would be removed; or what is there is no folder.
    """
    number = number_of(name)
    require_folders(config, STAGES[number:] if redo else STAGES[number : number + 1])
    with ExitStack() as held:
        for place, one in enumerate(STAGES):
            if place <= number or redo:
                shared = place < number or not redo
                kept = run_lock(config.run_dir, shared=shared, name=_lock_name(config, one, "kept"), what=one.name)
                held.enter_context(kept)
        shared = together and not redo
        made = run_lock(config.run_dir, shared=shared, name=_lock_name(config, stage(name), "made"), what=name)
        held.enter_context(made)
        yield


def is_being_made(config: RunConfig, one: Stage) -> bool:
    """Whether a process works on a stage now."""
    return is_held(config.run_dir, _lock_name(config, one, "made"))


def _lock_name(config: RunConfig, one: Stage, of: str) -> str:
    # By directory: answers under another name, or with another database, are another stage's worth of files.
    return f".locks/{one.path(config).relative_to(config.run_dir).as_posix().replace('/', '_')}.{of}"


@contextmanager
def redoing(config: RunConfig, name: str) -> Iterator[None]:
    """Set aside what a stage and the stages after it wrote, so that they run again.

    When the work inside is refused, everything is put back as it was. When it was stopped after it had saved
    checkpoints, these stay, so that it can continue, and the old is kept beside them until the stage is complete.
    """
    first = number_of(name)
    for path in _paths_from(config, first):
        old = _aside(path)
        if path.exists():
            discard(old)
            path.rename(old)
    try:
        yield
    except RetroError:
        paths = _paths_from(config, first)
        if any(paths[0].glob("**/checkpoint.json")):
            log.warning("what was there before is kept as %s", _aside(paths[0]))
            raise
        for path in reversed(paths):
            if _aside(path).exists():
                discard(path)
                _aside(path).rename(path)
        raise


def drop_replaced(config: RunConfig, name: str) -> None:
    """Remove what `redoing` set aside, once the stage is complete, but what another process set aside just now."""
    first = number_of(name)
    for one in STAGES[first:]:
        path = one.path(config)
        if _aside(path).exists() and (one.name == name or not is_being_made(config, one)):
            discard(_aside(path))
            log.info("removed what %s held before", path)


def _paths_from(config: RunConfig, first: int) -> list[Path]:
    return [one.path(config) for one in STAGES[first:]]


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.before-redo")
