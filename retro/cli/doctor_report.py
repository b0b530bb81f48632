"""What `retro doctor deepspeed` and `retro doctor trainer` print."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from retro.common.terminal import Table, output, styled
from retro.interop.deepspeed.findings import Findings
from retro.interop.deepspeed.run_settings import RunSettings
from retro.run.doctor_packages import Finding


def report(
    found: Findings, run: RunSettings, cuda: Finding, *, written: Path | None = None, as_json: bool = False
) -> int:
    """Print all that was found.

    Args:
        found: The comparison.
        run: What the file was compared with.
        cuda: CUDA on this machine.
        written: The file that was written.
        as_json: For machines.

    Returns:
        The exit code: 1 where something does not match, else 0.
    """
    code = 1 if found.mismatches or cuda.state == "problem" else 0
    if as_json:
        output.json(as_numbers(found, run, cuda, written))
        return code
    if found.mismatches:
        output.table(_table(found, run))
    if found.filled:
        output.wrap(f'"auto", filled by the caller from its own arguments: {", ".join(found.filled)}')
    if found.absent:
        output.wrap(f"Not in the file, so they come from the command line; the run's are: {', '.join(found.absent)}")
    for note in found.notes:
        output.wrap(f"Note: {note}.")
    _say_cuda(cuda)
    count = len(found.mismatches)
    verdict = "no mismatch" if not count else "1 mismatch" if count == 1 else f"{count} mismatches"
    output.say(f"{found.file.path}: {verdict} with {run.stage} on {_processes(run)}.")
    if written is not None:
        output.say(f"The file that matches is {written}.")
    return code


def _say_cuda(cuda: Finding) -> None:
    advice = f" → {cuda.advice}." if cuda.advice else "."
    output.wrap(f"{'Problem' if cuda.state == 'problem' else 'Note'}: CUDA: {cuda.found}{advice}")


def _table(found: Findings, run: RunSettings) -> Table:
    table = Table(title=f"{found.file.path} and {run.stage}", rules="ends")
    table.add_column("Setting, why it matters, and what to do", fold=True)
    table.add_column("Line", align="right", whole=True)
    table.add_column("File", fold=True)
    table.add_column("Run", fold=True)
    for one in found.mismatches:
        about = styled((one.setting, "bold"), (f"\n{one.why}", ""), (f"\n→ {one.remedy}", "bold"))
        table.add_row(about, str(one.line or ""), one.found, one.run)
    return table


def as_numbers(found: Findings, run: RunSettings, cuda: Finding, written: Path | None) -> dict[str, Any]:
    """All that was found, for machines."""
    return {
        "file": str(found.file.path),
        "stage": run.stage,
        "processes": run.processes,
        "mismatches": [asdict(one) for one in found.mismatches],
        "auto": found.filled,
        "absent": found.absent,
        "notes": found.notes,
        "cuda": asdict(cuda),
        "written": None if written is None else str(written),
    }


def say_written(written: Path | None, run: RunSettings, *, as_json: bool) -> None:
    """Say which file was written where none was compared."""
    if as_json:
        output.json({"written": str(written), "stage": run.stage, "processes": run.processes})
    else:
        output.say(f"{written}: the DeepSpeed settings of {run.stage} on {_processes(run)}.")


def _processes(run: RunSettings) -> str:
    return "1 process" if run.processes == 1 else f"{run.processes} processes"
