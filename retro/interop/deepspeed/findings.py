"""What a comparison finds: mismatches that make two trainings differ, and notes that do not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from retro.interop.deepspeed.settings_file import AUTO, SettingsFile

CLOSE = 1e-9
"""Relative difference below which two numbers are one: 2e-5 may be written in several ways."""


@dataclass(frozen=True, kw_only=True)
class Mismatch:
    """One setting that does not agree with the run, or that cannot work."""

    setting: str
    """In the file, as `optimizer.params.lr`."""
    line: int | None
    """Where it stands, counted from 1; None where the file does not have it."""
    found: str
    """Its value there."""
    run: str
    """The run's value; empty where the run has no counterpart."""
    why: str
    """Why it matters, in a clause."""
    remedy: str
    """What to do."""


@dataclass
class Findings:
    """All that a comparison found, in the order in which it looked."""

    file: SettingsFile
    mismatches: list[Mismatch] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    filled: list[str] = field(default_factory=list)
    """Settings that are "auto": the caller fills them."""
    absent: list[str] = field(default_factory=list)
    """What the file leaves to the caller, with the run's values, as `gradient_clipping = 1`."""

    def add(self, setting: str, found: object, run: str, why: str, remedy: str) -> None:
        """Add a mismatch; `found` is shown as a file of settings writes it."""
        line = self.file.lines.get(setting)
        self.mismatches.append(
            Mismatch(setting=setting, line=line, found=shown(found), run=run, why=why, remedy=remedy)
        )

    def compare(self, setting: str, wanted: float, source: str, why: str, *, default: float | None = None) -> None:
        """Compare a number of the file with the run's.

        Args:
            setting: In the file.
            wanted: The run's value.
            source: The run's setting, as `train.lr`; empty where the run has none of that value.
            why: Why a difference matters.
            default: What an absent setting counts as; None: the caller gives it.

        Raises:
            DataError: The file's value is no number.
        """
        if self.file.at(setting) == AUTO:
            self.filled.append(setting)
            return
        found = self.file.number(setting)
        if found is None and default is None:
            self.absent.append(f"{setting} = {shown(wanted)}")
            return
        value = default if found is None else found
        if value is not None and not same(value, wanted):
            text = shown(value) if found is not None else f"{shown(value)} (default)"
            remedy = f"Write {shown(wanted)}{f', or set {source}={shown(value)} in the run' if source else ''}"
            self.add(setting, text, shown(wanted), why, remedy)


def same(one: float, other: float) -> bool:
    """Whether two numbers are one number in different spellings."""
    return math.isclose(one, other, rel_tol=CLOSE, abs_tol=0.0)


def shown(value: object) -> str:
    """A value as a JSON file may have it, short."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, float):
        return f"{value:.12g}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(map(shown, value))}]"
    return str(value)[:80]
