"""The parts of the reference that are generated from the code: every setting, the HTTP API, the Python API."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

_NAMES = {Path: "path", str: "text", int: "integer", float: "number", bool: "true or false", type(None): "null"}
_NAMES |= {Any: "anything"}
_BOUNDS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}


def type_name(kind: Any, metadata: tuple[Any, ...] = ()) -> str:
    """A type as users write its values: `integer > 0`, `"cosine" or "linear"`, `list of path`."""
    bounds = [
        f" {sign} {getattr(one, name)}" for one in metadata for name, sign in _BOUNDS.items() if hasattr(one, name)
    ]
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        name = type_name(inner[0], _parts(inner[1:]))
    elif origin is Literal:
        name = " or ".join(f"`{one!r}`" for one in inner)
    elif origin in (Union, types.UnionType):
        name = " or ".join(type_name(one) for one in inner)
    elif origin is tuple:
        members = [type_name(one) for one in inner if one is not ...]
        name = f"list of {members[0]}" if ... in inner else f"[{', '.join(members)}]"
    elif origin is dict:
        name = f"{type_name(inner[1])} by name"
    elif isinstance(kind, type) and issubclass(kind, BaseModel):
        name = "section"
    else:
        name = _NAMES.get(kind, getattr(kind, "__name__", str(kind)))
    return name + "".join(bounds)


def _parts(metadata: tuple[Any, ...]) -> tuple[Any, ...]:
    """Constraints, those within a pydantic Field too."""
    return tuple(part for one in metadata for part in getattr(one, "metadata", (one,)))


def _sections(kind: Any) -> list[type[BaseModel]]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [kind]
    return [section for inner in get_args(kind) for section in _sections(inner)]


def settings(
    section: type[BaseModel], prefix: str = "", package: str = "retro."
) -> Iterator[tuple[str, str, str, str]]:
    """Name, type, default and description of every setting of a section, and of the sections within it.

    Args:
        section: A pydantic model.
        prefix: Of the names, with its dot.
        package: Sections from elsewhere have one row.
    """
    from retro.common.config import setting_docs

    docs = setting_docs(section)
    for name, field in section.model_fields.items():
        within = [one for one in _sections(field.annotation) if f"{one.__module__}.".startswith(package)]
        # Of a section whose own default follows from another setting of it.
        follows = field.default_factory_takes_validated_data
        value = None if field.is_required() or follows else field.get_default(call_default_factory=True)
        many = get_origin(field.annotation) in (tuple, dict) and bool(within)
        shown = "" if isinstance(value, BaseModel) or many else f"`{_yaml(value)}`"
        shown = "needed" if field.is_required() else "from others" if follows else shown
        yield f"{prefix}{name}", type_name(field.annotation, _parts(tuple(field.metadata))), shown, docs.get(name, "")
        for one in within:
            yield from settings(one, f"{prefix}{name}{'[]' if many else ''}.", package)


def _yaml(value: Any) -> str:
    """A default in one line, as YAML and the command line take it."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_yaml, value))}]"
    return repr(str(value)) if value in ("", "\n") or (isinstance(value, str) and not value.strip()) else str(value)


def _table(rows: Iterator[tuple[str, ...]], *heads: str) -> str:
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    lines += [f"| {' | '.join(' '.join(cell.split()).replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def configuration() -> str:
    """Every setting of a run and of its recipes: one heading a section, one table each."""
    from retro.common.config import setting_docs
    from retro.recipes.base import RECIPES
    from retro.run.config import RunConfig

    heads, docs, parts = ("setting", "type", "default", "what it is"), setting_docs(RunConfig), []
    plain = [row for row in settings(RunConfig) if "." not in row[0] and row[1] != "section"]
    parts.append("## The run\n\n" + _table(_code_first(iter(plain)), *heads))
    for name, field in RunConfig.model_fields.items():
        for section in _sections(field.annotation):
            rows = _code_first(settings(section, f"{name}."))
            parts.append(f"## `{name}`\n\n{docs.get(name, '')}\n\n{_table(rows, *heads)}")
    for name in sorted(RECIPES.built_in):
        recipe = RECIPES.find(name, "recipe")
        package = recipe.config.__module__.rpartition(".")[0] + "."
        rows = _code_first(settings(recipe.config, f"recipe.{name}.", package))
        parts.append(f"## `recipe.{name}`\n\n{recipe.summary}\n\n{_table(rows, *heads)}")
    return "\n".join(parts)


def _code_first(rows: Iterator[tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
    return ((f"`{first}`", *others) for first, *others in rows)


def http_api() -> str:
    """Every route of the server, and the fields of every body, from its OpenAPI document."""
    from fastapi import FastAPI

    from retro.serve.app import generating, reading, retrieving

    app = FastAPI(title="instruct-retro")
    for router in (generating, reading, retrieving):
        app.include_router(router)
    document = app.openapi()
    parts = []
    for path, operations in document["paths"].items():
        for verb, operation in operations.items():
            # What FastAPI would answer to invalid parameters is 400 here.
            answers = (
                (f"`{status}`", one["description"]) for status, one in operation["responses"].items() if status != "422"
            )
            said = operation.get("description", operation.get("summary", ""))
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            takes = f"\n\nBody: {_schema(body)}." if body else ""
            parts.append(f"## `{verb.upper()} {path}`\n\n{said}{takes}\n\n{_table(answers, 'status', 'meaning')}")
    skipped = {"HTTPValidationError", "ValidationError"}
    for name, schema in sorted(document["components"]["schemas"].items()):
        if name not in skipped and "properties" in schema:
            fields = _fields(schema)
            parts.append(
                f"## {name}\n\n{schema.get('description', '')}\n\n{_table(fields, 'field', 'type', 'what it is')}"
            )
    return "\n".join(parts)


def _fields(schema: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    needed = schema.get("required", ())
    for name, field in schema["properties"].items():
        kind = _schema(field) + (", needed" if name in needed else "")
        yield f"`{name}`", kind, field.get("description", "")


def _schema(schema: dict[str, Any]) -> str:
    """A JSON schema in words; a body's name is a link to its table."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"`{name}`"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_schema(one) for one in schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        return " or ".join(f"`{one!r}`" for one in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"list of {_schema(schema.get('items', {}))}"
    return str(schema.get("type", "anything"))


def python_api() -> str:
    """Signatures and docstrings of what `retro` exports, and of what it hands out."""
    import retro
    from retro.api.artifacts import Artifacts

    classes = [getattr(retro, name) for name in retro.__all__ if inspect.isclass(getattr(retro, name))]
    return "\n".join(_class(one) for one in sorted({*classes, Artifacts}, key=lambda one: one.__name__))


def _class(kind: type) -> str:
    parts = [f"## `{kind.__module__}.{kind.__name__}`\n\n{_prose(kind)}\n"]
    for name, member in vars(kind).items():
        if name.startswith("_"):
            continue
        plain = getattr(member, "__func__", getattr(member, "fget", getattr(member, "func", member)))
        if not callable(plain) or not plain.__doc__:
            continue
        shown = str(inspect.signature(plain)) if callable(member) or hasattr(member, "__func__") else ""
        shown = re.sub(r"^\((self|cls)(, )?", "(", shown)
        parts.append(f"### `{kind.__name__}.{name}`\n\n```python\n{name}{shown}\n```\n\n{_prose(plain)}\n")
    return "\n".join(parts)


def _prose(owner: Any) -> str:
    """A docstring as Markdown: each of its sections, such as `Args:`, becomes a list."""
    lines: list[str] = []
    within = 0
    for line in inspect.cleandoc(owner.__doc__ or "").splitlines():
        if re.fullmatch(r"(Args|Returns|Raises|Attributes|Yields):", line):
            lines += [f"**{line[:-1]}**", ""]
            within = 1
        elif within and line.startswith("    ") and not line.startswith("     "):
            lines.append(re.sub(r"^    (\w+): ", r"* `\1`: ", line) if re.match(r"    \w+: ", line) else line.strip())
        else:
            lines.append(f"  {line.strip()}" if within and line else line)
    return "\n".join(lines)


GENERATED = {"configuration": configuration, "http-api": http_api, "python-api": python_api}


def filled_in(markdown: str) -> str:
    """A page with what its markers name, `<!-- generated: configuration -->`, in their place."""
    return re.sub(r"<!-- generated: ([a-z-]+) -->", lambda found: GENERATED[found[1]](), markdown)
