"""A run's YAML file from choices: sections as they come, each setting with its reason beside or above it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import yaml

from retro.common.terminal import one_line
from retro.init.corpus_choices import Choice

_WIDTH = 120
_STEP = "  "


def as_yaml(head: Sequence[str], choices: Sequence[Choice]) -> str:
    """The text of the file.

    Args:
        head: Paragraphs of the comment at its top.
        choices: Settings; those of one section stand together.
    """
    lines = [line for paragraph in head for line in _comment(paragraph, "")]
    before: tuple[str, ...] = ()
    for choice in choices:
        *sections, name = choice.setting.split(".")
        for depth, section in enumerate(sections):
            if before[: depth + 1] != tuple(sections[: depth + 1]):
                lines += [""] if depth == 0 else []
                lines.append(f"{_STEP * depth}{section}:")
                before = tuple(sections[: depth + 1])
        before = tuple(sections)
        lines += _setting(name, choice, _STEP * len(sections))
    return "\n".join(lines) + "\n"


def _setting(name: str, choice: Choice, indent: str) -> list[str]:
    if _is_list_of_mappings(choice.value):
        items = [f"{indent}{_STEP}- {_flow(item)}" for item in choice.value]
        return [*_comment(choice.why, indent), f"{indent}{name}:", *items]
    line = f"{indent}{name}: {_flow(choice.value)}"
    if not choice.why:
        return [line]
    beside = f"{line}  # {one_line(choice.why)}"
    return [beside] if len(beside) <= _WIDTH else [*_comment(choice.why, indent), line]


def _is_list_of_mappings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _flow(value: Any) -> str:
    """A value on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=False, width=float("inf"))
    return text.removesuffix("...\n").strip()


def _comment(text: str, indent: str) -> list[str]:
    wrapped = textwrap.wrap(one_line(text), _WIDTH - len(indent) - 2, break_on_hyphens=False)
    return [f"{indent}# {line}" for line in wrapped]
