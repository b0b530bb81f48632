"""`retro doctor`: what is installed, what is missing or wrong, and what to do about it.

Every check looks without running: a wrong package is found by its files and its metadata, not by importing it.
Nothing here fails because something is missing, so it can be the first thing that runs on a new machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict

from retro.common.terminal import Table, Terminal, output, styled
from retro.doctor import machine, packages
from retro.doctor.finding import Finding

__all__ = ["Finding", "examine", "report", "run"]

CHECKS: tuple[Callable[[], Finding], ...] = (
    machine.python,
    packages.torch_build,
    packages.cuda_devices,
    packages.megatron_core,
    packages.faiss,
    packages.transformer_engine,
    packages.apex,
    packages.retro_import,
    packages.embedder,
    machine.cores,
    machine.precision,
    machine.memory,
    machine.disk,
)

_COLORS = {"ok": "green", "note": "yellow", "problem": "bold red"}


def examine() -> list[Finding]:
    """All findings, in the order of `CHECKS`. Takes a second, and where there may be a GPU torch's import too."""
    return [check() for check in CHECKS]


def report(findings: Sequence[Finding]) -> Table:
    """The findings as a table; colors only stress what the words say."""
    table = Table(rules="ends")
    table.add_column("State", whole=True)
    table.add_column("What", whole=True)
    table.add_column("Found, and what to do", fold=True)
    for finding in findings:
        advice = (f"\n→ {finding.advice}", "bold") if finding.advice else ""
        table.add_row(styled((finding.state, _COLORS[finding.state])), finding.name, styled(finding.found, advice))
    return table


def run(terminal: Terminal = output, *, as_json: bool = False) -> int:
    """Print the table, or the findings for machines; 1 when a problem was found, else 0."""
    findings = examine()
    problems = sum(finding.state == "problem" for finding in findings)
    if as_json:
        terminal.json([asdict(finding) for finding in findings])
        return 1 if problems else 0
    terminal.table(report(findings))
    terminal.say(f"{problems} to mend, see above." if problems else "Nothing to mend.")
    return 1 if problems else 0
