"""The base of all stage configs, and the road from a YAML file with dotted overrides to a frozen object.

Every mistake in a config becomes one ConfigError that names the setting, its value and what was needed; a key
that does not exist is answered with the nearest one that does.
"""

from __future__ import annotations

import copy
import difflib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, ValidationError, model_validator

from retro.common.errors import ConfigError
from retro.common.yaml_files import MAX_YAML_DEPTH, parse_yaml

C = TypeVar("C", bound="StageConfig")
_NO_DOT = re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+")


class StageConfig(BaseModel):
    """Frozen, closed to unknown keys, and speaking ConfigError instead of pydantic's own errors."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        protected_namespaces=(),
        validate_default=True,
        allow_inf_nan=False,
    )

    @model_validator(mode="wrap")
    @classmethod
    def _errors_name_the_setting(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(_prepared(cls, data) if isinstance(data, Mapping) else data)
        except ValidationError as error:
            raise _config_error(cls, error) from None


def _prepared(owner: type[BaseModel], data: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as they are meant: an empty section has its defaults, and `~` in a path is the home folder.

    Raises:
        ConfigError: A path holds what no path can.
    """
    prepared = dict(data)
    for name in prepared.keys() & owner.model_fields.keys():
        kind, value = owner.model_fields[name].annotation, prepared[name]
        if value is None and isinstance(kind, type) and issubclass(kind, StageConfig):
            prepared[name] = {}
        elif _has_paths(kind):
            prepared[name] = _expanded(f"{owner.__name__}.{name}", value)
    return prepared


def _has_paths(kind: object) -> bool:
    return kind is Path or any(map(_has_paths, get_args(kind)))


def _expanded(setting: str, value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_expanded(setting, one) for one in value]
    if not isinstance(value, str | Path):
        return value
    text = str(value)
    if "\0" in text or (not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text)):
        raise ConfigError(setting, text, "needs a path without NUL, in UTF-8")
    # Not Path.expanduser, which fails where there is no such user.
    return Path(os.path.expanduser(text)) if text.startswith("~") else value  # noqa: PTH111


def _config_error(owner: type[BaseModel], error: ValidationError) -> ConfigError:
    first = error.errors(include_url=False)[0]
    path = [str(part) for part in first["loc"]]
    setting = ".".join([owner.__name__, *path])
    if first["type"] == "extra_forbidden":
        return ConfigError(setting, first["input"], unknown_name(path[-1], list(owner.model_fields)))
    if first["type"] == "missing":
        return ConfigError(setting, None, "needs a value; it has no default")
    message = str(first["msg"]).removeprefix("Value error, ")
    message = message.removeprefix("Input should be ")
    return ConfigError(setting, first["input"], f"needs {message}")


def unknown_name(name: str, known: Sequence[str]) -> str:
    """Say that `name` does not exist and which known name is nearest."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(known))}"
    return f"is not a setting; {hint}"


def apply_overrides(data: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return `data` with `a.b.c=value` overrides laid over it; values are read as YAML.

    Raises:
        ConfigError: An override has no `=`, or goes through something that is not a section.
    """
    merged: dict[str, Any] = copy.deepcopy(dict(data))
    for override in overrides:
        name, sign, text = override.partition("=")
        if not sign or not name.strip():
            raise ConfigError("override", override, "needs the form section.setting=value, as in train.lr=3e-4")
        *sections, last = name.strip().split(".")
        if len(sections) >= MAX_YAML_DEPTH:
            raise ConfigError("override", override[:80], f"needs a name of at most {MAX_YAML_DEPTH} parts")
        try:
            value = _value(text)
        except yaml.YAMLError as error:
            raise ConfigError(name, text, f"needs a YAML value ({getattr(error, 'problem', None) or error})") from None
        _section(merged, name, sections, value)[last] = value
    return merged


def _section(data: dict[str, Any], name: str, sections: Sequence[str], value: object) -> dict[str, Any]:
    """The section that an override goes into; one that is absent or empty is made."""
    for section in sections:
        if data.get(section) is None:
            data[section] = {}
        data = data[section]
        if not isinstance(data, dict):
            raise ConfigError(name, value, f"needs {section!r} to be a section, but it is a value")
    return data


def _value(text: str) -> Any:
    value = parse_yaml(text)
    # YAML 1.1 reads 3e-4 as a text because it has no dot; everybody means a number.
    return float(value) if isinstance(value, str) and _NO_DOT.fullmatch(value) else value


def config_json(config: BaseModel) -> dict[str, Any]:
    """The config as plain JSON values, every default filled in."""
    data: dict[str, Any] = json.loads(config.model_dump_json())
    return data
