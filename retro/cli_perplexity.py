"""`retro perplexity --checkpoint`: the perplexity of one checkpoint on a run's text."""

from __future__ import annotations

import os
from pathlib import Path

from retro.common.launcher import join_launcher
from retro.common.terminal import output
from retro.run.config import RunConfig
from retro.run.pipeline import measure_checkpoint, stage_lock


def show_checkpoint(config: RunConfig, path: Path, *, again: bool = False, as_json: bool = False) -> None:
    """Measure a checkpoint, or find it measured, and print its tables.

    Args:
        config: The run whose text and neighbors are read.
        path: As `retro.run.pipeline.measure_checkpoint` takes it.
        again: Measure once more what was measured.
        as_json: Print numbers in place of tables.
    """
    from retro.evaluate.tables import measured_numbers, print_measured

    join_launcher()
    with stage_lock(config, "perplexity", together=True):
        out = measure_checkpoint(config, path, again=again)
    if int(os.environ.get("RANK", "0")):
        return
    if as_json:
        output.json(measured_numbers(out) | {"directory": str(out)})
        return
    print_measured(out, output)
    output.say(f"all numbers: {out}")
