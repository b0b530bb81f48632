"""`retro status` and `retro verify` on the terminal."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from retro.common.errors import ConfigError, RetroError
from retro.common.progress import duration, human_size
from retro.common.terminal import Cell, Table, output, styled
from retro.run.config import RunConfig, load_run_config
from retro.run.status import State, Status, has_run, status_of
from retro.run.status import as_json as for_machines

if TYPE_CHECKING:
    from retro.run.verify import VerifiedStage

log = logging.getLogger(__name__)
_STYLES: dict[State, str] = {
    "done": "green",
    "running": "bold cyan",
    "stopped": "yellow",
    "stale": "magenta",
    "broken": "bold red",
    "missing": "dim",
}

_HEADINGS = ("stage", "state", "done", "rate", "left", "took", "size")
_KEPT = 2
"""So many columns stay, however narrow a terminal is."""
_DROPPED = ("rate", "size", "took", "left", "done")
"""The others, from the first that goes to the last."""
_GAP = 2
_NOTE = 20
"""Characters that notes need to stand in a column."""


def named_run(arguments: Sequence[str]) -> tuple[RunConfig, str, bool]:
    """The run that a command line names, by its config or by its directory.

    Returns:
        The config; how to name the run in another command; whether the config holds the settings of its stages.

    Raises:
        ConfigError: The directory holds no run.
    """
    if len(arguments) == 1 and Path(arguments[0]).is_dir():
        run_dir = Path(arguments[0])
        if not has_run(run_dir):
            raise ConfigError("run", arguments[0], "needs the directory of a run, or the run's YAML file")
        return RunConfig(run_dir=run_dir), "CONFIG", False
    files = [text for text in arguments if "=" not in text]
    if len(files) > 1:
        raise ConfigError("arguments", files, "needs one run")
    overrides = [text for text in arguments if "=" in text]
    config = load_run_config(Path(files[0]) if files else None, overrides)
    return config, " ".join(arguments) or "CONFIG", True


def show_status(arguments: Sequence[str], *, as_numbers: bool) -> None:
    """Print how far a run is.

    Fingerprints are shown where the log says more, with --verbose.

    Args:
        arguments: Its config with overrides, or its directory.
        as_numbers: JSON instead of a table.
    """
    config, _, compare = named_run(arguments)
    statuses = status_of(config, compare_settings=compare)
    if as_numbers:
        output.json(for_machines(statuses))
        return
    table = Table(title=f"{config.run_dir}", rules="none")
    rows = [_cells(one, verbose=log.isEnabledFor(logging.DEBUG)) for one in statuses]
    shown, beside = _fitting(rows, output.columns)
    for number in shown:
        table.add_column(_HEADINGS[number], align="left" if number < _KEPT else "right", whole=True)
    if beside:
        table.add_column("", fold=True)
    for row in rows:
        table.add_row(*(row[number] for number in shown), *(row[-1:] if beside else ()))
    output.table(table)
    if not beside:
        for one, row in zip(statuses, rows, strict=True):
            if row[-1]:
                output.wrap(f"{one.stage}: {_shown(row[-1])}")
    left = [one for one in statuses if one.state != "done"]
    if compare and left and all(one.state != "running" for one in left):
        output.say(f"next: {shlex.join(['retro', 'run', *arguments])}")


def _fitting(rows: Sequence[tuple[Cell, ...]], room: int) -> tuple[list[int], bool]:
    """The columns to show in so many characters, each of them whole, and whether the notes have room beside them.

    Where not all fit, those go first that say nothing, then the notes, which are printed below.
    """
    numbers = range(len(_HEADINGS))
    widths = [max(len(_shown(row[number])) for row in (_HEADINGS, *rows)) + _GAP for number in numbers]
    note = min(_NOTE, max(len(_shown(row[-1])) for row in rows))
    said = [number for number in numbers if number < _KEPT or any(_shown(row[number]) for row in rows)]
    for shown in (list(numbers), said):
        if sum(widths[number] for number in shown) + note <= room:
            return shown, True
    for name in _DROPPED:
        if sum(widths[number] for number in said) - _GAP > room:
            said = [number for number in said if _HEADINGS[number] != name]
    return said, False


def _shown(cell: Cell) -> str:
    return cell if isinstance(cell, str) else "".join(piece for piece, _ in cell)


def _cells(one: Status, *, verbose: bool) -> tuple[Cell, ...]:
    done = "" if one.done is None else f"{one.done:,}"
    if one.total:
        done = f"{one.done:,}/{one.total:,} {one.unit}"
    elif done:
        done = f"{done} {one.unit}"
    rate = "" if one.per_second is None else f"{one.per_second:,.1f}/s"
    left = "" if one.seconds_left is None else duration(one.seconds_left)
    workers = f"{len(one.workers)} at work: {', '.join(one.workers[:4])}{'…' if len(one.workers) > 4 else ''}"
    fingerprint = f"fingerprint {one.fingerprint}" if verbose and one.fingerprint else ""
    note = "; ".join(part for part in (workers if one.workers else "", one.note, fingerprint) if part)
    took = "" if one.seconds is None else duration(one.seconds)
    size = "" if one.bytes is None else human_size(one.bytes)
    return one.stage, styled((one.state, _STYLES[one.state])), done, rate, left, took, size, note


def run_verification(arguments: Sequence[str], *, share: float, repair: bool, seed: int, as_json: bool = False) -> None:
    """Verify a run and print what was found.

    Args:
        arguments: Its config with overrides, or its directory.
        share: Of the blocks to make once more.
        repair: Rebuild damaged blocks.
        seed: Draws the blocks.
        as_json: Print what was found for machines.

    Raises:
        ConfigError: `share` is not a share, or what was asked needs the run's settings, and a directory was given.
        RetroError: Something is not as it should be; each problem was printed.
    """
    config, command, has_settings = named_run(arguments)
    if not 0 <= share <= 1:
        raise ConfigError("--recompute", share, "needs a share of the blocks, 0 to 1")
    if (share or repair) and not has_settings:
        raise ConfigError("run", arguments[0], "needs the run's YAML file: blocks are made from its settings")
    from retro.run.verify import Verification

    verification = Verification(config, command, repair=repair)
    verification.read_all()
    if share:
        verification.recompute(share, seed)
    if as_json:
        output.json(asdict(verification.found))
    else:
        output.say(*verification.found.problems)
        if verification.found.not_covered:
            output.say(_not_covered(verification.found.not_covered))
        output.say(_summary(verification.found))
    if verification.found.problems:
        count = len(verification.found.problems)
        raise RetroError(f"{config.run_dir}: {count} problem{'s' if count > 1 else ''}, named above with what to do")


def _not_covered(paths: Sequence[Path]) -> str:
    names = ", ".join(str(path) for path in paths[:3]) + ("…" if len(paths) > 3 else "")
    count = "1 file was" if len(paths) == 1 else f"{len(paths)} files were"
    return f"{count} written by an older version, without a checksum of their own: not covered ({names})"


def _summary(found: VerifiedStage) -> str:
    parts = [f"{found.files} files ({found.bytes / 1e6:,.1f} MB) read"]
    parts += [f"{found.blocks} unfinished blocks read"] if found.blocks else []
    parts += [f"{found.recomputed} blocks made once more"] if found.recomputed else []
    parts += [f"{found.repaired} blocks repaired"] if found.repaired else []
    return f"{', '.join(parts)}: {'all is as it should be' if not found.problems else 'not all is as it should be'}"
