"""`retro doctor`: what is installed, what is missing or wrong, and what to do about it.

Every check looks without running: a wrong package is found by its files and its metadata, not by importing it.
Nothing here fails because something is missing, so it can be the first thing that runs on a new machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

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
    machine.bfloat16,
    machine.memory,
    machine.disk,
)

_COLORS = {"ok": "green", "note": "yellow", "problem": "bold red"}


def examine() -> list[Finding]:
    """All findings, in the order of `CHECKS`. Takes a few seconds, nearly all of them torch's import."""
    return [check() for check in CHECKS]


def report(findings: Sequence[Finding]) -> Table:
    """The findings as a table; colors only stress what the words say."""
    table = Table(box=box.HORIZONTALS)
    table.add_column("State", no_wrap=True)
    table.add_column("What", no_wrap=True)
    table.add_column("Found, and what to do", overflow="fold")
    for finding in findings:
        # Text, not markup: `pip install "instruct-retro[cpu]"` must keep its brackets.
        said = Text(finding.found)
        if finding.advice:
            said.append(f"\n→ {finding.advice}", style="bold")
        table.add_row(Text(finding.state, style=_COLORS[finding.state]), Text(finding.name), said)
    return table


def run(console: Console | None = None) -> int:
    """Print the table; 1 when a problem was found, else 0."""
    console = console or Console()
    findings = examine()
    problems = sum(finding.state == "problem" for finding in findings)
    console.print(report(findings))
    console.print(f"{problems} to mend, see above." if problems else "Nothing to mend.")
    return 1 if problems else 0
