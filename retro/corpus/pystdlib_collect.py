"""Writes the documentation inside the running interpreter as JSON lines. Run as a script, in a process of its own.

Importing four hundred modules leaves traces (open handles, changed defaults, printed lines), so nothing else
happens in the process that does it. Only the standard library is imported, and none of its modules that open a
window or a browser, print at import, or run tests.
"""

from __future__ import annotations

import builtins
import contextlib
import functools
import importlib
import importlib.util
import inspect
import json
import os
import re
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path

# Side effects at import, a display, a test suite; modules of other systems; modules without text of their own.
SKIPPED_MODULES = frozenset(("antigravity", "this", "idlelib", "test", "tkinter", "turtle", "turtledemo"))
SKIPPED_MODULES |= frozenset(("site", "sitecustomize", "usercustomize", "readline", "rlcompleter", "ensurepip"))
SKIPPED_MODULES |= frozenset(("lib2to3", "msilib", "msvcrt", "nt", "winreg", "winsound"))
SKIPPED_MODULES |= frozenset(("encodings", "pydoc_data"))
SKIPPED_PARTS = frozenset(("__main__", "test", "tests", "idle_test", "lib2to3", "testmock"))

Entry = dict[str, str]
_ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]+")
_ROUTINES = (
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.ClassMethodDescriptorType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
    property,
    functools.cached_property,
)


def module_names() -> list[str]:
    """Public standard-library modules and their submodules, sorted; none is imported to find them."""
    tops = [name for name in sys.stdlib_module_names if not name.startswith("_") and name not in SKIPPED_MODULES]
    return sorted(part for top in tops for part in (top, *_submodules(top)))


def _submodules(package: str) -> list[str]:
    found = []
    spec = None
    with contextlib.suppress(ImportError, ValueError, AttributeError):
        spec = importlib.util.find_spec(package)
    for place in (spec.submodule_search_locations or []) if spec else []:
        for directory, folders, files in os.walk(place):
            folders[:] = sorted(f for f in folders if f.isidentifier() and not _hidden(f))
            inside = Path(directory).relative_to(place).parts
            stems = [Path(file).stem for file in files if file.endswith(".py")]
            found += [".".join((package, *inside, stem)) for stem in stems if not _hidden(stem)]
            found += [".".join((package, *inside, folder)) for folder in folders]
    return sorted(set(found))


def _hidden(part: str) -> bool:
    return part.startswith("_") or part in SKIPPED_PARTS


def topics() -> Iterator[Entry]:
    """The language reference that `help()` shows, one entry per topic."""
    try:
        from pydoc_data.topics import topics as texts
    except ImportError:
        return
    for name in sorted(texts):
        yield {"id": f"topic:{name}", "title": name, "text": texts[name].strip("\n")}


def docstrings() -> Iterator[Entry]:
    """Each public object's own docstring below its qualified name."""
    for name in module_names():
        module = _import(name)
        if module is not None:
            yield from _entry(name, module)
            yield from _members(name, module)


def _import(name: str) -> types.ModuleType | None:
    try:
        return importlib.import_module(name)
    # Modules of other systems fail in many ways, some by leaving the interpreter.
    except (Exception, SystemExit):  # noqa: BLE001
        return None


def _members(prefix: str, module: types.ModuleType) -> Iterator[Entry]:
    exported = frozenset(getattr(module, "__all__", ()))
    for name, value in sorted(vars(module).items()):
        if name.startswith("_") or not _at_home(prefix, name, value, exported):
            continue
        if isinstance(value, type):
            yield from _class_entries(f"{prefix}.{name}", value)
        elif isinstance(value, _ROUTINES):
            yield from _entry(f"{prefix}.{name}", value)


def _at_home(prefix: str, name: str, value: object, exported: frozenset[str]) -> bool:
    """Whether `prefix.name` is the name under which people know `value`, and not an import of another module."""
    owner = getattr(value, "__module__", None)
    if prefix == "builtins" or owner == prefix:
        return True
    # `__all__` takes in what C modules and submodules define; an alias of a built-in is the built-in.
    return getattr(builtins, name, None) is not value and (owner == f"_{prefix}" or name in exported)


def _class_entries(name: str, value: type) -> Iterator[Entry]:
    yield from _entry(name, value)
    for part, member in sorted(vars(value).items()):
        routine = member.__func__ if isinstance(member, staticmethod | classmethod) else member
        if isinstance(routine, type):
            # Other classes stand here as attributes too; they have a home of their own.
            if not part.startswith("_") and routine.__qualname__ == f"{value.__qualname__}.{part}":
                yield from _class_entries(f"{name}.{part}", routine)
        elif isinstance(routine, _ROUTINES) and (not part.startswith("_") or part == "__init__"):
            yield from _entry(f"{name}.{part}", routine)


def _entry(name: str, value: object) -> Iterator[Entry]:
    text = getattr(value, "__doc__", None)
    # An address differs from run to run: such texts are made by the machine, and left out.
    if isinstance(text, str) and text.strip() and not _ADDRESS.search(text):
        yield {"id": name, "title": name, "text": f"{name}\n\n{inspect.cleandoc(text)}"}


def collect() -> Iterator[Entry]:
    """All entries in a fixed order; of several with the same docstring or the same name, the first."""
    texts: set[str] = set()
    names: set[str] = set()
    for entry in (*topics(), *docstrings()):
        name = entry["id"]
        text = " ".join(entry["text"].removeprefix(name).split())
        if text not in texts and name not in names:
            texts.add(text)
            names.add(name)
            yield entry


def main(path: str) -> None:
    """Write `{"id", "title", "text"}` lines to `path`."""
    warnings.simplefilter("ignore")
    with Path(path).open("w", encoding="utf-8") as out:
        for entry in collect():
            out.write(json.dumps(entry, ensure_ascii=True) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
