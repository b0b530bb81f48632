"""How the model that answers was tuned, and whether it is asked the same way."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from retro.common.files import read_json
from retro.generate.config import GenerateConfig
from retro.qa.prompt_texts import PromptTexts, shipped_prompts

log = logging.getLogger(__name__)

_COMPARED = ("style", "add_special_tokens", "template", "contexts_in_prompt", "neighbor_text")


def warn_of_other_prompts(config: GenerateConfig, checkpoint: Path, texts: PromptTexts | None = None) -> list[str]:
    """Warn where questions are asked in another form than the model was tuned on. Other forms may be meant: they are
    no error.

    Args:
        config: How questions are asked.
        checkpoint: The model's, below the directory of its run.
        texts: The prompt texts that they are asked with; absent: the shipped ones.

    Returns:
        The differences, in words.
    """
    settings = _settings(checkpoint)
    tuned = _data_of(settings)
    asked = config.model_dump(mode="json")
    compared = [*_COMPARED, *(["encoder"] if config.encoder else [])]
    found = [
        f"generate.{name} is {asked[name]!r}, it was tuned with sft.data.{name} = {tuned[name]!r}"
        for name in compared
        if name in tuned and tuned[name] != asked[name]
    ]
    found += _other_texts(settings.get("prompts"), texts or shipped_prompts())
    for words in found:
        log.warning("%s: %s; answers may be worse than the model can", checkpoint, words)
    return found


def _other_texts(tuned: Any, texts: PromptTexts) -> list[str]:
    asked = texts.identity
    if not isinstance(tuned, dict) or tuned == asked:
        return []
    names = [f"{one.get('name')!r} version {one.get('version')} ({one.get('fingerprint')})" for one in (asked, tuned)]
    return [f"the prompt texts are {names[0]}, it was tuned with {names[1]}"]


def _settings(checkpoint: Path) -> dict[str, Any]:
    """The settings of the tuning; nothing for a model that was not tuned here."""
    path = checkpoint.parent.parent / "config.json"
    if not path.exists():
        return {}
    settings = read_json(path, f"Delete {path}; it only says how the model was tuned")
    return settings if isinstance(settings, dict) else {}


def _data_of(settings: dict[str, Any]) -> dict[str, Any]:
    data = (settings.get("sft") or {}).get("data")
    return data if isinstance(data, dict) else {}
