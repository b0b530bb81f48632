"""The precision of a training stage: one for all its processes, and the same after a stop."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from retro.common.files import read_json
from retro.common.precision import Precision, PrecisionChoice, choose
from retro.mcore import parallel
from retro.training import checkpoint


def choose_for_training(wanted: Precision, runs: Iterable[Path], setting: str) -> PrecisionChoice:
    """The precision that a stage trains in, decided by the first process and logged.

    Args:
        wanted: The setting.
        runs: Training directories of the stage; what one of them was begun in, `auto` stays with.
        setting: Its name, as the user types it.

    Raises:
        ArtifactError: The settings of a run that was begun are damaged.
    """
    choice = parallel.from_first(choose(wanted, begun=_begun(runs)))
    if parallel.rank() == 0:
        choice.tell(setting)
    return choice


def _begun(runs: Iterable[Path]) -> str | None:
    """The precision of the first of these runs that has a checkpoint or a result; None where none has."""
    for run in sorted(runs):
        path = run / "config.json"
        if path.exists() and ((run / "result.json").exists() or checkpoint.complete(run / "checkpoints")):
            found = _trained_in(read_json(path, f"Delete {run}"))
            if found is not None:
                return found
    return None


def _trained_in(settings: Any) -> str | None:
    """`train.precision` of the settings of a run, at whatever depth `train` stands."""
    if not isinstance(settings, dict):
        return None
    train = settings.get("train")
    if isinstance(train, dict) and isinstance(train.get("precision"), str):
        return str(train["precision"])
    return next((found for value in settings.values() if (found := _trained_in(value)) is not None), None)
