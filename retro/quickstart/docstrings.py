"""The documentation inside installed Python packages as a text corpus: read from their source, nothing imported or run.

Docstrings that are made when a package is imported (C extensions, filled-in templates) are not seen; what is in the
source is, for any version of a package, in any folder, under any Python that can parse it.
"""

from __future__ import annotations

import ast
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from retro.common.errors import DataError
from retro.common.files import atomic_path
from retro.common.optional import package_folder

log = logging.getLogger(__name__)

_SKIPPED = frozenset(("tests", "test", "testing", "_vendor", "vendored", "node_modules"))
Owner: TypeAlias = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
_OWNERS = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True, kw_only=True)
class DocstringCounts:
    """What was written, and what was passed over."""

    documents: int
    words: int
    short: int
    """Docstrings of fewer words than asked for."""
    repeated: int
    """Docstrings whose words stand in an earlier one of the same package."""
    unreadable: int
    """Files that this Python cannot parse or this user cannot read."""


def write_docstrings(path: Path, packages: Sequence[Path], *, min_words: int = 60) -> DocstringCounts:
    """Write the docstrings of packages to `path` as JSON lines of `id`, `title` and `text`, in a fixed order.

    Args:
        path: The file to write.
        packages: Their folders; two versions of one package are two folders, and nothing of one is held against the
            other.
        min_words: Shorter docstrings are passed over.

    Raises:
        DataError: A folder has no such docstring.
    """
    total = [0] * 5
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as out:
        for number, package in enumerate(packages):
            counts = _write(out.write, number, package, min_words)
            if not counts[0]:
                problem = f"has no docstring of {min_words} words in a .py file"
                raise DataError(package, problem, "Give the folder of an installed package, or fewer words")
            log.info("docstrings: %s: %d documents, %d words", package, *counts[:2])
            total = [before + more for before, more in zip(total, counts, strict=True)]
    return DocstringCounts(
        documents=total[0], words=total[1], short=total[2], repeated=total[3], unreadable=total[4]
    )  # fmt: skip


def installed_package(name: str) -> Path:
    """Where a package of the running Python is; it is not imported.

    Raises:
        DataError: It is not installed, or is a single module.
    """
    folder = package_folder(name) if name.isidentifier() else None
    if folder is None:
        raise DataError(name, "no such package is installed", "Install it, or give the folder of one")
    return folder


def _write(write: Callable[[str], int], number: int, package: Path, min_words: int) -> list[int]:
    counts, seen, names = [0] * 5, set[str](), set[str]()
    for file in sorted(path for path in package.rglob("*.py") if path.is_file()):
        if _SKIPPED.intersection(file.relative_to(package).parts):
            continue
        try:
            found = list(_docstrings(file, package))
        except (SyntaxError, ValueError, RecursionError, PermissionError):
            counts[4] += 1
            continue
        for name, text in found:
            words = text.split()
            if len(words) < min_words:
                counts[2] += 1
            elif " ".join(words) in seen or name in names:
                counts[3] += 1
            else:
                seen.add(" ".join(words))
                names.add(name)
                line = {"id": f"{number}:{name}", "title": name, "text": f"{name}\n\n{text}"}
                write(json.dumps(line, ensure_ascii=True) + "\n")
                counts[0], counts[1] = counts[0] + 1, counts[1] + len(words)
    return counts


def _docstrings(file: Path, package: Path) -> Iterator[tuple[str, str]]:
    """Qualified names and cleaned docstrings of a module and all that is defined in it."""
    parts = (package.name, *file.relative_to(package).with_suffix("").parts)
    module = ".".join(part for part in parts if part != "__init__")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Other people's invalid escapes.
        tree = ast.parse(file.read_bytes())
    yield from _inside(tree, module)


def _inside(node: Owner, name: str) -> Iterator[tuple[str, str]]:
    text = ast.get_docstring(node)
    if text:
        yield name, text
    for child in node.body:
        if isinstance(child, _OWNERS):
            yield from _inside(child, f"{name}.{child.name}")
