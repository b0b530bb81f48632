"""The base of all stage configs, and the way from a YAML file with dotted overrides to a frozen object.

Every mistake in a config becomes one ConfigError that names the setting, its value and what was needed; a key
that does not exist is answered with the nearest one that does.
"""

from __future__ import annotations

import ast
import copy
import difflib
import inspect
import json
import logging
import os
import re
import textwrap
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar, get_args

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError

from retro.common.errors import ConfigError
from retro.common.yaml_files import MAX_YAML_DEPTH, parse_yaml

log = logging.getLogger(__name__)

C = TypeVar("C", bound="StageConfig")
_NO_DOT = re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+")


class StageConfig(BaseModel):
    """Frozen, closed to unknown keys, and speaking ConfigError instead of pydantic's own errors."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        protected_namespaces=(),
        validate_default=True,
        allow_inf_nan=False,
    )

    whole_file: ClassVar[bool] = False
    """Whether users write it as a file: its settings are then named as they stand there, without the class."""

    def __init_subclass__(cls, **given: Any) -> None:
        """Wrap the checks of a class, its own too: one of this class would be within those that come after fields."""
        super().__init_subclass__(**given)

        def check(owner: type[Self], data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
            return owner._errors_name_the_setting(data, handler)

        wrapped = model_validator(mode="wrap")(classmethod(check))  # type: ignore[arg-type]  # mypy infers Never
        setattr(cls, f"_outermost_check_of_{cls.__name__}", wrapped)

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """The JSON schema, each setting described by the docstring below it.

        pydantic's `use_attribute_docstrings` would read the source of every section at each start: 0.15 seconds.
        """
        schema = handler(core_schema)
        properties = handler.resolve_ref_schema(schema).get("properties", {})
        for name, text in setting_docs(cls).items():
            properties[name].setdefault("description", text)
        return schema

    @classmethod
    def _errors_name_the_setting(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Within another config an error stays pydantic's, which adds the place of each section on its way out."""
        outermost = not _within.get()
        token = _within.set(True)
        try:
            return handler(_prepared(cls, data) if isinstance(data, Mapping) else data)
        except ConfigError as error:
            own = f"{cls.__name__}."
            if not error.setting.startswith(own):
                raise
            place = tuple(error.setting.removeprefix(own).split("."))
            line = InitErrorDetails(
                type=PydanticCustomError(_OURS, "{need}", {"need": error.need}), loc=place, input=error.value
            )
            error_of_place = ValidationError.from_exception_data(cls.__name__, [line])
        except ValidationError as error:
            error_of_place = error
        finally:
            _within.reset(token)
        raise _config_error(cls, error_of_place) if outermost else error_of_place


_within: ContextVar[bool] = ContextVar("within another config", default=False)
_OURS = "retro"


def setting_docs(section: type[BaseModel]) -> dict[str, str]:
    """The docstrings below the settings of a section, and of those that it takes over, by name."""
    found: dict[str, str] = {}
    for owner in reversed(section.__mro__):
        if not issubclass(owner, StageConfig) or owner is StageConfig:
            continue
        (parsed,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
        for line, below in pairwise(parsed.body if isinstance(parsed, ast.ClassDef) else []):
            if not (isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)):
                continue
            if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                found[line.target.id] = inspect.cleandoc(str(below.value.value))
    return {name: text for name, text in found.items() if name in section.model_fields}


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
        elif _has_truth(value) and _holds(kind, (int, float)) and not _holds(kind, (bool,)):
            raise ConfigError(f"{owner.__name__}.{name}", value, "needs a number, which true and false are not")
        elif _holds(kind, (Path,)):
            prepared[name] = _expanded(f"{owner.__name__}.{name}", value)
    return prepared


def _holds(kind: object, types: tuple[type, ...]) -> bool:
    """Whether an annotation has one of some types, at any depth; a value that a Literal names counts as its type."""
    return kind in types or type(kind) in types or any(_holds(inner, types) for inner in get_args(kind))


def _has_truth(value: object) -> bool:
    return isinstance(value, bool) or (isinstance(value, list | tuple) and any(map(_has_truth, value)))


def _expanded(setting: str, value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_expanded(setting, one) for one in value]
    if isinstance(value, Mapping):
        return {key: _expanded(f"{setting}.{key}", one) for key, one in value.items()}
    if not isinstance(value, str | Path):
        return value
    text = str(value)
    if not text:
        raise ConfigError(setting, text, "needs a path, which no text at all is not")
    if "\0" in text or (not text.isascii() and is_broken(text)):
        raise ConfigError(setting, text, "needs a path without NUL, in UTF-8")
    # Not Path.expanduser, which fails where there is no such user.
    return Path(os.path.expanduser(text)) if text.startswith("~") else value  # noqa: PTH111


def _config_error(owner: type[StageConfig], error: ValidationError) -> ConfigError:
    first = error.errors(include_url=False)[0]
    path, section = _as_typed(owner, first["loc"])
    setting = ".".join(path if owner.whole_file else [owner.__name__, *path])
    if first["type"] == _OURS:
        return ConfigError(setting, first["input"], str(first["ctx"]["need"]))
    if first["type"] == "extra_forbidden":
        return ConfigError(setting, first["input"], unknown_name(path[-1], list(section.model_fields)))
    if first["type"] == "missing":
        return ConfigError(setting, None, "needs a value; it has no default")
    if first["type"] == "path_type":
        return ConfigError(setting, first["input"], "needs a path, as text")
    message = str(first["msg"]).removeprefix("Value error, ")
    message = message.removeprefix("Input should be ")
    return ConfigError(setting, first["input"], f"needs {message}")


def _as_typed(owner: type[BaseModel], place: Sequence[int | str]) -> tuple[list[str], type[BaseModel]]:
    """The parts of a setting's name that a user types, and the section that the last of them belongs to.

    pydantic also names the member of a union that a value was tried as, which nobody types.
    """
    path: list[str] = []
    section, sections, named = owner, [owner], True
    for number, part in enumerate(place):
        of = next((one for one in sections if part in one.model_fields), None)
        if of is not None:
            kind = of.model_fields[str(part)].annotation
            section, sections, named = of, _sections_in(kind), "dict" in str(kind).lower()
        elif not isinstance(part, int) and number and not (sections and number == len(place) - 1) and not named:
            continue
        elif sections:
            section = sections[0]
        path.append(str(part))
    return path, section


def _sections_in(kind: Any) -> list[type[BaseModel]]:
    """The configs that a field's annotation holds, at any depth."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [kind]
    return [section for inner in get_args(kind) for section in _sections_in(inner)]


def unknown_name(name: str, known: Sequence[str]) -> str:
    """Say that `name` does not exist and which known name is nearest."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(known)) or 'none'}"
    return f"is not a setting; {hint}"


def apply_overrides(data: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return `data` with `a.b.c=value` overrides merged over it; values are read as YAML.

    Raises:
        ConfigError: An override has no `=`, or goes through something that is not a section.
    """
    merged: dict[str, Any] = copy.deepcopy(dict(data))
    for override in overrides:
        name, sign, text = override.partition("=")
        if not sign or not all(name.strip().split(".")) or is_broken(name):
            raise ConfigError("override", override, "needs the form section.setting=value, as in train.lr=3e-4")
        *sections, last = name.strip().split(".")
        if len(sections) >= MAX_YAML_DEPTH:
            raise ConfigError("override", override[:80], f"needs a name of at most {MAX_YAML_DEPTH} parts")
        try:
            value = _value(text)
        except yaml.YAMLError as error:
            raise ConfigError(name, text, f"needs a YAML value ({getattr(error, 'problem', None) or error})") from None
        target = _section(merged, name, sections, value)
        target[_place(target, name, last)] = value
    return merged


def is_broken(word: str) -> bool:
    """Whether a word of the command line had bytes that are not UTF-8, for which Python puts halves of characters."""
    return any("\ud800" <= letter <= "\udfff" for letter in word)


def _section(data: dict[str, Any], name: str, sections: Sequence[str], value: object) -> Any:
    """The section that an override goes into, or the list; a section that is absent or empty is made."""
    inner: Any = data
    for section in sections:
        place = _place(inner, name, section)
        if isinstance(inner, dict) and inner.get(section) is None:
            inner[section] = {}
        inner = inner[place]
        if not isinstance(inner, dict | list):
            raise ConfigError(name, value, f"needs {section!r} to be a section, but it is a value")
    return inner


def _place(target: dict[str, Any] | list[Any], name: str, part: str) -> Any:
    """A part of a dotted name as what it is looked up by: a key, or in a list the number of an item, from 0."""
    if isinstance(target, dict):
        return part
    if part.isdecimal() and part.isascii() and len(part) < 9 and int(part) < len(target):
        return int(part)
    raise ConfigError(name, part, f"needs the number of an item, 0 to {len(target) - 1}" if target else "needs an item")


def _value(text: str) -> Any:
    value = parse_yaml(text)
    # YAML 1.1 reads 3e-4 as a text because it has no dot; everybody means a number.
    return float(value) if isinstance(value, str) and _NO_DOT.fullmatch(value) else value


def config_json(config: BaseModel) -> dict[str, Any]:
    """The config as plain JSON values, every default filled in."""
    data: dict[str, Any] = json.loads(config.model_dump_json())
    return data


def rename_key(
    data: Any, owner: str, old: str, new: str = "precision", values: Mapping[bool, str] | None = None
) -> Any:
    """Settings with a key's name in place of the one that it had before.

    Args:
        data: A section as it was given; anything but a mapping is left alone.
        owner: The section's class, for the error.
        old: The former name.
        new: The name.
        values: What its values are now called; None where they are the same.

    Raises:
        ConfigError: Both names are there.
    """
    if not isinstance(data, Mapping) or old not in data:
        return data
    if new in data:
        raise ConfigError(
            f"{owner}.{old}", data[old], f"is the former name of `{new}`, which is given too; leave it out"
        )
    value = data[old]
    if values is not None and isinstance(value, bool):
        value = values[value]
    return {key: one for key, one in data.items() if key != old} | {new: value}


@lru_cache(maxsize=8)
def warn_renamed(old: str, new: str) -> None:
    """Say once that a setting has another name now."""
    log.warning("%s is the former name of %s; it is still read", old, new)
