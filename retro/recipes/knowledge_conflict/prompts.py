"""Texts of the recipe, from `prompts.yaml` and a user's file that is laid over it."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, PositiveInt, model_validator

from retro.common.artifacts import fingerprint
from retro.common.config import StageConfig, config_json
from retro.common.errors import ConfigError, DataError, require
from retro.common.yaml_files import parse_yaml, read_yaml

SLOTS = ("question", "answer", "avoid")
_SLOT = re.compile(r"\{(\w+)\}")


class Texts(StageConfig):
    """All of a prompts file."""

    whole_file: ClassVar[bool] = True

    name: str = Field(min_length=1)
    version: PositiveInt
    counter_memory: str
    """What the teacher is asked for, with the slots {question}, {answer} and {avoid}."""
    uncertain: str = Field(min_length=1)
    """The option that decides for neither answer."""
    abstain: str = Field(min_length=1)
    """Said before a question with `instruction: abstain`."""

    @model_validator(mode="after")
    def _slots(self) -> Texts:
        found = set(_SLOT.findall(self.counter_memory))
        need = "the slots {question} and {answer}, and besides them {avoid} at most"
        require(self, "counter_memory", {"question", "answer"} <= found <= set(SLOTS), need)
        return self

    @property
    def identity(self) -> dict[str, Any]:
        """What manifests record."""
        return {"name": self.name, "version": self.version, "fingerprint": fingerprint(config_json(self))}

    def counter_prompt(self, question: str, answer: str, avoid: str) -> str:
        """What the teacher is asked for; what is filled in is never looked at again, so it may hold braces."""
        values = {"question": question, "answer": answer, "avoid": avoid}
        return _SLOT.sub(lambda slot: values[slot[1]], self.counter_memory)


def load_texts(path: Path | None) -> Texts:
    """The shipped texts, or a user's file laid over them.

    Raises:
        DataError: The file is missing, has no name or version, or is not a prompts file.
    """
    shipped = resources.files("retro.recipes.knowledge_conflict").joinpath("prompts.yaml").read_text(encoding="utf-8")
    data: dict[str, Any] = parse_yaml(shipped)
    if path is None:
        return Texts(**data)
    own = read_yaml(path)
    remedy = "Its texts are those of retro/recipes/knowledge_conflict/prompts.yaml"
    for key in ("name", "version"):
        if key not in own:
            raise DataError(path, f"has no {key!r}", f"Give it one: it is recorded with the results. {remedy}")
    try:
        return Texts(**(data | own))
    except ConfigError as error:
        raise DataError(path, str(error), remedy) from None
