"""Which models the recipe uses: the one that it starts from, and the tuned one."""

from __future__ import annotations

from pathlib import Path

from retro.recipes.base import StepRun
from retro.recipes.instruct_rag.sets import find_checkpoint


def base_model(work: StepRun) -> Path:
    """The model before tuning: what writes rationales by itself, and what answers in all modes but ft."""
    from retro.run.pipeline import pretrained

    given: Path | None = work.settings.tune.start_from or work.config.sft.start_from or work.config.generate.checkpoint
    return given or pretrained(work.config)


def tuned_model(work: StepRun) -> Path:
    """The tuned model: the settings', or the step's."""
    name: str = work.settings.checkpoint
    return find_checkpoint(name, work.settings.checkpoints) if name else work.made_by("tune") / "sft"
