"""Categories of entities, from a file: what generated questions are about."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from retro.common.errors import DataError, short_reason
from retro.common.input_files import read_text
from retro.common.yaml_files import parse_yaml

_REMEDY = (
    "Give names between commas, over as many lines as you like; or YAML, a list of names or lists of names by name"
)
_LONGEST = 200


def read_categories(path: Path) -> list[str]:
    """The categories of a file, each once whatever its case, in order.

    Args:
        path: A text with commas and line ends between names; or `.yaml`, a list of names, or a mapping whose lists are
            the sub-categories of a category. A category with sub-categories is named by them alone.

    Raises:
        DataError: The file cannot be read, has no category, or one that is no name.
    """
    text = read_text(path, _REMEDY, error=DataError, missing="no such file of categories")
    if path.suffix in (".yaml", ".yml"):
        try:
            names = list(_names(path, parse_yaml(text)))
        except yaml.YAMLError as error:
            raise DataError(path, f"is not YAML: {short_reason(error)}", _REMEDY) from None
    else:
        names = [one for line in text.split("\n") for one in line.split(",")]
    stripped = [" ".join(one.split()) for one in names]
    found = {one.casefold(): one for one in reversed(stripped) if one}
    for one in found.values():
        if len(one) > _LONGEST:
            raise DataError(path, f"has a category of {len(one)} characters: {one[:40]!r}…", _REMEDY)
    if not found:
        raise DataError(path, "has no category", _REMEDY)
    return [found[key] for key in dict.fromkeys(one.casefold() for one in stripped) if key]


def _names(path: Path, value: Any) -> Iterable[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _names(path, inner) if inner else (str(name),)
    elif isinstance(value, list):
        for one in value:
            yield from _names(path, one)
    elif isinstance(value, str):
        yield value
    else:
        raise DataError(path, f"has {value!r} where a name should be", _REMEDY)
