"""Prompts of a recipe: a YAML file in its package, and a user's file laid over it. Both have a name and a version."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import Field, PositiveInt

from retro.common.artifacts import fingerprint
from retro.common.config import StageConfig, config_json
from retro.common.errors import ConfigError, DataError
from retro.common.yaml_files import parse_yaml, read_yaml


class PromptFile(StageConfig):
    """What every such file has; a recipe adds its texts as fields."""

    whole_file: ClassVar[bool] = True
    package: ClassVar[str]
    """Where the recipe's own file is, such as `retro.recipes.self_rag`."""
    file: ClassVar[str] = "prompts.yaml"
    """Its name."""

    name: str = Field(min_length=1)
    version: PositiveInt

    @property
    def identity(self) -> dict[str, Any]:
        """What manifests record."""
        return {"name": self.name, "version": self.version, "fingerprint": fingerprint(config_json(self))}

    @classmethod
    def load(cls, path: Path | None) -> Self:
        """The recipe's texts, with a user's file laid over them.

        Raises:
            DataError: The file is missing, or is not a prompts file of the recipe.
        """
        text = resources.files(cls.package).joinpath(cls.file).read_text(encoding="utf-8")
        data: dict[str, Any] = parse_yaml(text)
        if path is None:
            return cls(**data)
        own = read_yaml(path)
        remedy = f"Its sections are those of {cls.package.replace('.', '/')}/{cls.file}"
        for key in ("name", "version"):
            if key not in own:
                raise DataError(path, f"has no {key!r}", f"Give it one: it is recorded with the results. {remedy}")
        try:
            return cls(**laid_over(data, own))
        except ConfigError as error:
            raise DataError(path, str(error), remedy) from None


def laid_over(below: Any, above: Any) -> Any:
    """Values in place of others; what a section does not give stays."""
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    return below | {key: laid_over(below.get(key), value) for key, value in above.items()}


_PLACE = re.compile(r"\{([A-Za-z_]\w*)\}")


def places_of(text: str) -> list[str]:
    """Names in braces that a prompt leaves room for, in order."""
    return _PLACE.findall(text)


def filled(text: str, values: Mapping[str, str]) -> str:
    """A prompt with its places filled in. What is filled in is never looked at again: it may hold braces.

    Args:
        text: The prompt; `require_places` checked it when it was read.
        values: By the names of places. Other braces stay as they are.
    """
    return _PLACE.sub(lambda found: values.get(found[1], found[0]), text)


def require_places(setting: str, text: str, needed: Collection[str], optional: Collection[str] = ()) -> None:
    """Check the places of a prompt: one that nobody fills would stay in it as it is.

    Args:
        setting: Where it stands, for the message.
        text: The prompt.
        needed: Places that it must have.
        optional: Places that it may have.

    Raises:
        ConfigError: One is missing, or is known to nobody.
    """
    found = set(places_of(text))
    missing = [name for name in needed if name not in found]
    if missing:
        raise ConfigError(setting, _short(text), f"needs the place {{{missing[0]}}} in it")
    unknown = sorted(found - {*needed, *optional})
    if unknown:
        known = ", ".join(f"{{{name}}}" for name in (*needed, *optional)) or "none"
        raise ConfigError(setting, _short(text), f"needs no {{{unknown[0]}}}, which nothing fills in; known: {known}")


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else f"{line[:59]}…"
