"""What a training run that has begun may still change: how many steps it takes, and over how many it decays.

A run is lengthened by raising its steps. Its checkpoints, log and samples continue; only what said that it was finished
is taken back.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from retro.common.artifacts import MANIFEST, REPORT, differences
from retro.common.errors import ArtifactError, ConfigError
from retro.common.files import read_json, write_json
from retro.mcore import parallel
from retro.mcore.engine import learning_rate
from retro.training import checkpoint
from retro.training.config import TrainConfig, result_settings
from retro.training.result import RESULT

log = logging.getLogger(__name__)

CONFIG = "config.json"


def with_recorded_warmup(config: TrainConfig, directories: Iterable[Path], *sections: str) -> TrainConfig:
    """The settings, a warm-up that nobody set being the one that the run began with.

    The default follows from `steps`: raising these must not change what has been trained.

    Args:
        config: The settings asked for.
        directories: Of training runs that belong together; the first with a checkpoint counts.
        sections: Where in their `config.json` the settings of training stand.
    """
    begun = next((path for path in directories if checkpoint.complete(path / "checkpoints")), None)
    if begun is None or "warmup_steps" in config.model_fields_set or not (begun / CONFIG).exists():
        return config
    recorded: Any = read_json(begun / CONFIG, f"Delete {begun}")
    for section in sections:
        recorded = recorded.get(section, {})
    return config.model_copy(update={"warmup_steps": recorded.get("warmup_steps", config.warmup_steps)})


def has_steps_left(directory: Path, made: Mapping[str, Any], config: TrainConfig, section: str) -> bool:
    """Whether a finished run has steps left to take, its `steps` having been raised.

    Args:
        directory: Of the stage.
        made: The settings of training that it finished under.
        config: Those asked for, equal to them in what shapes a run.
        section: Where the user sets them: `train` or `sft.train`.

    Raises:
        ConfigError: Fewer steps are asked for than were taken.
        ArtifactError: As many, under another schedule.
    """
    require_length(directory, int(made["steps"]), config, section)
    if config.steps > made["steps"]:
        return True
    before = made.get("decay_steps") or made["steps"]
    if config.schedule != "constant" and before != config.decay_length:
        problem = f"was made under other settings: {section}.decay_steps was {before}, now {config.decay_length}"
        raise ArtifactError(directory / MANIFEST, problem, "Use another run_dir, or add --redo to train it again")
    return False


def require_length(directory: Path, taken: int, config: TrainConfig, section: str) -> None:
    """Check that a run is not asked for fewer steps than it has taken.

    Raises:
        ConfigError: It is.
    """
    if config.steps < taken:
        need = (
            f"needs at least {taken}, the steps that {directory} has taken; add --redo to train it again from the "
            "start, or use another run_dir"
        )
        raise ConfigError(f"{section}.steps", config.steps, need)


def require_same_run(out: Path, settings: dict[str, Any], config: TrainConfig, section: str) -> None:
    """Check that a training directory that holds checkpoints continues under the settings that it was begun with.

    Settings under which no checkpoint was made do not count: a first try may have failed for them.

    Raises:
        ArtifactError: The directory was started under other settings.
        ConfigError: It has taken more steps than are asked for.
    """
    path = out / CONFIG
    found = checkpoint.complete(out / "checkpoints")
    if not (found and path.exists()):
        return
    changed = differences(result_settings(read_json(path, f"Delete {out}")), result_settings(settings))
    if changed:
        problem = f"was made under other settings: {'; '.join(changed[:3])}"
        raise ArtifactError(path, problem, "Use another run_dir, or go on under the old ones")
    require_length(out, checkpoint.step_of(found[-1]), config, section)


def record_run(out: Path, settings: dict[str, Any], *also: Path) -> None:
    """Record the settings of a run that is about to train. Every rank calls this, all having read what is there.

    What says that the run is finished is removed first, so that a kill leaves a run that continues.

    Args:
        out: The training directory.
        settings: Its settings.
        also: Further files that say so: the manifest of the stage, whose report goes too.
    """
    parallel.barrier()
    if parallel.is_main():
        for path in (*(path.with_name(REPORT) for path in also), *also, out / RESULT):
            path.unlink(missing_ok=True)
        write_json(out / CONFIG, settings)


def log_schedule(config: TrainConfig, recorded: Mapping[str, Any], step: int) -> None:
    """Say what another number of steps does to the learning rate of a run that continues.

    Args:
        config: The settings now.
        recorded: Those of the checkpoint that it continues from.
        step: The checkpoint's.
    """
    before = config.model_copy(update={name: recorded.get(name, 0) for name in ("steps", "decay_steps")})
    if (before.steps, before.decay_length) == (config.steps, config.decay_length) or step >= config.steps:
        return
    old, new = _rate(before, step), _rate(config, step + 1)
    what = f"steps were {before.steps}, now {config.steps}"
    if config.schedule == "constant":
        log.info("%s: the learning rate stays %.3g", what, new)
    elif before.decay_length == config.decay_length:
        log.info("%s: the learning rate still decays until step %d, %.3g now", what, config.decay_length, new)
    else:
        log.warning(
            "%s: the learning rate goes from %.3g at step %d to %.3g at step %d, for its %s decay is over %d steps now "
            "instead of %d; decay_steps=%d keeps the old curve, and its end from there on",
            what, old, step, new, step + 1, config.schedule, config.decay_length, before.decay_length,
            before.decay_length,
        )  # fmt: skip


def _rate(config: TrainConfig, step: int) -> float:
    return learning_rate(config, step)
