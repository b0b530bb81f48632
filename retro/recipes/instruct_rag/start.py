"""Which models the recipe uses: the one that it starts from, and the tuned one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retro.recipes.base import StepRun
from retro.recipes.instruct_rag.sets import find_checkpoint
from retro.teacher.request import estimated_tokens

# What a chat template puts around a prompt, in tokens.
_TEMPLATE = 64


@dataclass(frozen=True)
class Room:
    """How long a prompt for the teacher may be."""

    tokens: int | None
    """Most tokens; None: no limit."""
    count: Callable[[str], int]
    """Tokens of a prompt."""

    def holds(self, prompt: str) -> bool:
        """Whether a prompt is short enough."""
        return self.tokens is None or self.count(prompt) <= self.tokens


def base_model(work: StepRun) -> Path:
    """The model before tuning: what writes rationales by itself, and what answers in all modes but ft."""
    from retro.run.pipeline import pretrained

    given: Path | None = work.settings.tune.start_from or work.config.sft.start_from or work.config.generate.checkpoint
    return given or pretrained(work.config)


def tuned_model(work: StepRun) -> Path:
    """The tuned model: the settings', or the step's."""
    name: str = work.settings.checkpoint
    return find_checkpoint(name, work.settings.checkpoints) if name else work.made_by("tune") / "sft"


def teaches_itself(work: StepRun) -> bool:
    """Whether the recipe's own model writes the rationales."""
    teacher = work.settings.rationale.teacher
    return teacher.kind == "engine" and teacher.run is None


def identity_of(path: Path) -> Mapping[str, Any]:
    """What a step that uses a model is made with, beside its settings.

    Raises:
        RetroError: There is no such model.
    """
    from retro.training import checkpoint
    from retro.training.result import of_stage

    return {"model": checkpoint.identity(checkpoint.find(of_stage(path)))}


def room_of(work: StepRun) -> Room:
    """How long prompts for rationales may be, in tokens of the model itself where that writes them."""
    config = work.settings.rationale
    if not teaches_itself(work):
        return Room(config.prompt_tokens, lambda prompt: estimated_tokens(({"role": "user", "content": prompt},)))
    from retro.generate.loading import sequence_length
    from retro.tokenizers.tokenizer import load_tokenizer
    from retro.training import checkpoint
    from retro.training.result import of_stage

    info = checkpoint.read_info(checkpoint.find(of_stage(base_model(work))))
    length = sequence_length(work.config.generate, info) or info.shape.model.sequence_length
    directory = info.tokenizer or work.made_by("corpus")
    tokenizer = load_tokenizer(directory)
    room = length - config.max_tokens - _TEMPLATE
    return Room(config.prompt_tokens or max(1, room), lambda prompt: len(tokenizer.encode_batch([prompt])[0]))
