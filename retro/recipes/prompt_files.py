"""Files of prompts that recipes bring: the shipped one, a user's file laid over it, and templates that are filled in.

A template has places such as `{question}`. Which places it may and must have is checked when the file is read, so that
no prompt is sent with a place that nobody fills.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from retro.common.config import StageConfig
from retro.common.errors import ConfigError, DataError
from retro.common.yaml_files import parse_yaml, read_yaml

PROMPTS = "prompts.yaml"
_PLACE = re.compile(r"\{([A-Za-z_]\w*)\}")

T = TypeVar("T", bound=StageConfig)


def load_prompts(kind: type[T], package: str, path: Path | None, name: str = PROMPTS) -> T:
    """The texts that a recipe ships, or a user's file laid over them.

    Args:
        kind: What such a file holds.
        package: Of the recipe, as `retro.recipes.self_rag`.
        path: The user's file; it needs a name and a version, which are recorded with the results.
        name: Of the recipe's own file.

    Raises:
        DataError: The file is missing, or is not a prompts file.
    """
    shipped = resources.files(package).joinpath(name)
    data: dict[str, Any] = parse_yaml(shipped.read_text(encoding="utf-8"))
    if path is None:
        return kind(**data)
    own = read_yaml(path)
    remedy = f"Its sections are those of {package.replace('.', '/')}/{name}"
    for key in ("name", "version"):
        if key not in own:
            raise DataError(path, f"has no {key!r}", f"Give it one: it is recorded with the results. {remedy}")
    try:
        return kind(**_laid_over(data, own))
    except ConfigError as error:
        raise DataError(path, str(error), remedy) from None


def filled(template: str, values: Mapping[str, str]) -> str:
    """A template with its places filled in. What is filled in is never looked at again: it may hold braces.

    Args:
        template: The text.
        values: By the names of places. Other braces stay as they are.
    """
    # Every second part is a name.
    parts = re.split(rf"\{{({'|'.join(map(re.escape, values))})\}}", template) if values else [template]
    return "".join(values[part] if place % 2 else part for place, part in enumerate(parts))


def require_places(setting: str, template: str, needed: Collection[str], optional: Collection[str] = ()) -> None:
    """Check the places of a template.

    Args:
        setting: Where it stands, for the message.
        template: The text.
        needed: Places that it must have.
        optional: Places that it may have.

    Raises:
        ConfigError: One is missing, or is known to nobody.
    """
    found = set(_PLACE.findall(template))
    missing = [name for name in needed if name not in found]
    if missing:
        raise ConfigError(setting, _short(template), f"needs the place {{{missing[0]}}} in it")
    unknown = sorted(found - {*needed, *optional})
    if unknown:
        known = ", ".join(f"{{{name}}}" for name in (*needed, *optional))
        raise ConfigError(
            setting, _short(template), f"needs no {{{unknown[0]}}}, which nothing fills in; known: {known}"
        )


def _short(template: str) -> str:
    text = " ".join(template.split())
    return text if len(text) <= 60 else f"{text[:59]}…"


def _laid_over(below: Any, above: Any) -> Any:
    """Texts in place of others; what a section does not give stays."""
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    return below | {key: _laid_over(below.get(key), value) for key, value in above.items()}
