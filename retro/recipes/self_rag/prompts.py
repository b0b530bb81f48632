"""Texts of the recipe: what teacher and critic are asked, and how instructions are written. Data, in `prompts.yaml`.

An instruction with an input, or with a context, is one text with headings; the style in `style.yaml` puts
`### Instruction:` before and `### Response:` behind it. Tuning and use go through the same functions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from pydantic import Field, PositiveInt, model_validator

from retro.common.artifacts import fingerprint
from retro.common.config import StageConfig, config_json
from retro.common.errors import ConfigError
from retro.recipes.prompt_files import filled, load_prompts
from retro.recipes.self_rag.tokens import FAMILIES, Family

Variant = Literal["input", "no_input", "no_input_paragraph", "no_input_separated"]
"""How an instruction is followed by what it is about: an input, nothing, or a context under one of two headings."""
_HEADINGS: dict[Variant, str] = {
    "input": "\n\n### Input:\n",
    "no_input_paragraph": "\n\n### Context:\n",
    "no_input_separated": "\n\n### Separated Context:\n",
}
# A number that goes on, and a choice of two, are no answers.
_ANSWER = re.compile(r"answer[\s*_]*:[\s*_\"'`\[(]*([a-z]+|\d+)(?![.,]?\d)(?!\s+(?:or|to)\b)", re.IGNORECASE)


class TeacherTexts(StageConfig):
    """What the teacher is asked of one family."""

    prompt: str
    """With `{instruction}` and whatever else the family looks at."""
    labels: dict[str, str]
    """The words that it answers with, and the token that each stands for."""


class Texts(StageConfig):
    """All of a prompts file."""

    whole_file: ClassVar[bool] = True

    name: str = Field(min_length=1)
    version: PositiveInt
    teacher: dict[Family, TeacherTexts]
    critic: dict[Family, str]
    headings: dict[Literal["instruction", "preceding", "evidence", "output"], str]
    tasks: dict[str, str]

    @model_validator(mode="after")
    def _whole(self) -> Texts:
        for family, tokens in FAMILIES.items():
            if family not in self.teacher or family not in self.critic:
                raise ConfigError(f"teacher.{family}", None, "needs texts for teacher and critic")
            given = sorted(set(self.teacher[family].labels.values()))
            if given != sorted(tokens):
                raise ConfigError(f"teacher.{family}.labels", given, f"needs a word for each of {', '.join(tokens)}")
        return self

    @property
    def identity(self) -> dict[str, Any]:
        """What manifests record."""
        return {"name": self.name, "version": self.version, "fingerprint": fingerprint(config_json(self))}


def load_texts(path: Path | None) -> Texts:
    """The shipped texts, or a user's file laid over them.

    Raises:
        DataError: The file is missing, or is not a prompts file.
    """
    return load_prompts(Texts, "retro.recipes.self_rag", path)


STYLE = Path("self_rag")
"""For `sft.data.prompts` and `generate.prompts`: the texts of `style.yaml`, in which style `plain` is the recipe's."""
KIND = "self_rag"
"""The kind of question there."""


def instruction_text(instruction: str, about: str = "", variant: Variant = "input") -> str:
    """An instruction with what it is about, as it stands behind `### Instruction:`.

    Args:
        instruction: The instruction itself.
        about: An input or a context; blank: none.
        variant: Under which heading it stands.

    Raises:
        ValueError: There is no such variant.
    """
    if variant not in get_args(Variant):
        raise ValueError(f"variant {variant!r}; known: {', '.join(get_args(Variant))}")
    if not about.strip() or variant == "no_input":
        return instruction.strip()
    return f"{instruction.strip()}{_HEADINGS[variant]}{about.strip()}"


def critic_input(texts: Texts, item: Mapping[str, str]) -> str:
    """What an item of the critic is about: its texts under headings, those that it has.

    Args:
        texts: The headings.
        item: `instruction`, and some of `preceding`, `evidence` and `output`.
    """
    named = ((heading, item.get(name, "")) for name, heading in texts.headings.items())
    return "\n".join(f"{heading}: {text.strip()}" for heading, text in named if text.strip())


def teacher_prompt(texts: Texts, family: Family, item: Mapping[str, str]) -> str:
    """What the teacher is asked of an item; a text that the item lacks is a dash."""
    values = {name: item.get(name, "").strip() or "-" for name in ("instruction", "output", "evidence", "preceding")}
    return filled(texts.teacher[family].prompt, values)


def label_of_reply(texts: Texts, family: Family, reply: str) -> str | None:
    """The token that a teacher's reply stands for; None where it says none of the words, or not in the form asked for.

    The last `Answer:` counts; a reply that is one of the words alone does too.
    """
    labels = texts.teacher[family].labels
    said = _ANSWER.findall(reply)
    word = said[-1].lower() if said else reply.strip().strip(".*\"'").lower()
    return labels.get(word)
