"""Prompts of a recipe: a YAML file in its package, and a user's file laid over it. Both have a name and a version."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
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
    """Where the recipe's own `prompts.yaml` is, such as `retro.recipes.self_rag`."""

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
        text = resources.files(cls.package).joinpath("prompts.yaml").read_text(encoding="utf-8")
        data: dict[str, Any] = parse_yaml(text)
        if path is None:
            return cls(**data)
        own = read_yaml(path)
        remedy = f"Its sections are those of {cls.package.replace('.', '/')}/prompts.yaml"
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


_PLACE = re.compile(r"\{([a-z_]+)\}")


def places_of(text: str) -> list[str]:
    """Names in braces that a prompt leaves room for, in order."""
    return _PLACE.findall(text)


def filled(text: str, values: Mapping[str, str]) -> str:
    """A prompt with its places filled in. What is filled in is never looked at again: it may hold braces.

    Raises:
        ValueError: A place has no value.
    """
    lacking = sorted(set(places_of(text)) - values.keys())
    if lacking:
        raise ValueError(f"no value for {', '.join(lacking)} in {text[:60]!r}")
    return _PLACE.sub(lambda found: values[found[1]], text)


def require_places(setting: str, text: str, names: Sequence[str], *, optional: Sequence[str] = ()) -> None:
    """Check that a prompt has each of these places, and no other: one without a value would stay in it as it is.

    Raises:
        ConfigError: It has not.
    """
    found = set(places_of(text))
    if not set(names) <= found <= {*names, *optional}:
        shown = [", ".join(f"{{{name}}}" for name in some) for some in (names, optional)]
        may = f", perhaps {shown[1]}" if optional else ""
        raise ConfigError(setting, text, f"needs {shown[0] or 'no name in braces'} in it{may}, and no other in braces")
