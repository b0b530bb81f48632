"""The base of all stage configs, and the road from a YAML file with dotted overrides to a frozen object.

Every mistake in a config becomes one ConfigError that names the setting, its value and what was needed; a key
that does not exist is answered with the nearest one that does.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, ValidationError, model_validator

from retro.common.errors import ConfigError, DataError

C = TypeVar("C", bound="StageConfig")


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
            return handler(data)
        except ValidationError as error:
            raise _config_error(cls, error) from None


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


def read_yaml(path: Path) -> dict[str, Any]:
    """Read one YAML mapping.

    Raises:
        DataError: The file is missing, is not YAML, or is not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        remedy = "Check the path, or start from tools/retro/examples/configs"
        raise DataError(path, "no such config file", remedy) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(path, f"cannot be read ({error})", "Give a UTF-8 YAML file") from None
    try:
        data = yaml.load(text, Loader=_NoSilentLoss)  # noqa: S506 - a SafeLoader
        json.dumps(data, default=str)
    except ValueError:
        raise DataError(path, "refers to itself", "Write its values out") from None
    except yaml.YAMLError as error:
        where = " ".join(str(error).split())
        raise DataError(path, f"is not YAML: {where}", "Mend the line it names") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise DataError(path, f"holds a {type(data).__name__}", "A run config is a mapping of stage names to settings")
    return data


class _NoSilentLoss(yaml.SafeLoader):
    """Safe YAML in which a key may stand once: of two equal keys plain YAML keeps the last, without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """As the base class does, after looking for keys that stand twice."""
        names = [key.value for key, _ in node.value]
        for (key, _), name in reversed(list(zip(node.value, names, strict=True))):
            if names.count(name) > 1 and name != "<<":
                line = key.start_mark.line + 1
                raise yaml.YAMLError(f"line {line}: {name!r} stands twice; settings of one section belong together")
        return super().construct_mapping(node, deep=deep)


def apply_overrides(data: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return `data` with `a.b.c=value` overrides laid over it; values are read as YAML.

    Raises:
        ConfigError: An override has no `=`, or goes through something that is not a section.
    """
    merged: dict[str, Any] = json.loads(json.dumps(data, default=str))
    for override in overrides:
        name, sign, text = override.partition("=")
        if not sign or not name.strip():
            raise ConfigError("override", override, "needs the form section.setting=value, as in train.lr=3e-4")
        try:
            value = _scalar(text)
        except yaml.YAMLError:
            raise ConfigError(name, text, "needs a YAML value") from None
        *sections, last = name.strip().split(".")
        target = merged
        for section in sections:
            target = target.setdefault(section, {})
            if not isinstance(target, dict):
                raise ConfigError(name, value, f"needs {section!r} to be a section, but it is a value")
        target[last] = value
    return merged


def _scalar(text: str) -> Any:
    # YAML 1.1 reads 3e-4 as a string because it has no dot; everybody means a number.
    value = yaml.safe_load(text)
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def config_json(config: BaseModel) -> dict[str, Any]:
    """The config as plain JSON values, every default filled in."""
    data: dict[str, Any] = json.loads(config.model_dump_json())
    return data
